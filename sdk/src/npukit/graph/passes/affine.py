"""Fold what scales and shifts each channel into the convolution or matrix product in front of it."""

from __future__ import annotations

import math

import attrs
import numpy as np

from npukit.graph.model import Array, Graph, Node, Tensor
from npukit.graph.passes.dead_nodes import remove_dead_nodes
from npukit.graph.protobuf import numpy_type

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})  # their output channels are axis 1


def fold_affine(graph: Graph) -> Graph:
    """Fold BatchNormalization, and Mul, Div, Add or Sub with constants per channel, into the Conv, ConvTranspose, Gemm or MatMul of
    matrices whose result nobody else reads. A MatMul with a shift becomes a Gemm, whose bias it is.

    Each is y = gain * x + shift, so W' = W * gain per output channel, b' = b * gain + shift; for a batch norm gain is
    scale / sqrt(var + epsilon) and shift is bias - mean * gain (Jacob et al. 2017, https://arxiv.org/abs/1712.05877, section 3.2).
    The folded node makes the tensor that the last of them made, so all later names stay; the tensors between disappear and are kept
    in ``origin_names``. A constant C of a Gemm that all channels share is spread over them: a bias has scales per channel.
    """
    graph = _spread_biases(graph)
    while True:
        folded = _fold_once(graph)
        if folded is graph:
            return graph
        graph = remove_dead_nodes(folded)


def _spread_biases(graph: Graph) -> Graph:
    tensors, nodes = dict(graph.tensors), []
    for node in graph.nodes:
        bias = graph.constant(node.input(2)) if node.op == "Gemm" and not node.domain and node.input(2) else None
        weight = graph.tensor(node.input(1)).static_shape if bias is not None else None
        if bias is not None and weight is not None and len(weight) == 2 and bias.shape[-1:] in ((), (1,)):
            alone = len(graph.consumers[node.input(2)]) == 1
            name = node.input(2) if alone else f"{node.outputs[0]}.bias"
            channels = weight[0 if node.get("transB", 0) else 1]
            tensors[name] = Tensor.constant(name, np.array(np.broadcast_to(bias, (*bias.shape[:-1], channels))))
            node = attrs.evolve(node, inputs=(*node.inputs[:2], name))
        nodes.append(node)
    changed = any(a is not b for a, b in zip(nodes, graph.nodes, strict=True))
    return graph.evolve(nodes=tuple(nodes), tensors=tensors) if changed else graph


def _fold_once(graph: Graph) -> Graph:
    replaced: dict[int, Node] = {}
    dropped: set[int] = set()
    tensors = dict(graph.tensors)
    origins = dict(graph.origin_names)
    for follower in graph.nodes:
        node = _product_before(graph, follower)
        if node is None or id(node) in dropped:  # a chain is folded from its front, one step at a time
            continue
        line = _line(graph, node, follower)
        if line is None:
            continue
        new, constants = _fold(graph, node, follower, *line)
        tensors |= {t.name: t for t in constants}
        middle = node.outputs[0]
        origins[follower.outputs[0]] = (*origins.get(middle, (middle,)), follower.outputs[0])
        replaced[id(node)] = new
        dropped.add(id(follower))
    if not dropped:
        return graph
    nodes = tuple(replaced.get(id(n), n) for n in graph.nodes if id(n) not in dropped)
    return graph.evolve(nodes=nodes, tensors=tensors, origin_names=origins)


def _product_before(graph: Graph, follower: Node) -> Node | None:
    """The node with constant weights whose result only ``follower`` reads, None when there is no such node."""
    for name in follower.inputs:
        node = graph.producers.get(name)
        if node is None or node.op not in _PRODUCTS or node.domain or name in graph.outputs:
            continue
        constants = [node.input(1), *([node.input(2)] if node.input(2) else [])]
        alone = len(graph.consumers[name]) == 1 and follower.inputs.count(name) == 1
        if alone and all(graph.is_constant(n) for n in constants) and _has_channels(graph, node):
            return node
    return None


def _has_channels(graph: Graph, node: Node) -> bool:
    """Whether a matrix product is one of matrices, and the bias of a Gemm one of channels."""
    if node.op not in ("Gemm", "MatMul"):
        return True
    ranks = [len(graph.tensor(n).shape or ()) for n in (node.inputs[1], node.outputs[0])]
    return ranks == [2, 2] and (not node.input(2) or graph.tensor(node.input(2)).size in (1, _channels(graph, node)))


def _channels(graph: Graph, node: Node) -> int:
    shape = graph.tensor(node.inputs[1]).static_shape or ()
    if node.op == "ConvTranspose":
        return shape[1] * int(node.get("group", 1))
    return shape[1] if node.op == "MatMul" or (node.op == "Gemm" and not node.get("transB", 0)) else shape[0]


