"""The trip of a model from float to a quantized package."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from npukit.backend import Backend, Plan, Precision, Problem, Rules, Soc, port_axis
from npukit.backend.scheme import derived_bias, with_room_for_bias
from npukit.calibration.calibrate import calibrate
from npukit.calibration.data import Batches, open_data
from npukit.calibration.observers import Range
from npukit.encoding import (
    INT_BITS,
    Conflict,
    Encoding,
    Solution,
    encoding_for_range,
    encoding_for_weights,
    propagate,
    solve,
)
from npukit.encoding.formats import extract_qdq, read_encodings
from npukit.errors import ConstraintError, DataError, ModelError, UsageError
from npukit.events import Event, OnEvent, ignore
from npukit.graph import Graph, Tensor, fold_constants, load, source_hash
from npukit.legalize.search import Change, repair
from npukit.package import Manifest, Package, is_package, read_package, write_package
from npukit.plugins import Registry
from npukit.quantization.optimize import Job, Judge, Optimizer, choose


@attrs.frozen
class Options:
    """How to quantize. Empty types and None mean: as the backend does by default.

    ``calibration``: min-max, percentile, entropy, mse or sqnr. ``float_fallback`` lets ops without a kernel run in float16.
    ``strict`` raises when the result violates the backend's constraints; otherwise the violations are only listed. ``legalize``
    first makes the smallest change of encodings that ends the violations.
    """

    activations: str = ""
    weights: str = ""
    per_channel: bool | None = None
    calibration: str = "min-max"
    percentile: float = 99.99
    float_fallback: bool = False
    strict: bool = True
    legalize: bool = False
    seed: int = 0
    limit: int | None = None

    def precision(self, backend: Backend, soc: Soc) -> Precision:
        default = backend.precision(soc)
        return attrs.evolve(
            default,
            activations=self.activations or default.activations,
            weights=self.weights or default.weights,
            per_channel=default.per_channel if self.per_channel is None else self.per_channel,
        )


@attrs.frozen
class Report:
    """What happened: ``origins`` counts encodings by where they come from, ``problems`` lists what the constraints say,
    ``notes`` what a person should know (overrides that took no effect, and the like), ``changes`` what ``legalize`` did."""

    origins: Mapping[str, int]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {origin}" for origin, count in sorted(self.origins.items()))
        return "\n".join([f"encodings: {counts or 'none'}", *self.notes, *(str(p) for p in self.problems)])


@attrs.frozen(eq=False)
class Quantized:
    """A model with encodings, and the report of how they came about."""

    package: Package
    report: Report

    @property
    def graph(self) -> Graph:
        return self.package.graph

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        return self.package.encodings

    def save(self, path: str | os.PathLike[str], *, keep_float: bool = False) -> None:
        """Write the package as a .dlc file; ``keep_float`` stores weights as floats instead of codes (``write_package``)."""
        write_package(self.package, path, keep_float=keep_float)


@attrs.frozen(eq=False)
class Source:
    """A model as it was given: ``encodings`` are those it carries (a package, or Q/DQ nodes)."""

    graph: Graph
    encodings: Mapping[str, Encoding]
    manifest: Manifest | None = None
    name: str = ""
    sha256: str = ""


def read_source(source: Any, *, registry: Registry, symbols: Mapping[str, int] | None = None, batch: int | None = None) -> Source:
    """Read a model from a path (.onnx, .dlc, or what a plugin reads), ONNX bytes, a Graph, a Package or a Quantized."""
    if isinstance(source, Quantized):
        source = source.package
    if isinstance(source, Source):
        return source
    if isinstance(source, Package):
        return Source(source.graph, source.encodings, source.manifest, source.manifest.source_name, source.manifest.source_hash)
    if isinstance(source, Graph):
        return Source(source, {}, name=source.name)
    if not isinstance(source, (str, os.PathLike, bytes)):
        raise UsageError(f"a model is a path, bytes, Graph, Package or Quantized, not {type(source).__name__}")
    path = None if isinstance(source, bytes) else Path(source)
    if path is not None and is_package(path):
        if symbols or batch is not None:
            raise UsageError(f"{path} is compiled already: symbols and batch are bound when a model is read from ONNX")
        return read_source(read_package(path), registry=registry)
    graph = registry.load_model(source)
    if graph is None:
        graph = load(source, symbols=symbols, batch=batch)
    encodings: dict[str, Encoding] = {}
    if any(node.op in ("QuantizeLinear", "DequantizeLinear") for node in graph.nodes):
        graph, encodings = extract_qdq(graph)
    return Source(
        graph, encodings, None, path.name if path else graph.name, source_hash(path) if path is not None and path.is_file() else ""
    )


def quantize(
    source: Any,
    *,
    backend: str = "htp",
    data: Any = None,
    overrides: str | os.PathLike[str] | Mapping[str, Encoding] | None = None,
    options: Options | None = None,
    soc: str = "",
    soc_file: str | os.PathLike[str] | None = None,
    registry: Registry | None = None,
    symbols: Mapping[str, int] | None = None,
    batch: int | None = None,
    lenient: bool = False,
    on_event: OnEvent = ignore,
    history: Sequence[str] = (),
    optimize: str | Sequence[str | Optimizer] = (),
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    engine: str = "",
) -> Quantized:
    """Give every tensor of a model an encoding that the backend accepts.

    ``source``: a path, ONNX bytes or a Graph. ``backend``: "htp", "htp:sm8750", ... ``data``: calibration samples, anything that
    ``open_data`` takes; not needed when overrides or fixed grids decide everything. ``overrides``: an encodings file, or tensor
    -> Encoding. ``optimize`` names optimizers ("cle,adaround") that run in that order before the last calibration, configured by
    ``config`` (a YAML file or its content), on ``engine`` (npukit's own by default).

    Raises ConstraintError with all problems when the result is not legal and ``options.strict``; EncodingError for overrides that
    match no tensor unless ``lenient``; DataError for bad data; ModelError for a bad model; UsageError for unknown optimizers.
    """
    options = options or Options()
    registry = registry or Registry.load()
    chosen, chip = registry.resolve(backend, soc=soc, soc_file=soc_file)
    listen = _both(on_event, registry.track)
    origin = read_source(source, registry=registry, symbols=symbols, batch=batch)
    given, notes = _given(origin, overrides, lenient)
    optimizers = choose(optimize, registry, config=config, engine=engine)
    task = _Task.prepare(origin.graph, chosen, registry.planner(chosen), chip, options, given, notes)
    calibration = _Calibration(data, options, listen)
    reference = task.graph
    if optimizers:
        task, reference = _optimized(task, optimizers, calibration, listen)
    encodings = task.encodings(calibration.ranges(task, reference))
    changes: tuple[Change, ...] = ()
    if options.legalize:
        changes, encodings = task.legal(encodings)
    return _finish(task, origin, encodings, changes, history, optimizers)


def check(
    source: Any,
    *,
    backend: str = "htp",
    overrides: str | os.PathLike[str] | Mapping[str, Encoding] | None = None,
    options: Options | None = None,
    soc: str = "",
    soc_file: str | os.PathLike[str] | None = None,
    registry: Registry | None = None,
    symbols: Mapping[str, int] | None = None,
    batch: int | None = None,
    lenient: bool = False,
) -> CheckResult:
    """Say from the model alone, without data, whether a backend would accept it, with all problems at once.

    A float model is judged as ``quantize`` with the same options would make it; a package as it is, unless there are ``overrides``.
    """
    options = options or Options()
    registry = registry or Registry.load()
    chosen, chip = registry.resolve(backend, soc=soc, soc_file=soc_file)
    origin = read_source(source, registry=registry, symbols=symbols, batch=batch)
    if origin.manifest is not None and overrides is None:
        rules = Rules.of(registry.planner(chosen), chip)
        found = rules.validate(origin.graph, origin.encodings, float_fallback=options.float_fallback)
        problems = chosen.judge(origin.graph, origin.encodings, chip, found)
        return CheckResult(chosen.name, chip, len(origin.graph.nodes), problems)
    given, notes = _given(origin, overrides, lenient)
    task = _Task.prepare(origin.graph, chosen, registry.planner(chosen), chip, options, given, notes)
    # Legality depends on types and ties, not on ranges: any range stands for the ones that calibration would find.
    some = dict.fromkeys(task.unknown(), Range(-1.0, 1.0))
    encodings = task.encodings(some)
    return CheckResult(chosen.name, chip, len(task.graph.nodes), task.problems(encodings), tuple(task.notes))


@attrs.frozen
class CheckResult:
    """The verdict on a model: "accepted", "refused", or "cannot tell" when only unknowns are left."""

    backend: str
    soc: Soc
    nodes: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        severities = {p.severity for p in self.problems}
        return "refused" if "error" in severities else "cannot tell" if "unknown" in severities else "accepted"

    @property
    def counts(self) -> dict[str, int]:
        """Problems by severity."""
        return dict(Counter(p.severity for p in self.problems))


def convert(
    source: Any,
    *,
    overrides: str | os.PathLike[str] | Mapping[str, Encoding] | None = None,
    registry: Registry | None = None,
    symbols: Mapping[str, int] | None = None,
    batch: int | None = None,
    lenient: bool = False,
    history: Sequence[str] = (),
) -> Quantized:
    """Make a package of a model with the encodings it brings and those that follow from them; everything else stays float."""
    registry = registry or Registry.load()
    origin = read_source(source, registry=registry, symbols=symbols, batch=batch)
    graph = fold_constants(origin.graph)
    given, notes = _given(origin, overrides, lenient)
    encodings = propagate(graph, {n: e for n, e in given.items() if n in graph.tensors})
    notes += _vanished(graph, given)
    manifest = _manifest(origin, "", "", Options(), history)
    report = Report(Counter(e.origin for e in encodings.values()), (), tuple(notes))
    return Quantized(Package(manifest, graph, encodings), report)


@attrs.frozen(eq=False)
class _Task:
    """A prepared model on its way: what is free, what is decided."""

    graph: Graph
    backend: Backend
    rules: Rules
    options: Options
    precision: Precision
    given: Mapping[str, Encoding]
    plan: Plan
    solution: Solution
    notes: list[str]

    @classmethod
    def prepare(
        cls,
        graph: Graph,
        backend: Backend,
        planner: Backend,
        soc: Soc,
        options: Options,
        given: Mapping[str, Encoding],
        notes: list[str],
    ) -> _Task:
        prepared = _unshare_biases(planner.prepare(graph))
        notes += _vanished(prepared, given)
        return cls.of(prepared, backend, Rules.of(planner, soc), options, given, notes)

    @classmethod
    def of(
        cls, prepared: Graph, backend: Backend, rules: Rules, options: Options, given: Mapping[str, Encoding], notes: list[str]
    ) -> _Task:
        """The task of a graph that is prepared already."""
        precision = options.precision(rules.backend, rules.soc)
        known = propagate(prepared, {n: e for n, e in given.items() if n in prepared.tensors})
        plan = rules.plan(prepared, precision, known)
        notes += _unmet(options.weights, plan, known)
        floats = {n for n, e in known.items() if e.is_float}
        grids = {n: d for n, d in plan.activations.items() if n not in floats and d in _GRIDS}
        solution = solve(grids, plan.shared, plan.fixed, {n: e for n, e in known.items() if n in grids})
        return cls(prepared, backend, rules, options, precision, known, plan, solution, notes)

    def unknown(self) -> list[str]:
        """The tensors whose range must be observed."""
        free = [g for g in self.solution.groups if g.encoding is None]
        return [n for g in free for n in g.observed if not self.graph.tensor(n).is_constant]

    def encodings(self, ranges: Mapping[str, Range]) -> dict[str, Encoding]:
        """The encodings of all tensors: groups from ranges, weights from their values, biases from both."""
        found = {n: e for n, e in self.given.items() if n not in self.plan.derived}
        for group in self.solution.groups:
            encoding = group.encoding
            if encoding is None:
                seen = [ranges[n] if n in ranges else _range_of(self.graph.tensor(n)) for n in group.observed]
                low, high = min(r.low for r in seen), max(r.high for r in seen)
                encoding = encoding_for_range(low, high, group.dtype)
            for name in group.tensors:
                origin = encoding if group.encoding is None or name in self.given else _spread_origin(encoding)
                found.setdefault(name, origin)
        for name, dtype in self.plan.activations.items():
            if dtype not in _GRIDS and name not in found:
                found[name] = Encoding(dtype, origin="calibrated")
        for name in self.plan.weights:
            if name not in found:
                found[name] = self._weight(name)
        for bias, (x, w) in self.plan.derived.items():
            if w in self.plan.weights and w not in self.given:
                found[w] = with_room_for_bias(found.get(x), found[w], self.graph.tensor(bias))
            derived = derived_bias(found.get(x), found.get(w), self.graph.tensor(bias))
            if derived is not None:
                found[bias] = derived
        return {n: e for n, e in found.items() if e.dtype != "float32"}

    def _weight(self, name: str) -> Encoding:
        tensor, port, dtype = self.graph.tensor(name), self.plan.weight_ports[name], self.plan.weights[name]
        data = tensor.data
        assert data is not None  # a weight is a constant
        if not data.size:
            raise ModelError(f"weight '{name}' has no values, its shape is {list(data.shape)}", hint="take its node out")
        axis = port_axis(port, data.ndim)
        per_channel = self.precision.per_channel and "channel" in port.granularity and axis is not None
        signed = not dtype.startswith("u")
        return encoding_for_weights(
            data,
            dtype,
            granularity="channel" if per_channel else "tensor",
            axis=axis if per_channel else None,
            symmetric=signed or port.symmetric is not None,
        )

    def problems(self, encodings: Mapping[str, Encoding]) -> tuple[Problem, ...]:
        pairs = [(c, encodings.get(c.tensor_a), encodings.get(c.tensor_b)) for c in self.solution.conflicts]
        apart = [c for c, a, b in pairs if a is not None and b is not None and not a.same_grid(b)]
        conflicts = tuple(_conflict_problem(c) for c in apart)
        found = self.rules.validate(self.graph, encodings, float_fallback=self.options.float_fallback)
        return conflicts + self.backend.judge(self.graph, encodings, self.rules.soc, found)

    def legal(self, encodings: Mapping[str, Encoding]) -> tuple[tuple[Change, ...], dict[str, Encoding]]:
        """The smallest change that makes the encodings legal, and the encodings after it."""
        conflicts, fallback = self.solution.conflicts, self.options.float_fallback
        return repair(self.rules, self.graph, encodings, conflicts=conflicts, float_fallback=fallback)


class _Calibration:
    """The ranges seen so far in the float model. They hold for one graph: with another one it runs anew."""

    def __init__(self, data: Any, options: Options, on_event: OnEvent) -> None:
        self._data, self._options, self._on_event = data, options, on_event
        self._graph: Graph | None = None
        self._known: dict[tuple[str, str], Range] = {}

    def samples(self, graph: Graph) -> Batches | None:
        return None if self._data is None else open_data(self._data, graph, limit=self._options.limit)

    def ranges(self, task: _Task, reference: Graph) -> dict[str, Range]:
        """The range of every tensor of a task that needs one, seen in ``reference``, which has the same names."""
        if reference is not self._graph:
            self._graph, self._known = reference, {}
        wanted = {n: task.plan.activations[n] for n in task.unknown()}
        missing = {n: dtype for n, dtype in wanted.items() if (n, dtype) not in self._known}
        if missing:
            batches = self.samples(reference)
            if batches is None:
                count = f"{len(missing)} tensors need a range, but no calibration data is given"
                raise DataError(count, hint="--data FOLDER or data=")
            method, percentile = self._options.calibration, self._options.percentile
            found = calibrate(reference, batches, missing, method=method, percentile=percentile, on_event=self._on_event)
            self._known |= {(n, missing[n]): seen for n, seen in found.items()}
        return {n: self._known[n, dtype] for n, dtype in wanted.items()}


def _optimized(task: _Task, optimizers: Sequence[Optimizer], calibration: _Calibration, on_event: OnEvent) -> tuple[_Task, Graph]:
    """The task after all optimizers, and the float model that it stands for then."""

    def of(graph: Graph, given: Mapping[str, Encoding], notes: list[str] | None = None) -> _Task:
        return _Task.of(graph, task.backend, task.rules, task.options, given, [] if notes is None else notes)

    def complete(graph: Graph, reference: Graph, given: Mapping[str, Encoding], precision: Precision) -> dict[str, Encoding]:
        options = attrs.evolve(
            task.options,
            activations=precision.activations,
            weights=precision.weights,
            per_channel=precision.per_channel,
        )
        made = _Task.of(graph, task.backend, task.rules, options, given, [])
        return made.encodings(calibration.ranges(made, reference))

    judge = Judge(
        precision=task.precision,
        plan=lambda graph, given: of(graph, given).plan,
        complete=complete,
        problems=lambda graph, encodings: of(graph, encodings).problems(encodings),
        cost=lambda graph, encodings: task.backend.estimate(graph, encodings, task.rules.soc),
    )
    samples = calibration.samples(task.graph)
    job = Job(task.graph, task.graph, task.given, judge, samples, task.options.seed, on_event, tuple(task.notes))
    for optimizer in optimizers:
        job = optimizer.run(job)
    return of(job.graph, job.given, list(job.notes)), job.reference


_GRIDS = frozenset(dtype for dtype, bits in INT_BITS.items() if bits <= 16)


def _spread_origin(encoding: Encoding) -> Encoding:
    """The origin of a grid that reached a tensor through a tie."""
    return encoding if encoding.origin == "fixed" else encoding.with_origin("propagated")


def _finish(
    task: _Task,
    origin: Source,
    encodings: Mapping[str, Encoding],
    changes: tuple[Change, ...],
    history: Sequence[str],
    optimizers: Sequence[Optimizer],
) -> Quantized:
    problems = task.problems(encodings)
    errors = [p for p in problems if p.severity == "error"]
    if errors and task.options.strict:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        hint = "no change of encodings ends this" if task.options.legalize else "--legalize changes encodings to end this"
        raise ConstraintError(
            f"{task.backend.name}:{task.rules.soc.name} refuses the model: {errors[0]}{more}",
            problems=problems,
            hint=f"npukit check lists all problems; {hint}, --no-strict goes on",
        )
    names = [optimizer.name for optimizer in optimizers]
    manifest = _manifest(origin, task.backend.name, task.rules.soc.name, task.options, history, names)
    report = Report(Counter(e.origin for e in encodings.values()), problems, tuple(task.notes), changes)
    return Quantized(Package(manifest, task.graph, dict(encodings)), report)


def _manifest(
    origin: Source, backend: str, soc: str, options: Options, history: Sequence[str], optimizers: Sequence[str] = ()
) -> Manifest:
    before = origin.manifest.history if origin.manifest else ()
    used = [*(origin.manifest.options.get("optimize", ()) if origin.manifest else ()), *optimizers]
    chosen = {k: v for k, v in attrs.asdict(options).items() if k != "seed"}
    return Manifest(
        backend=backend,
        soc=soc,
        options=chosen | ({"optimize": used} if used else {}),
        seed=options.seed,
        source_name=origin.name,
        source_hash=origin.sha256,
        history=(*before, " ".join(history)) if history else before,
    )


def _given(
    origin: Source, overrides: str | os.PathLike[str] | Mapping[str, Encoding] | None, lenient: bool
) -> tuple[dict[str, Encoding], list[str]]:
    """The encodings that come with the model or from the user, the user's winning, and notes about ignored ones."""
    if overrides is None:
        return dict(origin.encodings), []
    if isinstance(overrides, Mapping):
        return {**origin.encodings, **overrides}, []
    read = read_encodings(overrides, origin.graph, lenient=lenient)
    notes = [f"{len(read.encodings)} encodings read from {os.fspath(overrides)}"]
    if read.ignored:
        notes.append(f"{len(read.ignored)} encodings ignored, no such tensor: {', '.join(sorted(read.ignored)[:5])}")
    return {**origin.encodings, **read.encodings}, notes


def _unmet(wished: str, plan: Plan, given: Mapping[str, Encoding]) -> list[str]:
    """A note when weights cannot have the type that was asked for."""
    others = {name: dtype for name, dtype in plan.weights.items() if wished and dtype != wished and name not in given}
    if not others:
        return []
    shown = ", ".join(f"{name} {dtype}" for name, dtype in sorted(others.items())[:5])
    return [f"{len(others)} of {len(plan.weights)} weights have no {wished} form here and get another type: {shown}"]


def _vanished(graph: Graph, given: Mapping[str, Encoding]) -> list[str]:
    lost = sorted(n for n in given if n not in graph.tensors)
    shown = ", ".join(lost[:5])
    return [f"{len(lost)} encodings belong to tensors that folding removed and have no effect: {shown}"] if lost else []


def _unshare_biases(graph: Graph) -> Graph:
    """Give every node that reads a shared constant vector as its third input a copy of its own.

    The scale of a bias follows from its node's input and weight, so two nodes cannot share one.
    """
    seen: set[str] = set()
    nodes, copies, origins = [], [], dict(graph.origin_names)
    for node in graph.nodes:
        name = node.input(2)
        if name and name in seen and graph.tensor(name).is_constant and graph.tensor(name).is_float:
            copy = f"{name}:{node.name}"
            copies.append(attrs.evolve(graph.tensor(name), name=copy))
            origins[copy] = (name,)
            node = attrs.evolve(node, inputs=(*node.inputs[:2], copy, *node.inputs[3:]))
        seen.add(name)
        nodes.append(node)
    return graph.evolve(nodes=tuple(nodes), origin_names=origins).with_tensors(copies) if copies else graph


def _range_of(tensor: Tensor) -> Range:
    data = tensor.data
    assert data is not None  # only constants have no observed range
    return Range(float(data.min(initial=0)), float(data.max(initial=0)))


def _conflict_problem(conflict: Conflict) -> Problem:
    hint = "give them one encoding, or drop one of the overrides"
    return Problem("error", "conflict", conflict.tensor_a, "tie", conflict.tensor_b, str(conflict), hint)


def _both(first: OnEvent, second: OnEvent) -> OnEvent:
    def listen(event: Event) -> None:
        first(event)
        second(event)

    return listen
