"""Run a model on several backends and say where they part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import attrs
import numpy as np

from npukit.backend import Backend, Target
from npukit.calibration import open_data
from npukit.diagnosis.opened import Opened, open_all
from npukit.diagnosis.sqnr import Agreement, Meter, TensorRow, decibels_of, inner_tensors
from npukit.encoding import Array, Encoding
from npukit.errors import ConstraintError, DataError
from npukit.events import Event, OnEvent, ignore
from npukit.graph import Graph
from npukit.plugins import Registry
from npukit.quantization import Options


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
    opened = open_all(
        source,
        backends,
        data=data,
        calibration=calibration,
        options=options,
        kernels=kernels,
        reference=reference,
        registry=registry,
        on_event=on_event,
    )
    graph, sessions, exact = opened.graph, opened.sessions, opened.exact
    inner = set().union(*(inner_tensors(s.program.graph, s.program.encodings) for s in sessions.values()))
    known = [s.program.graph.tensors for s in (exact, *sessions.values())]
    names = [n for n in graph.float_activations() if n not in inner and all(n in tensors for tensors in known)]
    pair = tuple(label for label, s in sessions.items() if not s.ignores_encodings)[-2:]
    pair = pair if len(pair) == 2 else ()
    notes = opened.notes
    samples = 0
    with opened:
        batches = open_data(data, graph, limit=options.limit if options else None)
        total = len(batches) if isinstance(batches, Sized) else None
        for feeds in batches:
            if not samples:
                names, notes, got = _first(opened, names, feeds)
                meter = Meter(graph, names, list(sessions), refuse=graph.outputs)
                codes = _CodeMeter(_common_grids(names, *(sessions[label].program.encodings for label in pair)) if pair else {})
            else:
                got = {label: session.run(feeds, names) for label, session in sessions.items()}
            wanted = exact.run(feeds, names)
            meter.see(wanted)
            for label in got:
                meter.add(label, wanted, got[label])
            if pair:
                codes.add(got[pair[0]], got[pair[1]])
            samples += 1
            on_event(Event("compare", samples, total))
    if not samples:
        raise DataError("there is no data to compare on")
    rows = [attrs.evolve(row, agreement=codes.agreement(row.name)) for row in meter.rows(graph)]
    encodings = {label: dict(s.program.encodings) for label, s in sessions.items()}
    outputs = tuple(r for r in rows if r.name in graph.outputs)
    return Comparison(opened.title, tuple(sessions), pair, samples, outputs, tuple(rows), encodings, graph, notes)


def _first(
    opened: Opened, names: list[str], feeds: Mapping[str, Array]
) -> tuple[list[str], tuple[str, ...], dict[str, dict[str, Array]]]:
    """The tensors that every backend shows, the notes, with one more when these are the outputs alone, and the first results."""
    try:
        return names, opened.notes, {label: session.run(feeds, names) for label, session in opened.sessions.items()}
    except ConstraintError as error:
        outputs = list(opened.graph.outputs)
        found = {label: session.run(feeds, outputs) for label, session in opened.sessions.items()}  # may be refused as well
        return outputs, (*opened.notes, f"only outputs are compared, as what is between does not show: {error}"), found


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
