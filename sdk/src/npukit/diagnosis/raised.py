"""Wider types for the sources of a model's error: an encodings file that is accepted and seen to help."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import attrs

from npukit.backend import Backend, Target
from npukit.diagnosis.outputs import outputs_sqnr
from npukit.diagnosis.remedies import WORTH, Candidate, widen, with_gain
from npukit.diagnosis.study import Study
from npukit.encoding import Encoding
from npukit.encoding.formats import read_encodings, write_encodings
from npukit.events import OnEvent, ignore
from npukit.plugins import Registry
from npukit.quantization import Options, Quantized, Source

_RANKING = 32
"""Samples that the layers are ranked on: every layer is run on each of them, and a few dozen tell the order."""


@attrs.frozen(eq=False)
class Raised:
    """``text`` is an encodings file that raises the sources of the error in ``layers``, ``raised`` the tensors that it raises.

    ``before`` and ``after`` are the SQNR of every output on the target, in dB, without and with it. Where nothing gains half a
    decibel at the worst output, ``text`` is "" and ``why`` says what was found.
    """

    text: str = ""
    layers: tuple[str, ...] = ()
    raised: tuple[str, ...] = ()
    before: Mapping[str, float] = attrs.field(factory=dict)
    after: Mapping[str, float] = attrs.field(factory=dict)
    why: str = ""

    @property
    def gain(self) -> float:
        """What the worst output gains, in dB; 0.0 when nothing was run."""
        return _gain(self.before, self.after) if self.after else 0.0


def raise_sources(
    source: Any,
    backend: str | Backend | Target = "",
    *,
    data: Any,
    calibration: Any = None,
    options: Options | None = None,
    worst: int = 5,
    kernels: str = "",
    reference: Any = None,
    registry: Registry | None = None,
    on_event: OnEvent = ignore,
) -> Raised:
    """Raise the ``worst`` layers to wider types: those whose own quantization costs the outputs most, as ``analyze`` finds them.

    The first samples rank the layers. Wider weights, wider outputs and both are tried in Q/DQ simulation, where the op constraints
    accept them; the best is quantized as its file will be, and run on the backend itself, both on all of ``data``. The parameters
    are those of ``compare``. Raises what ``analyze`` raises.
    """
    registry = registry or Registry.load()
    study = Study.of(
        source,
        backend,
        data=data,
        calibration=calibration,
        options=options,
        most=_RANKING,
        registry=registry,
        on_event=on_event,
    )
    found = widen(study.shop, study.diagnoses(worst))
    if not found:
        return Raised(why="no wider type of the worst layers is accepted by the op constraints")
    best = _best(study, found)
    if (best.remedy.gain or 0.0) < WORTH:
        return Raised(why=f"wider types of the worst layers gain {best.remedy.gain:+.1f} dB in simulation")
    text, model = _as_file(study, best)
    if model is None:
        return Raised(why="the wider types of the worst layers cannot be written as a file that the op constraints accept")
    exact = Source(study.shop.graph) if reference is None else reference
    seen = partial(outputs_sqnr, reference=exact, target=study.shop.target, batches=study.batches, kernels=kernels)
    before, after = (seen(m, strict=study.shop.options.strict, registry=registry).sqnr for m in (study.model, model))
    if _gain(before, after) < WORTH:
        return Raised(before=before, after=after, why=f"wider types of the worst layers gain {_gain(before, after):+.1f} dB")
    return Raised(text, tuple(best.remedy.reasons), tuple(sorted(best.remedy.overrides)), before, after)


def _gain(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    a, b = min(before.values()), min(after.values())
    return 0.0 if a == b else b - a


def _best(study: Study, found: list[Candidate]) -> Candidate:
    """The candidate that gains most in simulation; of equal ones that with the fewest encodings."""
    levels = study.measure({"": study.model, **{c.remedy.action: c.model for c in found if c.model is not None}})
    tried = [attrs.evolve(c, remedy=with_gain(c.remedy, levels[""], levels[c.remedy.action])) for c in found]
    return max(tried, key=lambda c: (round(c.remedy.gain or 0.0, 1), -len(c.remedy.overrides)))


def _as_file(study: Study, best: Candidate) -> tuple[str, Quantized | None]:
    """The overrides as a file, those of before included, and the model that it makes when it is read again.

    Tensors that only the prepared graph has are left out: a file cannot name them.
    """
    graph = study.origin.graph
    before = {n: e for n, e in study.shop.encodings.items() if e.origin == "override"} | dict(study.origin.overrides or {})
    wanted: dict[str, Encoding] = {n: e for n, e in {**before, **best.remedy.overrides}.items() if n in graph.tensors}
    text = write_encodings(wanted, graph)
    read = read_encodings(text.encode(), graph)
    return text, study.shop.attempt(overrides={**study.shop.overrides, **read.encodings})
