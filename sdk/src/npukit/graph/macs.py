"""How many multiply-accumulates a node is made of."""

from __future__ import annotations

import math

from npukit.graph.model import Graph, Node

# Where an op that multiplies has its two operands among its inputs.
_OPERANDS = {"QLinearConv": (0, 3), "QLinearMatMul": (0, 3)} | dict.fromkeys(
    ("Conv", "ConvInteger", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger", "LSTM", "GRU", "RNN"), (0, 1)
)


def mac_operands(node: Node) -> tuple[str, str]:
    """The names of the two tensors that a node multiplies; only for nodes with multiply-accumulates."""
    first, second = _OPERANDS.get(node.op, (0, 1))
    return node.input(first), node.input(second)


def count_macs(graph: Graph, node: Node) -> int | None:
    """Multiply-accumulates of one node, an open batch counting as 1.

    0 for ops that are not made of them (elementwise ones and biases do not count); None when a shape is not known, and for ops
    whose cost depends on the data or is not known here: those with subgraphs and those outside the standard domain.
    """
    if node.domain or any(isinstance(value, Graph) for value in node.attributes.values()):
        return None
    if node.op == "Einsum":
        return _einsum_macs(graph, node)
    if node.op not in _OPERANDS:
        return 0
    x, w = (sample_shape(graph, node.input(index)) for index in _OPERANDS[node.op])
    out = sample_shape(graph, node.outputs[0])
    if node.op in ("LSTM", "GRU", "RNN"):
        recurrent = sample_shape(graph, node.input(2))
        # Every time step of every batch entry goes through the input and the recurrent weights of each direction once.
        return math.prod(x[:2]) * (math.prod(w) + math.prod(recurrent)) if x and w and recurrent else None
    if not x or not w or out is None:
        return None
    if node.op.endswith(("Conv", "ConvInteger")):
        return math.prod(out) * math.prod(w[1:])
    if node.op == "ConvTranspose":
        return math.prod(x) * math.prod(w[1:])
    inner = x[0] if node.op == "Gemm" and node.get("transA", 0) else x[-1]
    return math.prod(out) * inner


def _einsum_macs(graph: Graph, node: Node) -> int | None:
    """The product of all index sizes for two operands; None for more, or with an ellipsis."""
    terms = str(node.get("equation", "")).replace(" ", "").split("->")[0].split(",")
    shapes = [sample_shape(graph, name) for name in node.inputs]
    if len(terms) == 1:
        return 0
    if len(terms) != 2 or len(shapes) != 2:
        return None
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        if shape is None or len(term) != len(shape) or not term.isalpha():
            return None
        sizes.update(zip(term, shape, strict=True))
    return math.prod(sizes.values())


def sample_shape(graph: Graph, name: str) -> tuple[int, ...] | None:
    """The dimensions of a tensor, a symbolic batch counting as 1; None when it is absent or another one is not known."""
    shape = graph.tensor(name).shape if name else None
    if shape is None or any(not isinstance(d, int) for d in shape[1:]):
        return None
    return tuple(d if isinstance(d, int) else 1 for d in shape)
