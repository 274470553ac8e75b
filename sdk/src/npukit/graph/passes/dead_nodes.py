"""Remove what no graph output needs."""

from __future__ import annotations

from npukit.graph.model import Graph, Node


def remove_dead_nodes(graph: Graph) -> Graph:
    """Drop nodes and constants that no graph output depends on; graph inputs stay even when unused."""
    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(reads(node))
    made = {name for node in kept for name in node.outputs}
    names = needed | made | set(graph.inputs)
    tensors = {name: t for name, t in graph.tensors.items() if name in names}
    return graph.evolve(nodes=tuple(reversed(kept)), tensors=tensors)


def reads(node: Node) -> set[str]:
    """The tensors a node reads, those that its subgraphs take from outside included."""
    names = {n for n in node.inputs if n}
    for value in node.attributes.values():
        if isinstance(value, Graph):
            names |= set().union(set(value.outputs), *(reads(n) for n in value.nodes))
    return names
