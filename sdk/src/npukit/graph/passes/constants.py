"""Compute at load time what does not depend on the inputs."""

from __future__ import annotations

import attrs
import numpy as np

from npukit.errors import ModelError
from npukit.graph.evaluate import evaluate_node
from npukit.graph.infer import infer_shapes
from npukit.graph.model import Array, Graph, Node, Tensor
from npukit.graph.passes.dead_nodes import remove_dead_nodes
from npukit.graph.protobuf import elem_type

# A constant larger than this is not made out of smaller ones (Expand or Tile of a scalar, say).
MAX_BYTES = 64 << 20
_RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"})


def fold_constants(graph: Graph) -> Graph:
    """Replace nodes whose outputs are known by constants, and skip Identity and Dropout.

    Known are nodes with constant inputs only, and Shape and Size of tensors with static shape. Shapes are inferred again after
    each round, until nothing changes. Graph inputs and outputs keep their names; nodes that cannot be computed stay.
    """
    while True:
        folded = _fold_once(_skip_copies(graph))
        if len(folded.nodes) == len(graph.nodes):
            return folded
        graph = infer_shapes(remove_dead_nodes(folded))


def _fold_once(graph: Graph) -> Graph:
    tensors = dict(graph.tensors)
    kept: list[Node] = []
    for node in graph.nodes:
        values = None if set(node.outputs) & set(graph.outputs) else _values(node, tensors, graph)
        if values is None:
            kept.append(node)
        else:
            tensors |= {n: Tensor.constant(n, v) for n, v in zip(node.outputs, values, strict=True) if n}
    return graph.evolve(nodes=tuple(kept), tensors=tensors)


def _values(node: Node, tensors: dict[str, Tensor], graph: Graph) -> tuple[Array, ...] | None:
    """The outputs of a node when they are known, else None."""
    if node.domain or node.op in _RANDOM or any(isinstance(v, Graph) for v in node.attributes.values()):
        return None
    if node.op in ("Shape", "Size") and (shape := tensors[node.inputs[0]].static_shape) is not None:
        dims = np.asarray(shape, np.int64)
        return (dims[node.get("start", 0) : node.get("end")],) if node.op == "Shape" else (np.asarray(dims.prod(), np.int64),)
    if not all(tensors[name].is_constant for name in node.inputs if name):
        return None
    inputs = [tensors[name].data if name else None for name in node.inputs]
    try:
        values = evaluate_node(node, inputs, graph)
    except ModelError:
        return None
    grown = sum(v.nbytes for v in values) - sum(v.nbytes for v in inputs if v is not None)
    return None if grown > MAX_BYTES else values


def _skip_copies(graph: Graph) -> Graph:
    """Let the readers of what changes nothing (Identity, Dropout, a Cast to the same type) read its input instead."""
    renamed: dict[str, str] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        node = _plain_cast(graph, node)
        inputs = tuple(renamed.get(n, n) for n in node.inputs)
        copies = node.op == "Identity" or (node.op == "Dropout" and not any(node.outputs[1:]) and not _training(graph, node))
        if copies and not node.domain and node.outputs[0] not in graph.outputs:
            renamed[node.outputs[0]] = inputs[0]
        else:
            kept.append(node if inputs == node.inputs else Node(node.op, node.name, inputs, *_rest(node)))
    changed = renamed or any(a is not b for a, b in zip(kept, graph.nodes, strict=True))
    return graph.evolve(nodes=tuple(kept)) if changed else graph


def _plain_cast(graph: Graph, node: Node) -> Node:
    """A CastLike as the Cast that it is, a Cast to the type that is there as an Identity."""
    if node.op not in ("Cast", "CastLike") or node.domain:
        return node
    dtype = graph.tensors[node.outputs[0]].dtype
    if dtype and dtype == graph.tensors[node.inputs[0]].dtype and node.outputs[0] not in graph.outputs:
        return attrs.evolve(node, op="Identity", inputs=node.inputs[:1], attributes={})
    if node.op == "CastLike" and dtype:
        return attrs.evolve(node, op="Cast", inputs=node.inputs[:1], attributes={"to": elem_type(dtype)})
    return node


def _rest(node: Node) -> tuple[tuple[str, ...], dict[str, object], str]:
    return node.outputs, dict(node.attributes), node.domain


def _training(graph: Graph, node: Node) -> bool:
    mode = graph.constant(node.input(2))
    return bool(node.input(2)) and (mode is None or bool(mode))
