"""Settings that changed nothing are named."""

from __future__ import annotations

import attrs
import numpy as np

from npukit.backend import Target
from npukit.encoding import Encoding
from npukit.graph import Graph
from npukit.quantization.plan import Task
from npukit.quantization.request import Source
from npukit.quantization.tied import idle_note


def idle_settings(task: Task, source: Source) -> tuple[str, ...]:
    """A note for every given setting and tie that makes no difference to what is planned or refused.

    The model is planned again with the setting at its default; placeholders stand for the ranges of both.
    """
    target = task.target
    shown = {*target.changed("encodings"), *target.changed("legality")}
    plain = attrs.evolve(task.options, node_types={})  # a node that is named may be there by this very setting
    others = {name: Task.prepare(source, target.with_default(name), plain) for name in shown}
    idle = [name for name, other in others.items() if _same(task, attrs.evolve(other, types=task.types))]
    return (
        *idle_note(_idle_ties(task, source)),
        *default_settings(target),
        *(f"setting '{n}' = {target.settings[n]} changed nothing in this model" for n in sorted(idle)),
    )


def _idle_ties(task: Task, source: Source) -> list[tuple[str, str]]:
    """The ties of tensors that have one grid, or one float type, without any tie."""
    if not task.options.ties:
        return []
    free = Task.prepare(attrs.evolve(source, ties=()), task.target, attrs.evolve(task.options, ties=(), node_types={}))
    groups = {name: group for group in free.solution.groups for name in group.tensors}
    given = free.given

    def alike(a: str, b: str) -> bool:
        if a in groups and b in groups:
            x, y = groups[a].encoding, groups[b].encoding
            return groups[a] is groups[b] or (x is not None and y is not None and x.same_grid(y))
        return a in given and b in given and given[a].same_grid(given[b])

    return [(a, b) for a, b in task.options.ties if alike(a, b)]


def default_settings(target: Target) -> tuple[str, ...]:
    """A note for every given setting that has its default value."""
    defaults = {option.name: option.default for option in target.backend.options()}
    names = [name for name in target.given if target.settings[name] == defaults[name]]
    return tuple(f"setting '{name}' = {defaults[name]} is the default and changes nothing" for name in names)


def _same(a: Task, b: Task) -> bool:
    if not _same_graph(a.graph, b.graph) or a.placeholders() != b.placeholders():
        return False
    first, second = a.encodings(a.placeholders()), b.encodings(b.placeholders())
    return _same_encodings(first, second) and a.problems(first) == b.problems(second)


def _same_graph(a: Graph, b: Graph) -> bool:
    nodes = [[(n.key, n.inputs, n.outputs, str(n.attributes)) for n in graph.nodes] for graph in (a, b)]
    if nodes[0] != nodes[1] or a.tensors.keys() != b.tensors.keys():
        return False
    # A pass hands on what it does not change, so that only new constants are read.
    changed = [n for n in a.tensors if a.tensors[n].stored is not b.tensors[n].stored]
    pairs = ((a.tensors[n].data, b.tensors[n].data) for n in changed)
    return all(x is not None and y is not None and np.array_equal(x, y) for x, y in pairs)


def _same_encodings(a: dict[str, Encoding], b: dict[str, Encoding]) -> bool:
    return a.keys() == b.keys() and all(a[n].same_grid(b[n]) for n in a)
