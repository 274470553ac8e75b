"""Phase 3: fewer places where a tensor has to be brought from one type to another."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from npukit.encoding import Encoding
from npukit.graph import Graph
from npukit_aimet.amp.groups import Candidate, Menu

Choice = Mapping[str, Candidate]

_WORTH = 0.01
"""A saved convert may cost so much of the full cost: it is an op of its own that reads and writes a whole tensor."""


def count_converts(graph: Graph, encodings: Mapping[str, Encoding]) -> int:
    """Inputs of nodes whose type is not that of the node's output: what a compiler inserts a convert for."""
    found = 0
    for node in graph.nodes:
        after = encodings.get(node.outputs[0]) if node.outputs else None
        if after is None:
            continue
        inputs = {n for n in node.inputs if n in encodings and not graph.tensor(n).is_constant}
        found += sum(encodings[n].dtype != after.dtype for n in inputs)
    return found


def fewer_converts(
    menu: Menu,
    graph: Graph,
    choice: Choice,
    cost: Callable[[Choice], float],
    good: Callable[[Choice, Choice], bool],
) -> dict[str, Candidate]:
    """The choice after all changes of single groups that save converts, each as long as ``good(new, old)`` holds and the cost
    rises by at most a hundredth for every convert saved; the best change first."""
    current = dict(choice)
    known = count_converts(graph, menu.mixed(current))
    tried: set[tuple[str, Candidate]] = set()
    while known:
        options = []
        for group in menu.groups:
            for candidate in menu.allowed[group.name]:
                if candidate == current[group.name] or (group.name, candidate) in tried:
                    continue
                saved = known - count_converts(graph, menu.mixed({**current, group.name: candidate}))
                if saved > 0:
                    options.append((-saved, group.name, candidate))
        if not options:
            break
        saved, name, candidate = min(options, key=lambda o: o[:2])
        tried.add((name, candidate))
        new = {**current, name: candidate}
        if cost(new) - cost(current) <= _WORTH * -saved and good(new, current):
            current, known = new, known + saved
            tried = {(name, candidate)}
    return current
