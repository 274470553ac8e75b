"""A verdict from the model alone, or from its ranges as well."""

from __future__ import annotations

from typing import Any

from npukit.backend import Backend, Problem, Target
from npukit.calibration import find_observer
from npukit.errors import UsageError
from npukit.events import OnEvent, ignore
from npukit.plugins import Registry
from npukit.quantization.calibrate import Calibration
from npukit.quantization.options import Options
from npukit.quantization.plan import Task, bound_problems, known_nodes
from npukit.quantization.request import Source, freed, read_source, resolve
from npukit.quantization.result import CheckResult
from npukit.quantization.settings import default_settings, idle_settings
from npukit.quantization.tied import tie_problems


def check(
    source: Any,
    backend: str | Backend | Target = "",
    *,
    example: Any = None,
    data: Any = None,
    options: Options | None = None,
    registry: Registry | None = None,
    on_event: OnEvent = ignore,
) -> CheckResult:
    """Say whether a backend would accept a model, with all problems at once.

    A float model is judged as ``quantize`` with the same options would make it; a package as it is, unless the request has
    overrides or ``options`` ask for types. ``example`` is that of a Request. No data is needed: legality depends on types and ties.
    With ``data``, as for ``quantize``, the caveats about ranges are judged too. Raises UsageError for data beside a package that
    has its ranges.
    """
    options = options or Options()
    registry = registry or Registry.load()
    origin = read_source(source, example=example, registry=registry)
    target = resolve(backend, origin, registry)
    if origin.manifest is not None and origin.overrides is None and not options.decisions():
        if data is not None:
            raise UsageError("a package has its ranges already: --data has no effect", hint="check the float model with it")
        return _package(origin, target, options)
    origin = freed(origin, options)
    task = Task.prepare(origin, target, options)
    observer = find_observer(options.calibration, registry.observers())
    seen = Calibration(data, task.graph, options, observer, on_event)
    ranges = task.placeholders() if data is None else seen.ranges(task, task.graph)
    encodings = task.encodings(ranges)
    bindings = options.bindings or origin.bindings
    problems = bound_problems(
        task.problems(encodings), target, task.graph, encodings, bindings, task.node_types(encodings), task.options.float_fallback
    )
    masks = () if data is None else task.mask_notes(ranges)
    notes = (*task.notes, *masks, *idle_settings(task, origin))
    return CheckResult(target.backend.name, target.soc, len(task.graph.nodes), problems, notes)


def _package(origin: Source, target: Target, options: Options) -> CheckResult:
    fallback = options.float_fallback or origin.float_fallback
    types = {**origin.node_types, **known_nodes(origin.graph, options.node_types)}

    def judged(judge: Target) -> tuple[Problem, ...]:
        found = judge.problems(origin.graph, origin.encodings, types=types, float_fallback=fallback)
        found = (*tie_problems(origin.ties, origin.encodings), *found)
        return bound_problems(found, judge, origin.graph, origin.encodings, origin.bindings, types, fallback)

    problems = judged(target)
    idle = [name for name in target.changed("legality") if judged(target.with_default(name)) == problems]
    notes = (
        *default_settings(target),
        *(f"setting '{name}' = {target.settings[name]} changed nothing in this model" for name in idle),
    )
    return CheckResult(target.backend.name, target.soc, len(origin.graph.nodes), problems, notes)
