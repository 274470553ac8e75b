"""Rewrites of the graph that the HTP needs: ops that only exist as parts of larger ones."""

from __future__ import annotations

import math

import attrs
import numpy as np

from npukit.graph import Graph, Node, Tensor, fuse

# What the HTP computes as one op, and better so than in pieces (docs/explanation/patterns.md).
_OPS = ("Gelu", "HardSwish", "HardSigmoid", "Softplus", "Softmax", "LayerNormalization", "RMSNormalization")
_NORM_RANK = 4
_RMS_NORMS = ("RMSNormalization", "SimplifiedLayerNormalization")


def fuse_ops(graph: Graph) -> Graph:
    """Put the ops that the HTP has together, whatever their spelling (``npukit.graph.fuse``)."""
    return fuse(graph, _OPS, _taken)


def flatten_norms(graph: Graph) -> Graph:
    """Write the axis of RMSNormalization as -1, and compute more than three dimensions on three, between two Reshapes.

    The simulator gets only the first rows of four dimensions right at 8 bit (see the caveat of the op).
    """
    nodes: list[Node] = []
    tensors: list[Tensor] = []
    for node in graph.nodes:
        made = None
        if node.op in _RMS_NORMS and not node.domain:
            node = _from_the_end(graph, node)
            made = _on_three(graph, node)
        nodes += [node] if made is None else made[0]
        tensors += [] if made is None else made[1]
    return graph.evolve(nodes=tuple(nodes)).with_tensors(tensors)


def _from_the_end(graph: Graph, node: Node) -> Node:
    """A norm of the last axis with that axis written as -1, which is the only way that the provider takes."""
    rank = len(graph.tensor(node.inputs[0]).shape or ())
    return attrs.evolve(node, attributes={**node.attributes, "axis": -1}) if node.get("axis", -1) == rank - 1 else node


def _on_three(graph: Graph, node: Node) -> tuple[list[Node], list[Tensor]] | None:
    """The nodes and the tensors between them, None for a norm that has no more dimensions or another form."""
    x, y = graph.tensor(node.inputs[0]), node.outputs[0]
    shape = x.shape or ()
    if len(shape) < _NORM_RANK or node.get("axis", -1) != -1 or not all(isinstance(d, int) for d in shape[2:]):
        return None
    rows, normed, to_rows, from_rows = (f"{y}.{part}" for part in ("rows", "normed", "to_rows", "from_rows"))
    count = math.prod(d for d in shape[1:-1] if isinstance(d, int)) if isinstance(shape[1], int) else None
    between = [Tensor(name, x.dtype, (shape[0], count, shape[-1])) for name in (rows, normed)]
    shapes = [
        Tensor.constant(to_rows, np.array([0, -1, shape[-1]], np.int64)),
        Tensor.constant(from_rows, np.array([0, -1, *shape[2:]], np.int64)),
    ]
    return [
        Node("Reshape", f"{node.name}.to_rows", (x.name, to_rows), (rows,)),
        attrs.evolve(node, inputs=(rows, *node.inputs[1:]), outputs=(normed,)),
        Node("Reshape", f"{node.name}.from_rows", (normed, from_rows), (y,)),
    ], between + shapes


_PAIRS = {"Max": "Max", "Sum": "Add"}


def pair_up(graph: Graph) -> Graph:
    """Write Sum, and Max of many tensors, as nodes of two tensors, which compute on codes.

    The others run in float16 (onnxruntime-qnn 2.7.0 takes them without their Q/DQ nodes). The vendor's converter has Sum as
    ElementWiseAdd as well. Min stays as it is: the chip has none of two tensors of int16.
    """
    nodes: list[Node] = []
    tensors: list[Tensor] = []
    for node in graph.nodes:
        if node.op not in _PAIRS or node.domain or not _pairs_up(graph, node):
            nodes.append(node)
            continue
        op, made, count = _PAIRS[node.op], node.inputs[0], len(node.inputs) - 1
        out = graph.tensor(node.outputs[0])
        for index, other in enumerate(node.inputs[1:]):
            is_last = index == count - 1
            result = out.name if is_last else f"{out.name}.{index}"
            nodes.append(Node(op, node.name if is_last else f"{node.name}.{index}", (made, other), (result,)))
            tensors += [] if is_last else [Tensor(result, out.dtype, out.shape)]
            made = result
    return graph.evolve(nodes=tuple(nodes)).with_tensors(tensors)


def _pairs_up(graph: Graph, node: Node) -> bool:
    """Whether it is floats, several of them, and every partial result has the shape of the whole."""
    count, out = len(node.inputs), graph.tensor(node.outputs[0])
    if out.dtype != "float32" or count < 2:
        return False
    return count == 2 or all(graph.tensor(name).shape == out.shape for name in node.inputs)


def divide(graph: Graph) -> Graph:
    """Write x * Reciprocal(y) as x / y, as Reciprocal saturates for small inputs (see its caveat); other readers keep it."""
    nodes = tuple(_quotient(graph, node) for node in graph.nodes)
    return graph if all(a is b for a, b in zip(nodes, graph.nodes, strict=True)) else graph.evolve(nodes=nodes)


def _quotient(graph: Graph, node: Node) -> Node:
    if node.op != "Mul" or node.domain:
        return node
    for x, factor in (node.inputs, node.inputs[::-1]):
        inverse = graph.producers.get(factor)
        if inverse is not None and inverse.op == "Reciprocal" and not inverse.domain and not graph.is_constant(x):
            return attrs.evolve(node, op="Div", inputs=(x, inverse.inputs[0]))
    return node


def _taken(graph: Graph, node: Node) -> bool:
    """Whether the HTP has the op in this form: norms over the last axis only, in at most four dimensions unless it is flattened."""
    shape = graph.tensor(node.inputs[0]).shape or ()
    flat = node.op == "RMSNormalization" and all(isinstance(d, int) for d in shape[2:])
    fits = node.get("axis") == -1 and (flat or len(shape) <= _NORM_RANK)
    return node.op not in ("LayerNormalization", "RMSNormalization") or fits
