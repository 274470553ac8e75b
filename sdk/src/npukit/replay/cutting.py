"""A graph in pieces, and what of it follows from a change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from npukit.graph import Graph, Node, reads


@attrs.frozen(eq=False)
class Piece:
    """Nodes that run in one go, in order, from ``inputs`` to ``outputs``: names of tensors. Constants are no inputs."""

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, graph: Graph, nodes: Iterable[Node], outputs: Iterable[str]) -> Piece:
        """The piece of these nodes of ``graph``; its inputs are what they read and do not make."""
        nodes = tuple(nodes)
        return cls(nodes, frontier(graph, nodes), tuple(outputs))


def cut(graph: Graph, chains: Iterable[Sequence[Node]], ends: Iterable[str] = ()) -> tuple[Piece, ...]:
    """A piece for every chain of nodes, in the order given, in which they can run. Its outputs are what other pieces read, and
    those of ``ends`` that it makes; a piece that nobody waits for has none."""
    chains = [tuple(nodes) for nodes in chains]
    wanted = {*ends, *(name for nodes in chains for name in frontier(graph, nodes))}
    made = (dict.fromkeys(n for node in nodes for n in node.outputs) for nodes in chains)
    return tuple(Piece.of(graph, nodes, (n for n in names if n in wanted)) for nodes, names in zip(chains, made, strict=True))


def frontier(graph: Graph, nodes: Iterable[Node]) -> tuple[str, ...]:
    """The tensors, constants excepted, that the nodes read and none of them makes."""
    nodes = tuple(nodes)
    made = {n for node in nodes for n in node.outputs}
    names = dict.fromkeys(n for node in nodes for n in reads(graph, node) if n not in made)
    return tuple(n for n in names if not graph.tensor(n).is_constant)


def downstream(graph: Graph, tensors: Iterable[str]) -> tuple[Node, ...]:
    """The nodes whose outputs depend on the tensors; the maker of a graph output among them too, as its name must be made anew."""
    touched = set(tensors)
    ends = touched.intersection(graph.outputs)
    nodes = []
    for node in graph.nodes:
        if touched.intersection(reads(graph, node)) or ends.intersection(node.outputs):
            nodes.append(node)
            touched.update(n for n in node.outputs if n)
    return tuple(nodes)


def following(pieces: Iterable[Piece], tensors: Iterable[str]) -> tuple[int, ...]:
    """The indices of the pieces that a change of the tensors reaches, in order; those that make the tensors are not among them."""
    reached = set(tensors)
    found = []
    for index, piece in enumerate(pieces):
        if reached.intersection(piece.inputs):
            found.append(index)
            reached.update(piece.outputs)
    return tuple(found)
