"""Run a model on several backends and say where they part."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from functools import partial
from typing import Any

import attrs
import numpy as np

from npukit.backend import KernelBackend
from npukit.calibration.data import open_data
from npukit.encoding import Array, Encoding, encoding_for_range
from npukit.errors import DataError, UsageError
from npukit.events import Event, OnEvent, ignore
from npukit.graph import Graph
from npukit.plugins import Registry
from npukit.quantization.pipeline import Options, Quantized, Source, quantize, read_source
from npukit.quantization.session import KERNELS_HINT, open_session


@attrs.frozen
class Agreement:
    """How far two backends agree on one tensor of one grid: shares of equal codes and of codes at most one step apart, the
    largest difference in steps, and the SQNR of one against the other in dB (inf when equal)."""

    exact: float
    within_one: float
    largest: int
    sqnr: float


@attrs.frozen
class TensorRow:
    """One tensor: ``sqnr`` against the reference in dB per backend (inf when equal), ``depth`` its place in the graph.

    ``agreement`` is that of the pair of backends compared code by code, None where they have no common grid.
    """

    name: str
    op: str
    depth: int
    low: float
    high: float
    sqnr: Mapping[str, float]
    agreement: Agreement | None = None


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
            wide = encoding_for_range(low, high, f"{'' if known[name].signed else 'u'}int16", symmetric=known[name].symmetric)
            found |= dict.fromkeys(family, wide)
        return found


def compare(
    source: Any,
    *,
    backends: Sequence[str] = ("cpu", "htp"),
    data: Any,
    calibration: Any = None,
    options: Options | None = None,
    overrides: str | os.PathLike[str] | Mapping[str, Encoding] | None = None,
    lenient: bool = False,
    soc_file: str | os.PathLike[str] | None = None,
    registry: Registry | None = None,
    symbols: Mapping[str, int] | None = None,
    batch: int | None = None,
    kernels: str = "",
    reference: Any = None,
    on_event: OnEvent = ignore,
) -> Comparison:
    """Run ``source`` on every backend and compare all tensors with the float model on cpu.

    A model that carries no encodings is quantized for each backend first, on ``calibration`` or else on ``data`` itself. Tensors
    are compared by name; memory does not grow with the number of samples. ``kernels`` is that of ``open_session``, for the
    emulators among the backends. ``reference`` is the float model to compare with; None is ``source`` itself without its
    encodings, which is another model than the original when optimizers have changed its weights.

    Raises UsageError when no backend is named and when ``reference`` lacks an output; DataError without samples.
    """
    options = options or Options()
    registry = registry or Registry.load()
    if not backends:
        raise UsageError("no backend is named", hint="--backend cpu,htp")
    origin = read_source(source, registry=registry, symbols=symbols, batch=batch)
    make = partial(
        quantize,
        data=data if calibration is None else calibration,
        overrides=overrides,
        options=options,
        lenient=lenient,
        soc_file=soc_file,
        registry=registry,
        on_event=on_event,
    )
    models, emulators = {}, set()
    for label in dict.fromkeys(backends):
        backend, soc = registry.resolve(label, soc_file=soc_file)
        emulators |= {label} if isinstance(backend, KernelBackend) else set()
        ready = backend.ignores_encodings(soc) or (origin.encodings and overrides is None)
        models[label] = origin if ready else make(origin, backend=label)
    # The float model is that of the first quantized one: its names are the ones to compare by.
    base = next((m for m in models.values() if isinstance(m, Quantized)), None)
    graph = base.graph if base is not None else origin.graph
    if kernels and not emulators:
        raise UsageError(f"none of {', '.join(backends)} has kernels to choose from", hint=KERNELS_HINT)
    sessions = {}
    for label, model in models.items():
        form = kernels if label in emulators else ""
        sessions[label] = open_session(model, backend=label, soc_file=soc_file, registry=registry, kernels=form)
    judge = origin if reference is None else read_source(reference, registry=registry, symbols=symbols, batch=batch)
    exact = open_session(Source(graph if reference is None else judge.graph, {}), backend="cpu:float32", registry=registry)
    inner = set().union(*(_inner(s.program.graph, s.program.encodings) for s in sessions.values()))
    known = [s.program.graph.tensors for s in (exact, *sessions.values())]
    missing = [n for n in graph.outputs if n not in known[0]]
    if missing:
        raise UsageError(f"the reference has no tensor '{missing[0]}', an output of the model", hint="name the original model")
    names = [n for n in graph.float_activations() if n not in inner and all(n in tensors for tensors in known)]
    pair = tuple(label for label, s in sessions.items() if not s.ignores_encodings)[-2:]
    pair = pair if len(pair) == 2 else ()
    with exact:
        meter = _Meter(names, list(sessions))
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
    title = "cpu:float32" if reference is None else f"{judge.name} on cpu:float32"
    notes = _optimized(origin) if reference is None else ()
    return Comparison(title, tuple(sessions), pair, samples, outputs, tuple(rows), encodings, graph, notes)


def _optimized(origin: Source) -> tuple[str, ...]:
    """A note when the float weights of a package may not be those of the model it was made from."""
    used = origin.manifest.options.get("optimize") if origin.manifest else None
    if not isinstance(used, (list, tuple)) or not used:
        return ()
    names = ", ".join(map(str, used))
    return (f"the weights compared with may be those after {names}: name the original with --reference {origin.name}",)


def _inner(graph: Graph, encodings: Mapping[str, Encoding]) -> set[str]:
    """Tensors inside a fused op: they are clamped to the range behind it, so their own SQNR means nothing."""
    clamps = [n for n in graph.nodes if n.op in ("Relu", "Clip") and not n.domain]
    pairs = [(n.inputs[0], encodings.get(n.inputs[0]), encodings.get(n.outputs[0])) for n in clamps]
    return {name for name, a, b in pairs if a is not None and b is not None and a.same_grid(b)}


class _Meter:
    """Sums of squares per tensor and backend."""

    def __init__(self, names: Iterable[str], labels: Sequence[str]) -> None:
        self.names = list(names)
        self._labels = labels
        self._signal = dict.fromkeys(self.names, 0.0)
        self._noise = {label: dict.fromkeys(self.names, 0.0) for label in labels}
        self._low = dict.fromkeys(self.names, np.inf)
        self._high = dict.fromkeys(self.names, -np.inf)

    def see(self, wanted: Mapping[str, Array]) -> None:
        for name in self.names:
            values = np.asarray(wanted[name], np.float64).ravel()
            self._signal[name] += float(values @ values)
            self._low[name] = min(self._low[name], float(values.min(initial=np.inf)))
            self._high[name] = max(self._high[name], float(values.max(initial=-np.inf)))

    def add(self, label: str, wanted: Mapping[str, Array], got: Mapping[str, Array]) -> None:
        for name in self.names:
            error = (np.asarray(wanted[name], np.float64) - np.asarray(got[name], np.float64)).ravel()
            self._noise[label][name] += float(error @ error)

    def rows(self, graph: Graph) -> list[TensorRow]:
        depth = {name: index + 1 for index, node in enumerate(graph.nodes) for name in node.outputs}
        found = []
        for name in self.names:
            node = graph.producers.get(name)
            levels = {label: _decibel(self._signal[name], self._noise[label][name]) for label in self._labels}
            low, high = self._low[name], self._high[name]
            found.append(TensorRow(name, node.op if node else "input", depth.get(name, 0), low, high, levels))
        return found


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
        return Agreement(equal / total, near / total, self._largest[name], _decibel(signal, noise))


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return float("inf")
    # A tensor that overflowed on the way (float16, say) has no signal left.
    return float("-inf") if signal == 0 or not np.isfinite(noise) else 10 * float(np.log10(signal / noise))
