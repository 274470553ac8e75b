"""Who reads what: nodes that no input reaches, tensors with a single reader."""

from __future__ import annotations

from npukit.graph import Graph, Node, reads


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
    """Whether a single node reads the tensor, once, and it is no output of the graph. Subgraphs: see ``captured``."""
    readers = graph.consumers.get(name, ())
    return len(readers) == 1 and readers[0].inputs.count(name) == 1 and name not in graph.outputs
