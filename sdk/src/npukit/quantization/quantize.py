"""The trip of a model from float to a quantized package."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from npukit.backend import Backend, Precision, Session, Target
from npukit.calibration import Range, find_observer
from npukit.encoding import Encoding
from npukit.events import Event, OnEvent, ignore
from npukit.graph import Graph
from npukit.legalize import Change
from npukit.plugins import Registry
from npukit.quantization.calibrate import Calibration
from npukit.quantization.finish import finish, refuse
from npukit.quantization.optimize import Job, Judge, Optimizer, choose
from npukit.quantization.options import Options
from npukit.quantization.plan import Task
from npukit.quantization.request import Source, freed, read_source, resolve
from npukit.quantization.result import Quantized
from npukit.quantization.session import open_session

_OF_OPS = frozenset({"unsupported-op", "no-kernel", "subgraph"})
"""The rules that judge an op whatever its tensors are stored in."""


def quantize(
    source: Any,
    backend: str | Backend | Target = "",
    *,
    data: Any = None,
    example: Any = None,
    options: Options | None = None,
    optimize: str | Sequence[str | Optimizer] = (),
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    engine: str = "",
    registry: Registry | None = None,
    on_event: OnEvent = ignore,
    history: Sequence[str] = (),
) -> Quantized:
    """Give every tensor of a model an encoding that the backend accepts.

    ``source``: a model, or a Request with overrides, symbols and batch; ``example`` is that of a Request. ``backend``: "htp",
    "htp:sm8750", or a Target with settings of its own; "" is the one that a package was made for, else the default. ``data``:
    calibration samples, anything that ``open_data`` takes, or a Profile; not needed when overrides or fixed grids decide
    everything. ``optimize`` names optimizers ("cle,adaround") that run in that order before the last calibration, configured by
    ``config`` (a YAML file or its content), on ``engine`` (npukit's own by default). A package keeps its encodings, unless
    ``options`` ask for types or a calibration: then only its overrides stay.

    Raises ConstraintError with all problems when the result is not legal and ``options.strict``; EncodingError for overrides that
    match no tensor unless the request is lenient; DataError for bad data; ModelError for a bad model; UsageError for unknown names.
    """
    options = options or Options()
    registry = registry or Registry.load()
    origin = read_source(source, example=example, registry=registry)
    target = resolve(backend, origin, registry)
    origin = freed(origin, options)
    observer = find_observer(options.calibration, registry.observers())
    optimizers = choose(optimize, registry, config=config, engine=engine)
    task = Task.prepare(origin, target, options)
    if options.strict:
        _refuse_ops(task)
    listen = _both(on_event, registry.track)
    calibration = Calibration(data, task.graph, options, observer, listen)
    reference = task.graph
    if optimizers:
        task, reference = _optimized(task, origin, optimizers, calibration, registry, listen)
    ranges = calibration.ranges(task, reference)
    task = attrs.evolve(task, notes=(*task.notes, *task.mask_notes(ranges)))
    changes, encodings = _complete(task, ranges)
    names = [optimizer.name for optimizer in optimizers]
    return finish(task, origin, encodings, changes=changes, history=history, optimizers=names)


def _refuse_ops(task: Task) -> None:
    """Refuse ops that the backend lacks before any data is read. Raises ConstraintError with all problems of the model."""
    found = task.target.rules.validate(task.graph, {}, types=task.types, float_fallback=task.options.float_fallback)
    if any(p.severity == "error" and p.rule in _OF_OPS for p in found):
        _, encodings = _complete(task, task.placeholders())
        refuse(task.target, task.problems(encodings), "no change of encodings ends this")


def _complete(task: Task, ranges: Mapping[str, Range]) -> tuple[tuple[Change, ...], dict[str, Encoding]]:
    """The encodings of all tensors as they go into the package, and what legalization changed of them."""
    encodings = task.encodings(ranges)
    return task.legal(encodings) if task.options.legalize else ((), encodings)


def _optimized(
    task: Task, source: Source, optimizers: Sequence[Optimizer], calibration: Calibration, registry: Registry, on_event: OnEvent
) -> tuple[Task, Graph]:
    """The task after all optimizers, and the float model that it stands for then."""

    def of(graph: Graph, given: Mapping[str, Encoding], notes: tuple[str, ...] = ()) -> Task:
        return Task.of(graph, task.target, task.options, given, notes, task.types)

    def complete(graph: Graph, reference: Graph, given: Mapping[str, Encoding], precision: Precision) -> dict[str, Encoding]:
        options = attrs.evolve(
            task.options,
            activations=precision.activations,
            weights=precision.weights,
            per_channel=precision.per_channel,
            per_block=precision.per_block,
            lpbq=precision.lpbq,
        )
        made = Task.of(graph, task.target, options, given)
        return made.encodings(calibration.ranges(made, reference))

    def opened(graph: Graph, reference: Graph, given: Mapping[str, Encoding]) -> Session:
        made = of(graph, given)
        _, encodings = _complete(made, calibration.ranges(made, reference))
        package = finish(made, source, encodings).package
        return open_session(package, task.target, strict=task.options.strict, registry=registry)

    judge = Judge(
        precision=task.precision,
        scheme=task.scheme,
        plan=lambda graph, given: of(graph, given).plan,
        complete=complete,
        problems=lambda graph, encodings: of(graph, encodings).problems(encodings),
        cost=task.target.estimate,
        opened=opened,
    )
    samples = calibration.samples(task.graph)
    job = Job(task.graph, task.graph, task.given, judge, samples, task.options.seed, on_event, task.notes)
    for optimizer in optimizers:
        job = optimizer.run(job)
    return of(job.graph, job.given, job.notes), job.reference


def _both(first: OnEvent, second: OnEvent) -> OnEvent:
    def listen(event: Event) -> None:
        first(event)
        second(event)

    return listen