def _line(graph: Graph, node: Node, follower: Node) -> tuple[Array, Array] | None:
    """Gain and shift of a follower, float64 of one value per channel or one for all; None when it does something else."""
    if follower.domain or len(follower.inputs) < 2:
        return None
    if follower.op == "BatchNormalization":
        return _norm_line(graph, node, follower)
    first = follower.inputs[0] == node.outputs[0]
    c = _per_channel(graph, node, follower.inputs[1 if first else 0])
    if c is None or len(follower.inputs) != 2:
        return None
    one, zero = np.ones(1), np.zeros(1)
    if follower.op == "Mul":
        return c, zero
    if follower.op == "Div" and first and np.all(c):
        return 1 / c, zero
    if follower.op == "Add":
        return one, c
    if follower.op == "Sub":
        return (one, -c) if first else (-one, c)
    return None


def _norm_line(graph: Graph, node: Node, norm: Node) -> tuple[Array, Array] | None:
    sizes = {graph.tensor(name).shape for name in norm.inputs[1:]}
    fits = norm.inputs[0] == node.outputs[0] and len(norm.inputs) == 5 and sizes == {(_channels(graph, node),)}
    if not fits or norm.get("training_mode", 0) or any(norm.outputs[1:]) or not all(map(graph.is_constant, norm.inputs[1:])):
        return None
    scale, shift, mean, variance = (_data(graph, name) for name in norm.inputs[1:])
    gain = scale / np.sqrt(variance + norm.get("epsilon", 1e-5))
    return gain, shift - mean * gain


def _per_channel(graph: Graph, node: Node, name: str) -> Array | None:
    """A constant that has one value for each output channel, or one for all, flat; None when it is something else."""
    tensor, shape = graph.tensor(name), graph.tensor(node.outputs[0]).shape
    if not tensor.is_constant or not tensor.is_float or tensor.static_shape is None or shape is None:
        return None
    full = (1,) * (len(shape) - len(tensor.static_shape)) + tensor.static_shape
    channels = full[1] if len(full) == len(shape) > 1 else 0
    fits = channels in (1, _channels(graph, node)) and math.prod(full) == channels
    return _data(graph, name).reshape(-1) if fits else None


def _fold(graph: Graph, node: Node, follower: Node, gain: Array, shift: Array) -> tuple[Node, list[Tensor]]:
    weight = graph.tensor(node.inputs[1])
    alpha, beta = (node.get("alpha", 1.0), node.get("beta", 1.0)) if node.op == "Gemm" else (1.0, 1.0)
    channels = _channels(graph, node)
    bias = beta * _data(graph, node.input(2)).reshape(-1) if node.input(2) else np.zeros(1)
    new_bias = np.broadcast_to(bias * gain + shift, channels)
    inputs, made = [node.inputs[0], weight.name], []
    if alpha != 1 or np.any(gain != 1):
        # A weight that other nodes read keeps its values there, so the folded one needs a name of its own.
        inputs[1] = weight.name if len(graph.consumers[weight.name]) == 1 else f"{node.outputs[0]}.weight"
        scaled = alpha * _scaled(node, _data(graph, weight.name), np.broadcast_to(gain, channels))
        made.append(Tensor.constant(inputs[1], scaled.astype(numpy_type(weight.dtype))))
    op = node.op
    if node.input(2) or np.any(new_bias):
        op = "Gemm" if op == "MatMul" else op
        alone = node.input(2) and len(graph.consumers[node.input(2)]) == 1
        inputs.append(node.input(2) if alone else f"{follower.outputs[0]}.bias")
        made.append(Tensor.constant(inputs[2], new_bias.astype(numpy_type(weight.dtype))))
    attributes = {k: v for k, v in node.attributes.items() if k not in ("alpha", "beta")}
    return attrs.evolve(node, op=op, inputs=tuple(inputs), outputs=follower.outputs, attributes=attributes), made


def _data(graph: Graph, name: str) -> Array:
    """The values of a constant as float64."""
    data = graph.constant(name)
    assert data is not None  # the caller has looked
    return data.astype(np.float64)


def _scaled(node: Node, weight: Array, gain: Array) -> Array:
    """The weight with each output channel multiplied by its gain."""
    if node.op == "Conv":
        return weight * gain.reshape((-1,) + (1,) * (weight.ndim - 1))
    if node.op in ("Gemm", "MatMul"):
        return weight * (gain[:, None] if node.get("transB", 0) else gain)
    # ConvTranspose weights are [in, out / group, ...]; the output channels run group by group.
    groups = node.get("group", 1)
    split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return np.asarray((split * gain.reshape(groups, 1, -1)[..., None]).reshape(weight.shape))
