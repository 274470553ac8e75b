"""Say which layers of a quantized model lose the accuracy, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from npukit.backend import Backend, Soc, Target
from npukit.diagnosis.remedies import Remedy, Workshop, find_remedies
from npukit.diagnosis.sqnr import TensorRow
from npukit.diagnosis.statistics import TensorStats
from npukit.diagnosis.study import Study
from npukit.diagnosis.survey import LayerRow, ranked
from npukit.encoding import Encoding, has_original_weights
from npukit.events import OnEvent, ignore
from npukit.graph import Graph
from npukit.plugins import Registry
from npukit.quantization import Options

_CODES_ONLY = (
    "the package has the codes of its weights and not their float values, so the error of the weights does not show: "
    "analyze the original model, or make the package with --keep-float"
)


@attrs.frozen(eq=False)
class Analysis:
    """SQNR per layer and per tensor, ranges, and what to do.

    ``layers`` are in order of depth. ``outputs`` and ``tensors`` compare the model quantized as a whole with the float model: "all"
    of it, its "weights" only, its "activations" only. ``statistics`` are the ranges of all tensors, quantized constants included.
    ``remedies`` are what helps: first what costs nothing on the chip, then wider types, and of these what helps most; ``refuted``
    was tried and does not help. ``notes`` are what a reader should know. ``overrides`` are the encodings that remedies with wider
    types ask for and those that were overrides before, for ``Request(overrides=...)``. ``layer_samples`` are the samples, of all
    ``samples``, that every layer was quantized alone in: fewer where a network of many layers would take too long.
    """

    backend: str
    soc: Soc
    samples: int
    outputs: tuple[TensorRow, ...]
    layers: tuple[LayerRow, ...]
    tensors: tuple[TensorRow, ...]
    statistics: tuple[TensorStats, ...]
    remedies: tuple[Remedy, ...]
    refuted: tuple[Remedy, ...]
    overrides: Mapping[str, Encoding]
    encodings: Mapping[str, Encoding]
    graph: Graph
    notes: tuple[str, ...] = ()
    layer_samples: int = 0

    def worst(self, count: int) -> tuple[LayerRow, ...]:
        """The ``count`` layers with the lowest SQNR when only they are quantized, worst first; those without error are left out."""
        return tuple(self.layers[i] for i in ranked(self.layers)[:count])


def analyze(
    source: Any,
    backend: str | Backend | Target = "",
    *,
    data: Any,
    calibration: Any = None,
    options: Options | None = None,
    worst: int = 10,
    registry: Registry | None = None,
    on_event: OnEvent = ignore,
) -> Analysis:
    """Measure what each layer of a quantized model costs, find out why, and try what could be done about the ``worst`` ones.

    A float model is quantized for the backend first, on ``calibration`` or else on ``data`` itself; a package is taken with the
    encodings it has. The arithmetic is that of Q/DQ nodes in float on ONNX Runtime, SQNR that of ``npukit.diagnosis.sqnr``. Memory
    does not grow with the number of samples; the data is read several times. Raises what ``quantize`` raises, UsageError for a
    model that is not quantized, DataError for NaN or infinite values.
    """
    study = Study.of(source, backend, data=data, calibration=calibration, options=options, registry=registry, on_event=on_event)
    return _conclude(study, worst)


def _conclude(study: Study, worst: int) -> Analysis:
    """The remedies for the worst layers, and everything that was found."""
    shop, survey = study.shop, study.survey
    tensors, layers = survey.tensors(), survey.layers()
    outputs = tuple(r for r in tensors if r.name in survey.cuts.ends)
    remedies, refuted = find_remedies(shop, study.diagnoses(worst), study.before(), study.measure)
    advised = (attrs.evolve(r, advice=tuple(x.action for x in remedies if r.name in x.reasons)) for r in layers)
    return Analysis(
        shop.target.backend.name,
        shop.target.soc,
        survey.samples,
        outputs,
        tuple(advised),
        tuple(tensors),
        study.statistics,
        remedies,
        refuted,
        _overrides(shop, remedies),
        shop.encodings,
        shop.graph,
        () if has_original_weights(shop.graph) else (_CODES_ONLY,),
        survey.alone,
    )


def _overrides(shop: Workshop, remedies: Iterable[Remedy]) -> dict[str, Encoding]:
    """The encodings of all wider types where they are accepted together, else of the remedy that helps most."""
    wider = [r.overrides for r in remedies if r.overrides]
    if not wider:
        return {}
    union = {n: e for found in reversed(wider) for n, e in found.items()}
    before = {n: e for n, e in shop.encodings.items() if e.origin == "override"}
    return {**before, **(shop.accept(union) or wider[0])}
