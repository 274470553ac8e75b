"""One profiling pass, every combination, one table."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from npukit.backend import Backend, Session, Target
from npukit.calibration import Batches, Feeds, Observer, Profile, find_observer, observe, open_data
from npukit.callbacks import score_of
from npukit.diagnosis.layers import measured
from npukit.errors import UsageError
from npukit.events import Event, OnEvent, ignore
from npukit.graph import Graph
from npukit.plugins import REFERENCE, Registry
from npukit.quantization import Options, Source, open_session, read_source, resolve
from npukit.quantization.calibrate import as_profile
from npukit.trials.axes import Axis, Over, applied, combinations, read_axes
from npukit.trials.spread import check_joblib, read_evaluator, try_all
from npukit.trials.trial import Evaluator, Stand, SweepRow, write_samples


@attrs.frozen(eq=False)
class Sweep:
    """The rows of all combinations in the order of the ``axes``. ``samples`` is how many samples each was run on, ``own_samples``
    whether these are other ones than those of calibration; ``float_score`` what the user's evaluator says of the float model."""

    target: str
    axes: tuple[Axis, ...]
    samples: int
    own_samples: bool
    rows: tuple[SweepRow, ...]
    float_score: float | None = None

    def ranked(self) -> tuple[SweepRow, ...]:
        """The rows, best first (``SweepRow.key``); of equals the first, those that were refused last."""
        return tuple(sorted(self.rows, key=lambda row: (bool(row.refused), math.isnan(row.key), -row.key, row.number)))

    @property
    def best(self) -> SweepRow | None:
        """The best row, None when all were refused."""
        first = self.ranked()[0]
        return None if first.refused else first


def sweep(
    source: Any,
    backend: str | Backend | Target = "",
    *,
    over: Over,
    data: Any,
    evaluation: Any = None,
    evaluate: str | Evaluator | None = None,
    options: Options | None = None,
    jobs: int = 1,
    joblib_backend: str = "",
    output: str | os.PathLike[str] | None = None,
    registry: Registry | None = None,
    on_event: OnEvent = ignore,
    history: Sequence[str] = (),
) -> Sweep:
    """Try every combination of some choices: quantize the float model completely, open the package on the backend, run it.

    ``over`` names axes: "calibration,schema,weights=int8,int4", a sequence of such texts, or a mapping of name to values, () being
    all of them. Axes are calibration (min-max, percentile:99.9 ...), schema (of activations: ``Scheme``), activations, weights and
    bias (types), per-channel (false, true) and set.NAME, a setting of the backend. All else is as ``options`` say. ``data`` is what
    the float model is profiled on, once, or a Profile of it; ``evaluation`` the samples that every result is run on, else ``data``;
    ``options.limit`` holds for both. SQNR is that of ``npukit.diagnosis.sqnr``, against the float model. ``evaluate`` gives a score
    besides, higher being better: a function of a Session, or "file.py:function".

    ``jobs`` processes share the work by joblib, whose backend ``joblib_backend`` names (loky, dask, ray ...); they read files in
    the temporary folder of this one. Their number changes no result, unless the backend computes in ONNX Runtime's floats, which
    depend on the number of threads (OMP_NUM_THREADS). ``output`` gets the package of the best row.

    What refuses a combination is said in its row. Raises UsageError for unknown axes and values, for a package, and for a backend
    that computes in float; DataError for bad data; what ``read_source`` raises.
    """
    check_joblib(jobs, joblib_backend)
    options, registry = options or Options(), registry or Registry.load()
    origin = read_source(source, registry=registry)
    target = resolve(backend, origin, registry)
    _check(origin, target)
    graph = target.prepare(origin.graph)
    axes = read_axes(over, options, target, graph, registry.observers())
    tried = combinations(axes)
    made = [applied(choices, options, target) for choices in tried]
    others = {tuple(t.given.items()): t for _, t in made if t is not target}  # a setting may change how the model is prepared
    graphs = [graph, *(t.prepare(origin.graph) for t in others.values())]
    profile = as_profile(data)
    if profile is not None and evaluation is None:
        raise UsageError("a profile has no samples to run", hint="name evaluation samples: --eval D")
    function = read_evaluator(evaluate)
    with tempfile.TemporaryDirectory(prefix="npukit_sweep_", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        with open_session(Source(origin.graph), REFERENCE, registry=registry) as exact:
            score = None if function is None else score_of(function, exact)
            if profile is None:
                observers = {o.calibration: find_observer(o.calibration, registry.observers()) for o, _ in made}
                samples_of = partial(open_data, data, limit=options.limit)
                profile = _profile(graphs, samples_of, tuple(observers.values()), on_event)
            batches = open_data(data if evaluation is None else evaluation, origin.graph, limit=options.limit)
            names = dict.fromkeys(name for g in graphs for name in measured(g))
            count = write_samples(folder, _answered(exact, batches, tuple(names), on_event))
        stand = Stand(folder, origin, target, options, profile, function, registry)
        rows = try_all(stand, tried, evaluate, jobs, joblib_backend, on_event)
        found = Sweep(target.name, axes, count, evaluation is not None, _grouped(rows), score)
        if output is not None and found.best is not None:
            stand.quantized(dict(found.best.choices), history).save(output)
    return found


def _check(origin: Source, target: Target) -> None:
    if origin.manifest is not None:
        raise UsageError(
            "a sweep begins with a float model, and this is a package", hint=f"name the model it was made from: {origin.name}"
        )
    if target.ignores_encodings:
        raise UsageError(
            f"{target.name} computes in float: every combination would be the same", hint="name a backend that quantizes"
        )


def _profile(
    graphs: Iterable[Graph], samples: Callable[[Graph], Batches], observers: Sequence[Observer], on_event: OnEvent
) -> Profile:
    """What the float model does in one pass; in one more for each graph with tensors that were not there before."""
    known = Profile({}, 0)
    for graph in graphs:
        missing = [name for name in graph.float_activations() if name not in known.tensors]
        if missing:
            found = observe(graph, samples(graph), missing, observers, on_event=on_event)
            known = Profile({**known.tensors, **found.tensors}, found.samples)
    return known


def _answered(exact: Session, batches: Batches, names: Sequence[str], on_event: OnEvent) -> Iterator[tuple[Feeds, Feeds]]:
    """Every sample, with what the float model makes of it."""
    total = len(batches) if isinstance(batches, Sized) else None
    for done, feeds in enumerate(batches, 1):
        yield feeds, exact.run(feeds, names)
        on_event(Event("float model", done, total))


def _grouped(rows: Iterable[SweepRow]) -> tuple[SweepRow, ...]:
    """Rows that know the first one with the same encodings."""
    first: dict[str, int] = {}
    found = []
    for row in rows:
        earlier = first.setdefault(row.encodings, row.number) if row.encodings else row.number
        found.append(row if earlier == row.number else attrs.evolve(row, same_as=earlier))
    return tuple(found)
