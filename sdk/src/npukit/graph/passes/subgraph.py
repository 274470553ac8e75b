"""A part of a graph as a graph of its own."""

from __future__ import annotations

from collections.abc import Sequence

from npukit.errors import ModelError
from npukit.graph._types import Graph
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
    nodes = tuple(node for node in graph.nodes if not given.issuperset(n for n in node.outputs if n))
    part = remove_dead_nodes(graph.evolve(nodes=nodes, inputs=tuple(inputs), outputs=tuple(outputs)))
    return part.evolve(inputs=(*inputs, *(n for n in graph.inputs if n not in given and n in part.tensors)))
