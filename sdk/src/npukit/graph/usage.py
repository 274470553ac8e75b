"""What nodes read, inside their subgraphs too."""

from __future__ import annotations

from npukit.graph.model import Graph, Node


def reads(graph: Graph, node: Node) -> list[str]:
    """The tensors of ``graph``, constants included, that a node reads: its own inputs first, then those of its subgraphs."""
    names = dict.fromkeys((*node.inputs, *sorted(_inner_reads(node))))
    return [n for n in names if n in graph.tensors]


def captured(graph: Graph) -> frozenset[str]:
    """The tensors, constants included, that subgraphs (of If, Loop, Scan) take from outside."""
    return frozenset(n for node in graph.nodes for n in _inner_reads(node) if n in graph.tensors)


def _inner_reads(node: Node) -> set[str]:
    """The names in the subgraphs of a node, those that the subgraphs make themselves included."""
    found: set[str] = set()
    for value in node.attributes.values():
        if isinstance(value, Graph):
            found.update(value.outputs, *(n.inputs for n in value.nodes), *(_inner_reads(n) for n in value.nodes))
    return found
