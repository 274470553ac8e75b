"""Which tensors share one grid: what rows tie at a node, and what runs fused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from npukit.backend.constraint import OpConstraint
from npukit.backend.ports import input_ports, output_ports, port_tensor
from npukit.encoding import Shared
from npukit.graph import Graph, Node


def ties(graph: Graph, node: Node, row: OpConstraint) -> Iterator[Shared]:
    hard: set[str] = set()
    soft: set[str] = set()
    for name, port in (*input_ports(node, row), *output_ports(node, row)):
        if port.same_as is not None and graph.tensor(name).is_float:
            (soft if port.soft else hard).update({name, port_tensor(node, port.same_as)})
    rule = f"{node.op} '{node.name}'"
    if hard:
        yield Shared(tuple(sorted(hard)), rule)
    if soft:
        yield Shared(tuple(sorted(soft)), rule, soft=True)


def fused(graph: Graph, sequences: Iterable[tuple[str, ...]]) -> list[Shared]:
    """Ties of the tensors inside fused ops to the output of the last one; the longest sequence wins."""
    found: list[Shared] = []
    for sequence in sorted(set(sequences), key=lambda s: (-len(s), s)):
        for node in graph.nodes:
            chain = _chain(graph, node, sequence)
            if chain is not None:
                found.append(Shared(tuple(chain), "fusion " + "+".join(sequence), inner=tuple(chain[:-1])))
    return found


def _chain(graph: Graph, node: Node, sequence: tuple[str, ...]) -> list[str] | None:
    """The first outputs of nodes that follow one another as ``sequence`` says, each read by the next one only."""
    outputs: list[str] = []
    for index, op in enumerate(sequence):
        if node.op != op or node.domain:
            return None
        outputs.append(node.outputs[0])
        if index + 1 < len(sequence):
            readers = graph.consumers.get(node.outputs[0], ())
            if len(readers) != 1 or node.outputs[0] in graph.outputs or readers[0].inputs[0] != node.outputs[0]:
                return None
            node = readers[0]
    return outputs
