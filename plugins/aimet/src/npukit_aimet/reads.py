"""What nodes read, inside their subgraphs too."""

from __future__ import annotations

from npukit.graph import Graph, Node


def reads(graph: Graph, node: Node) -> list[str]:
    """The tensors of ``graph`` that a node reads, its own inputs first; without constants."""
    names = dict.fromkeys([*node.inputs, *sorted(_inner_reads(node))])
    return [n for n in names if n in graph.tensors and not graph.tensor(n).is_constant]


def captured(graph: Graph) -> frozenset[str]:
    """The tensors, constants included, that subgraphs (of If, Loop, Scan) take from outside."""
    return frozenset(n for node in graph.nodes for n in _inner_reads(node) if n in graph.tensors)


def fixed_nodes(graph: Graph) -> list[Node]:
    """The nodes that no input of the graph reaches: what they make is the same for every sample.

    Folding leaves some behind: those that make something large, and those whose output is one of the graph too.
    """
    reached, found = set(graph.inputs), []
    for node in graph.nodes:
        if reached.isdisjoint(reads(graph, node)):
            found.append(node)
        else:
            reached.update(node.outputs)
    return found


def is_own(graph: Graph, name: str) -> bool:
    """Whether a single node reads the tensor, once, and it is no output of the graph. For subgraphs see ``captured``."""
    readers = graph.consumers.get(name, ())
    return len(readers) == 1 and readers[0].inputs.count(name) == 1 and name not in graph.outputs


def _inner_reads(node: Node) -> set[str]:
    """The names in the subgraphs of a node, those that the subgraphs make themselves included."""
    found: set[str] = set()
    for value in node.attributes.values():
        if isinstance(value, Graph):
            found.update(value.outputs, *(n.inputs for n in value.nodes), *(_inner_reads(n) for n in value.nodes))
    return found
