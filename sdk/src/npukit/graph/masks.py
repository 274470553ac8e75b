"""Where very small values mean "leave this out": in front of a Softmax."""

from __future__ import annotations

from npukit.graph.model import Graph, Node

MASK = -1000.0
"""A value in front of a Softmax that lies below this belongs to a mask; scores do not get there."""

# Each value of the output is one of an input, or the sum of one of each.
_MOVERS = frozenset(
    {"Reshape", "Transpose", "Expand", "Unsqueeze", "Squeeze", "Slice", "Gather", "Concat", "Flatten", "Tile", "Cast"}
)


def before_softmax(graph: Graph) -> frozenset[str]:
    """The float tensors, constants and graph inputs among them, that only reach the data input of Softmax nodes, moved, added up or
    chosen from: additive attention masks and scores. Of two values far enough apart only the larger one matters there.
    """
    found: set[str] = set()
    outputs = set(graph.outputs)
    for node in reversed(graph.nodes):
        for name in mask_operands(graph, node, found):
            if name in graph.tensors and graph.tensors[name].is_float and name not in outputs:
                readers = graph.consumers[name]
                if all(name in mask_operands(graph, reader, found) and reader.inputs.count(name) == 1 for reader in readers):
                    found.add(name)
    return frozenset(found)


def mask_operands(graph: Graph, node: Node, before: frozenset[str] | set[str]) -> tuple[str, ...]:
    """The inputs of a node that hold scores or masks when its output is among ``before``, or when it is a Softmax; those of
    an Equal that asks whether something is left out."""
    if node.domain:
        return ()
    if node.op == "Softmax":
        return node.inputs[:1]
    if node.op == "Equal":
        return node.inputs if _asks_for_a_mask(graph, node) else ()
    if node.outputs[0] not in before:
        return ()
    if node.op in ("Add", "Concat", "Max"):
        return node.inputs
    if node.op == "ReduceMax":
        return node.inputs[:1]
    if node.op == "Where":
        return node.inputs[1:]
    if node.op == "Pad":
        return tuple(filter(None, (node.inputs[0], node.input(2))))
    return node.inputs[:1] if node.op in _MOVERS else ()


def _asks_for_a_mask(graph: Graph, node: Node) -> bool:
    """Whether an Equal compares with a constant of the size of masks."""
    constants = [graph.constant(n) for n in node.inputs if graph.tensor(n).is_float]
    return any(c is not None and c.size == 1 and float(c.reshape(-1)[0]) < MASK for c in constants)
