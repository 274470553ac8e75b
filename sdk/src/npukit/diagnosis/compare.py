"""Run a model on several backends and say where they part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import attrs
import numpy as np

from npukit.backend import Backend, KernelBackend, Scheme, Target
from npukit.calibration import open_data
from npukit.diagnosis.sqnr import Agreement, Meter, TensorRow, decibels_of, inner_tensors
from npukit.encoding import Array, Encoding, has_original_weights
from npukit.errors import DataError, UsageError
from npukit.events import Event, OnEvent, ignore
from npukit.graph import Graph
from npukit.plugins import FLOAT_BACKEND, REFERENCE, Registry
from npukit.quantization import Options, Quantized, Source, open_session, quantize, read_source, resolve
from npukit.quantization.session import KERNELS_HINT


@attrs.frozen(eq=False)
class Comparison:
    """SQNR of every tensor on each backend against the float reference, and the agreement of two backends code by code.

    SQNR = 10 log10(sum x^2 / sum (x - y)^2) over all samples, in dB. ``pair`` names the last two backends that compute with
    encodings, () when there are not two: the first of them is judged by the second. ``notes`` are what a reader should know.
    """

    reference: str
    backends: tuple[str, ...]
    pair: tuple[str, ...]
    samples: int
    outputs: tuple[TensorRow, ...]
    tensors: tuple[TensorRow, ...]
    encodings: Mapping[str, Mapping[str, Encoding]]
    graph: Graph
    notes: tuple[str, ...] = ()
    schemes: Mapping[str, Scheme] = attrs.field(factory=dict)

    def worst(self, count: int, backend: str = "") -> tuple[TensorRow, ...]:
        """The ``count`` quantized tensors with the lowest SQNR on ``backend`` (the last one compared by default), worst first."""
        label = backend or self.backends[-1]
        known = self.encodings.get(label, {})
        rows = [r for r in self.tensors if r.name in known and np.isfinite(r.sqnr[label])]
        return tuple(sorted(rows, key=lambda r: (r.sqnr[label], r.depth))[:count])

    def raised(self, count: int, backend: str = "") -> dict[str, Encoding]:
        """Encodings that raise the worst ``count`` 8-bit tensors to 16 bits; tensors of one grid rise together."""
        label = backend or self.backends[-1]
        known = self.encodings.get(label, {})
        ranges = {r.name: (r.low, r.high) for r in self.tensors}
        names = [r.name for r in self.worst(len(self.tensors), label) if known[r.name].bits < 16][:count]
        found: dict[str, Encoding] = {}
        for name in names:
            # Tensors on one grid were tied by a rule of the backend, so they must rise together.
            family = [n for n, e in known.items() if e is known[name] or (n in ranges and e.same_grid(known[name]))]
            low, high = min(ranges[n][0] for n in family if n in ranges), max(ranges[n][1] for n in family if n in ranges)
            dtype = f"{'' if known[name].signed else 'u'}int16"
            wide = self.schemes.get(label, Scheme()).activation(low, high, dtype, symmetric=known[name].symmetric)
            found |= dict.fromkeys(family, wide)
        return found


def compare(
    source: Any,
    backends: Sequence[str | Backend | Target] | Mapping[str, Target] = (),
    *,
    data: Any,
    calibration: Any = None,
    options: Options | None = None,
    kernels: str = "",
    reference: Any = None,
    registry: Registry | None = None,
    on_event: OnEvent = ignore,
) -> Comparison:
    """Run ``source`` on every backend and compare all tensors with the float model.

    ``backends``: selectors, backends or targets, or targets by label; the float reference and the one that the model is for when
    there are none. A model that carries no encodings is quantized for each backend first, on ``calibration`` or else on ``data``
    itself. Tensors are compared by name; memory does not grow with the number of samples. ``kernels`` is that of ``open_session``,
    for the emulators among the backends. ``reference`` is the float model to compare with; None is ``source`` itself without its
    encodings, which is another model than the original when optimizers have changed its weights. ``options.strict`` False runs what
    the backend refuses.

    Raises UsageError when ``reference`` lacks an output; DataError without samples, and for outputs of other shapes or none.
    """
    options = options or Options()
    registry = registry or Registry.load()
    origin = read_source(source, registry=registry)
    targets = _targets(backends or (FLOAT_BACKEND, ""), origin, registry)
    emulators = {label for label, target in targets.items() if isinstance(target.backend, KernelBackend)}
    if kernels and not emulators:
        raise UsageError(f"none of {', '.join(targets)} has kernels to choose from", hint=KERNELS_HINT)
    anew = origin.overrides is not None or (origin.manifest is not None and bool(options.decisions()))
    models: dict[str, Source | Quantized] = {}
    for label, target in targets.items():
        ready = target.ignores_encodings or (origin.encodings and not anew)
        samples = data if calibration is None else calibration
        made = origin if ready else quantize(origin, target, data=samples, options=options, registry=registry, on_event=on_event)
        models[label] = made
    # The float model is that of the first quantized one: its names are the ones to compare by.
    base = next((m for m in models.values() if isinstance(m, Quantized)), None)
    graph = base.graph if base is not None else origin.graph
    sessions = {}
    for label, model in models.items():
        sessions[label] = open_session(
            model,
            targets[label],
            kernels=kernels if label in emulators else "",
            strict=options.strict,
            float_fallback=options.float_fallback,
            registry=registry,
        )
    judge = origin if reference is None else read_source(reference, registry=registry)
    exact = open_session(Source(graph if reference is None else judge.graph), REFERENCE, registry=registry)
    inner = set().union(*(inner_tensors(s.program.graph, s.program.encodings) for s in sessions.values()))
    known = [s.program.graph.tensors for s in (exact, *sessions.values())]
    missing = [n for n in graph.outputs if n not in known[0]]
    if missing:
        raise UsageError(f"the reference has no tensor '{missing[0]}', an output of the model", hint="name the original model")
    names = [n for n in graph.float_activations() if n not in inner and all(n in tensors for tensors in known)]
    pair = tuple(label for label, s in sessions.items() if not s.ignores_encodings)[-2:]
    pair = pair if len(pair) == 2 else ()
    with exact:
        meter = Meter(graph, names, list(sessions), refuse=graph.outputs)
        codes = _CodeMeter(_common_grids(names, *(sessions[label].program.encodings for label in pair)) if pair else {})
        samples = 0
        batches = open_data(data, graph, limit=options.limit)
        total = len(batches) if isinstance(batches, Sized) else None
        for feeds in batches:
            wanted = exact.run(feeds, names)
            meter.see(wanted)
            got = {label: session.run(feeds, names) for label, session in sessions.items()}
            for label in got:
                meter.add(label, wanted, got[label])
            if pair:
                codes.add(got[pair[0]], got[pair[1]])
            samples += 1
            on_event(Event("compare", samples, total))
    if not samples:
        raise DataError("there is no data to compare on")
    for session in sessions.values():
        session.close()
    rows = [attrs.evolve(row, agreement=codes.agreement(row.name)) for row in meter.rows(graph)]
    encodings = {label: dict(s.program.encodings) for label, s in sessions.items()}
    outputs = tuple(r for r in rows if r.name in graph.outputs)
    title = REFERENCE if reference is None else f"{judge.name} on {REFERENCE}"
    notes = _weights_notes(origin) if reference is None else ()
    schemes = {label: target.scheme for label, target in targets.items()}
    return Comparison(title, tuple(sessions), pair, samples, outputs, tuple(rows), encodings, graph, notes, schemes)


def _targets(
    backends: Sequence[str | Backend | Target] | Mapping[str, Target], origin: Source, registry: Registry
) -> dict[str, Target]:
    """The targets by label: what they were asked for with, or their names."""
    if isinstance(backends, Mapping):
        return dict(backends)
    found: dict[str, Target] = {}
    for backend in backends:
        target = resolve(backend, origin, registry)
        named = backend if isinstance(backend, str) else target.name if isinstance(backend, Target) else ""
        found[named or target.backend.name] = target
    return found


def _weights_notes(origin: Source) -> tuple[str, ...]:
    """A note when the float weights of a package are not, or may not be, those of the model it was made from."""
    used = origin.manifest.options.get("optimize") if origin.manifest else None
    after = f" after {', '.join(map(str, used))}" if isinstance(used, (list, tuple)) and used else ""
    advice = f"name the original with --reference {origin.name}"
    if not has_original_weights(origin.graph):
        return (f"the weights compared with are those that the codes of the package stand for{after}: {advice}",)
    return (f"the weights compared with may be those{after}: {advice}",) if after else ()


def _common_grids(names: Iterable[str], a: Mapping[str, Encoding], b: Mapping[str, Encoding]) -> dict[str, Encoding]:
    """The tensors that both sides have on the same integer grid with one scale."""
    both = {n: (a[n], b[n]) for n in names if n in a and n in b}
    return {n: x for n, (x, y) in both.items() if not x.is_float and x.granularity == "tensor" and x.same_grid(y)}


class _CodeMeter:
    """Counts of equal and neighbouring codes per tensor, of two backends."""

    def __init__(self, grids: Mapping[str, Encoding]) -> None:
        self._grids = grids
        self._counts = {name: np.zeros(3, np.int64) for name in grids}  # all, equal, at most one step apart
        self._largest = dict.fromkeys(grids, 0)
        self._power = {name: np.zeros(2) for name in grids}  # of the signal, of the difference

    def add(self, a: Mapping[str, Array], b: Mapping[str, Array]) -> None:
        for name, grid in self._grids.items():
            x, y = np.asarray(a[name], np.float64).ravel(), np.asarray(b[name], np.float64).ravel()
            steps = np.abs(np.rint((x - y) / float(grid.steps)))
            self._counts[name] += np.array([steps.size, np.count_nonzero(steps == 0), np.count_nonzero(steps <= 1)])
            self._largest[name] = max(self._largest[name], int(steps.max(initial=0)))
            self._power[name] += (y @ y, (x - y) @ (x - y))

    def agreement(self, name: str) -> Agreement | None:
        if name not in self._grids or not self._counts[name][0]:
            return None
        total, equal, near = (int(n) for n in self._counts[name])
        signal, noise = (float(p) for p in self._power[name])
        return Agreement(equal / total, near / total, self._largest[name], decibels_of(signal, noise))
