"""The end of the trip: the last check, the package, the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import attrs

from npukit.backend import Edge, Problem, Target
from npukit.calibration import Observer
from npukit.encoding import Encoding
from npukit.errors import ConstraintError, UsageError, did_you_mean
from npukit.graph import Graph
from npukit.legalize import Change
from npukit.package import Manifest, Package
from npukit.quantization.options import Options
from npukit.quantization.plan import Task, bound_problems
from npukit.quantization.request import Source
from npukit.quantization.result import Quantized, Report
from npukit.quantization.settings import idle_settings


def finish(
    task: Task,
    source: Source,
    encodings: Mapping[str, Encoding],
    *,
    changes: tuple[Change, ...] = (),
    history: Sequence[str] = (),
    optimizers: Sequence[str] = (),
) -> Quantized:
    """The package of a task with complete encodings. Raises ConstraintError when it is not legal and ``options.strict``."""
    options, target = task.options, task.target
    bindings = options.bindings or source.bindings
    types = task.node_types(encodings)
    problems = bound_problems(task.problems(encodings), target, task.graph, encodings, bindings, types, options.float_fallback)
    if options.strict:
        refuse(
            target, problems, "no change of encodings ends this" if options.legalize else "--legalize changes encodings to end this"
        )
    planned = target.types(task.graph, encodings, float_fallback=options.float_fallback)
    edges = checked_edges({**source.edges, **options.edges}, task.graph, encodings)
    manifest = make_manifest(source, target, options, history, optimizers)
    package = Package(manifest, task.graph, dict(encodings), {**planned, **types}, edges, bindings)
    notes = (*task.notes, *idle_settings(task, source))
    return Quantized(package, Report(Counter(e.origin for e in encodings.values()), problems, notes, changes))


def refuse(target: Target, problems: Sequence[Problem], remedy: str) -> None:
    """Raise ConstraintError when there is an error among ``problems``."""
    errors = [p for p in problems if p.severity == "error"]
    if not errors:
        return
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    hint = f"npukit check lists all problems; {remedy}, --no-strict goes on"
    raise ConstraintError(f"{target.name} refuses the model: {errors[0]}{more}", problems=problems, hint=hint)


def checked_edges(edges: Mapping[str, Edge], graph: Graph, encodings: Mapping[str, Encoding]) -> dict[str, Edge]:
    """``edges`` when they fit the graph. Raises UsageError for an edge that is no input or output, or does not fit its tensor."""
    ends = (*graph.inputs, *graph.outputs)
    for name, edge in edges.items():
        if name not in ends:
            raise UsageError(f"'{name}' is no input or output of the model", hint=did_you_mean(name, ends), code="edge")
        edge.check(graph.tensor(name), encodings.get(name))
    return dict(edges)


def make_manifest(
    source: Source, target: Target | None, options: Options, history: Sequence[str], optimizers: Sequence[str] = ()
) -> Manifest:
    """Where the package comes from; what the manifest of a source package says of its past is kept."""
    before = source.manifest.history if source.manifest else ()
    used = [*(source.manifest.options.get("optimize", ()) if source.manifest else ()), *optimizers]
    chosen = {k: v for k, v in attrs.asdict(options, recurse=False).items() if k not in ("seed", "edges", "bindings")}
    if isinstance(options.calibration, Observer):
        chosen["calibration"] = options.calibration.name
    return Manifest(
        backend=target.backend.name if target else "",
        soc=target.soc.name if target else "",
        options=chosen | ({"optimize": used} if used else {}),
        seed=options.seed,
        source_name=source.name,
        source_hash=source.sha256,
        history=(*before, " ".join(history)) if history else before,
        settings=dict(target.given) if target else {},
    )
