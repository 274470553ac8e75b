"""Remove what no graph output needs."""

from __future__ import annotations

from npukit.graph.model import Graph, Node
from npukit.graph.usage import reads


def remove_dead_nodes(graph: Graph) -> Graph:
    """Drop nodes and constants that no graph output depends on; graph inputs stay even when unused."""
    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(reads(graph, node))
    made = {name for node in kept for name in node.outputs}
    names = needed | made | set(graph.inputs)
    tensors = {name: t for name, t in graph.tensors.items() if name in names}
    return graph.evolve(nodes=tuple(reversed(kept)), tensors=tensors)
