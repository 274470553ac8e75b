"""Fold batch normalization into the convolution or matrix product in front of it."""

from __future__ import annotations

import attrs
import numpy as np

from npukit.graph.model import Array, Graph, Node, Tensor
from npukit.graph.passes.dead_nodes import remove_dead_nodes

_FOLDABLE = frozenset({"Conv", "ConvTranspose", "Gemm"})


def fold_batch_norm(graph: Graph) -> Graph:
    """Fold every BatchNormalization whose input comes from a Conv, ConvTranspose or Gemm that nobody else reads.

    With g = scale / sqrt(var + epsilon): W' = W * g per output channel, b' = (b - mean) * g + bias (Jacob et al. 2017,
    https://arxiv.org/abs/1712.05877, section 3.2). The folded node makes the tensor that the BatchNormalization made, so all
    later names stay; the tensor between the two disappears and is kept in ``origin_names``.
    """
    folded: dict[int, Node] = {}
    dropped: set[int] = set()
    tensors = dict(graph.tensors)
    origins = dict(graph.origin_names)
    for norm in graph.nodes:
        node = graph.producers.get(norm.input(0)) if norm.op == "BatchNormalization" and not norm.domain else None
        if node is None or not _can_fold(graph, node, norm):
            continue
        new, constants = _fold(graph, node, norm)
        tensors |= {t.name: t for t in constants}
        origins[norm.outputs[0]] = (node.outputs[0], norm.outputs[0])
        folded[id(node)] = new
        dropped.add(id(norm))
    nodes = tuple(folded.get(id(n), n) for n in graph.nodes if id(n) not in dropped)
    return remove_dead_nodes(graph.evolve(nodes=nodes, tensors=tensors, origin_names=origins))


def _can_fold(graph: Graph, node: Node, norm: Node) -> bool:
    middle = node.outputs[0]
    constants = [*norm.inputs[1:5], node.input(1), *([node.input(2)] if node.input(2) else [])]
    return (
        node.op in _FOLDABLE
        and not node.domain
        and len(graph.consumers[middle]) == 1
        and middle not in graph.outputs
        and not norm.get("training_mode", 0)
        and not any(norm.outputs[1:])
        and all(graph.is_constant(name) for name in constants)
        and _fits(graph, node, norm)
        and (node.op != "Gemm" or not node.input(2) or _bias_is_vector(graph, node))
    )


def _fits(graph: Graph, node: Node, norm: Node) -> bool:
    """Whether the norm has all four parameters, each with one value per output channel of the node."""
    shape = graph.tensor(node.outputs[0]).shape
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    sizes = {graph.tensor(name).shape for name in norm.inputs[1:5]}
    return len(norm.inputs) == 5 and len(sizes) == 1 and sizes == {(channels,)}


def _bias_is_vector(graph: Graph, node: Node) -> bool:
    bias, weight = graph.tensor(node.input(2)), graph.tensor(node.input(1)).static_shape
    return weight is not None and bias.size in (1, weight[0 if node.get("transB", 0) else 1])


def _fold(graph: Graph, node: Node, norm: Node) -> tuple[Node, list[Tensor]]:
    scale, shift, mean, variance = (_data(graph, norm.inputs[i]).astype(np.float64) for i in range(1, 5))
    gain = scale / np.sqrt(variance + norm.get("epsilon", 1e-5))
    weight = _data(graph, node.input(1))
    alpha, beta = (node.get("alpha", 1.0), node.get("beta", 1.0)) if node.op == "Gemm" else (1.0, 1.0)
    bias = beta * _data(graph, node.input(2)).astype(np.float64).reshape(-1) if node.input(2) else np.zeros(1)
    new_bias = (bias - mean) * gain + shift
    new_weight = alpha * _scaled(node, weight, gain)
    # A weight that other nodes read keeps its values there, so the folded one needs a name of its own.
    alone = len(graph.consumers[node.input(1)]) == 1
    weight_name = node.input(1) if alone else f"{node.outputs[0]}.weight"
    bias_name = node.input(2) if node.input(2) and len(graph.consumers[node.input(2)]) == 1 else f"{norm.outputs[0]}.bias"
    attributes = {k: v for k, v in node.attributes.items() if k not in ("alpha", "beta")}
    new = attrs.evolve(node, inputs=(node.inputs[0], weight_name, bias_name), outputs=(norm.outputs[0],), attributes=attributes)
    return new, [
        Tensor.constant(weight_name, new_weight.astype(weight.dtype)),
        Tensor.constant(bias_name, new_bias.astype(weight.dtype)),
    ]


def _data(graph: Graph, name: str) -> Array:
    data = graph.constant(name)
    assert data is not None  # _can_fold has looked
    return data


def _scaled(node: Node, weight: Array, gain: Array) -> Array:
    """The weight with each output channel multiplied by its gain."""
    values = weight.astype(np.float64)
    if node.op == "Conv":
        return values * gain.reshape((-1,) + (1,) * (values.ndim - 1))
    if node.op == "Gemm":
        return values * (gain[:, None] if node.get("transB", 0) else gain)
    # ConvTranspose weights are [in, out / group, ...]; the output channels run group by group.
    groups = node.get("group", 1)
    per_group = gain.reshape(groups, 1, -1)
    split = values.reshape(groups, values.shape[0] // groups, values.shape[1], -1)
    return np.asarray((split * per_group[..., None]).reshape(values.shape))
