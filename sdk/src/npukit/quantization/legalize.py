"""Make a model legal for a backend by the smallest change of its encodings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from npukit.backend import Backend, Problem, Soc, Target
from npukit.encoding import Encoding
from npukit.errors import UsageError
from npukit.graph import Graph
from npukit.legalize import Change
from npukit.package import Package
from npukit.plugins import Registry
from npukit.quantization.finish import make_manifest
from npukit.quantization.options import Options
from npukit.quantization.plan import Task
from npukit.quantization.request import freed, read_source, resolve
from npukit.quantization.result import Quantized, Report
from npukit.quantization.settings import idle_settings


@attrs.frozen(eq=False)
class Legalized:
    """What must change, and what is left.

    ``encodings`` are all encodings after ``changes``; ``remaining`` are the problems that no change of encodings ends (and
    warnings). ``unknown`` names the tensors whose range only calibration would tell: of their encodings just the types count.
    """

    backend: str
    soc: Soc
    changes: tuple[Change, ...]
    encodings: Mapping[str, Encoding]
    remaining: tuple[Problem, ...]
    unknown: frozenset[str]
    notes: tuple[str, ...]
    _given: frozenset[str]
    _package: Package

    @property
    def graph(self) -> Graph:
        """The prepared graph that the encodings belong to."""
        return self._package.graph

    @property
    def legal(self) -> bool:
        """Whether the backend accepts the model after the changes."""
        return all(p.severity != "error" for p in self.remaining)

    @property
    def overrides(self) -> dict[str, Encoding]:
        """The encodings that came with the model or as overrides, and the changed ones, for ``Request(overrides=...)``.

        Biases are left out: they follow from input and weight.
        """
        names = self._given | {change.tensor for change in self.changes}
        return {n: e for n, e in self.encodings.items() if n in names - self.unknown and e.origin != "derived"}

    def package(self) -> Quantized:
        """The model with the legal encodings. Raises UsageError when a tensor's range is not known."""
        if self.unknown:
            raise UsageError(
                f"{len(self.unknown)} tensors have no range, '{min(self.unknown)}' for one",
                hint="npukit quantize --legalize --data D calibrates them",
            )
        report = Report(Counter(e.origin for e in self.encodings.values()), self.remaining, self.notes, self.changes)
        return Quantized(self._package, report)


def legalize(
    source: Any,
    backend: str | Backend | Target = "",
    *,
    options: Options | None = None,
    registry: Registry | None = None,
    history: Sequence[str] = (),
) -> Legalized:
    """Find the smallest change of encodings that makes a model legal for a backend.

    A package is judged by its encodings, a float model as ``quantize`` with the same request and ``options`` would make it; no data
    is needed. Fewest tensors are changed; among equal choices overrides are kept, activations before weights, then types wide. A
    new grid of an activation keeps the real range of the old one, that of a weight is made from its data. Raises what ``check``
    raises.
    """
    options = options or Options()
    registry = registry or Registry.load()
    origin = read_source(source, registry=registry)
    target = resolve(backend, origin, registry)
    origin = freed(origin, options)
    task = Task.prepare(origin, target, options)
    observed = set(task.unknown())
    unseen = frozenset(n for g in task.solution.groups if observed & {*g.observed} for n in g.tensors)
    changes, encodings = task.legal(task.encodings(task.placeholders()))
    judged = {n: e.with_origin("placeholder") if n in unseen else e for n, e in encodings.items()}
    types = {**target.types(task.graph, encodings, float_fallback=task.options.float_fallback), **task.node_types(encodings)}
    manifest = make_manifest(origin, target, task.options, history)
    return Legalized(
        target.backend.name,
        target.soc,
        changes,
        encodings,
        task.problems(judged),
        unseen,
        (*task.notes, *idle_settings(task, origin)),
        frozenset(origin.given),
        Package(manifest, task.graph, encodings, types, origin.edges, origin.bindings),
    )
