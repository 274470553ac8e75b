"""A part of a graph as a graph of its own."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from npukit.errors import ModelError
from npukit.graph.model import Graph
from npukit.graph.passes.dead_nodes import remove_dead_nodes


def subgraph(graph: Graph, inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
    """The nodes and constants that make ``outputs`` from ``inputs``; both name tensors of the graph.

    Graph inputs that the part reads become its inputs too, behind the given ones. Raises ModelError for a tensor that the graph
    does not have.
    """
    for name in (*inputs, *outputs):
        if name not in graph.tensors:
            raise ModelError(f"tensor '{name}' is not in graph '{graph.name}'")
    given = set(inputs)
    kept = [node for node in graph.nodes if not given.issuperset(n for n in node.outputs if n)]
    # A node that makes a given tensor and another one as well runs for the sake of the other.
    spare = {n: f"{n}.cut" for node in kept for n in node.outputs if n in given}
    nodes = tuple(attrs.evolve(node, outputs=tuple(spare.get(n, n) for n in node.outputs)) for node in kept)
    cut = graph.with_tensors(attrs.evolve(graph.tensors[n], name=name) for n, name in spare.items())
    part = remove_dead_nodes(cut.evolve(nodes=nodes, inputs=tuple(inputs), outputs=tuple(outputs)))
    return part.evolve(inputs=(*inputs, *(n for n in graph.inputs if n not in given and n in part.tensors)))
