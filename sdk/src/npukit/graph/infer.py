"""Graphs from parts: order, consistency, and the shapes that follow."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from npukit.errors import ModelError, one_line
from npukit.graph.model import Array, Graph, Node, Shape, Tensor
from npukit.graph.protobuf import merged_shape, type_of
from npukit.graph.write import to_model

CANONICAL_OPSET = 21


def make_graph(
    nodes: Sequence[Node],
    inputs: Mapping[str, tuple[str, Shape]],
    outputs: Sequence[str],
    constants: Mapping[str, Array] | None = None,
    *,
    opset: int = CANONICAL_OPSET,
    name: str = "graph",
) -> Graph:
    """Build a graph from its parts, with shapes inferred; raises ModelError when they do not fit together."""
    tensors = {n: Tensor(n, dtype, shape) for n, (dtype, shape) in inputs.items()}
    tensors |= {n: Tensor.constant(n, np.asarray(data)) for n, data in (constants or {}).items()}
    made = {n: Tensor(n) for node in nodes for n in node.outputs if n}
    domains = {node.domain: 1 for node in nodes if node.domain}
    graph = Graph(name, sorted_nodes(nodes, set(tensors)), tensors | made, tuple(inputs), tuple(outputs), opset, domains)
    check_graph(graph)
    return infer_shapes(graph)


def check_graph(graph: Graph) -> None:
    """Raise ModelError unless every input is defined before it is used and every tensor is made once."""
    known = {n for n, t in graph.tensors.items() if t.is_constant} | set(graph.inputs)
    for node in graph.nodes:
        for name in node.inputs:
            if name and name not in known:
                raise ModelError(f"node '{node.name}' ({node.op}) reads tensor '{name}', which nothing makes")
        for name in node.outputs:
            if name in known:
                raise ModelError(f"node '{node.name}' ({node.op}) makes tensor '{name}', which exists already")
            if name:
                known.add(name)
            if name and name not in graph.tensors:
                raise ModelError(f"tensor '{name}' of node '{node.name}' ({node.op}) is not listed")
    for name in graph.outputs:
        if name not in known:
            raise ModelError(f"graph output '{name}' is made by no node")


def sorted_nodes(nodes: Sequence[Node], known: set[str]) -> tuple[Node, ...]:
    """The nodes in topological order, the given order kept where it is one already."""
    made: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.outputs:
            if name and (name in made or name in known):
                raise ModelError(f"tensor '{name}' is made twice, the second time by node '{node.name}' ({node.op})")
            if name:
                made[name] = index
    missing = {i: {made[n] for n in node.inputs if n in made} for i, node in enumerate(nodes)}
    for node in nodes:
        for name in node.inputs:
            if name and name not in known and name not in made:
                raise ModelError(f"node '{node.name or node.outputs[0]}' ({node.op}) reads tensor '{name}', which nothing makes")
    readers: dict[int, list[int]] = {}
    for index, needs in missing.items():
        for need in needs:
            readers.setdefault(need, []).append(index)
    ready = [i for i, needs in missing.items() if not needs]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers.get(index, ()):
            missing[reader].discard(index)
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = sorted(set(range(len(nodes))) - set(order))
        names = ", ".join(f"'{nodes[i].name or nodes[i].outputs[0]}'" for i in stuck[:5])
        raise ModelError(f"the graph has a cycle through nodes {names}")
    return tuple(nodes[i] for i in order)


def infer_shapes(graph: Graph) -> Graph:
    """Fill in dtypes and shapes of the non-constant tensors that ONNX shape inference knows; others stay as they are."""
    model, _ = to_model(graph, "", stub=True)
    for value in model.graph.value_info:
        value.type.ClearField("value")
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.Clear()
    while True:
        try:
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except Exception as error:
            raise ModelError(f"the shapes of the model do not fit: {one_line(error)}") from None
        if not _hint(model, inferred):
            break
    found = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        old = graph.tensors.get(value.name)
        if old is not None and not old.is_constant and value.name not in graph.inputs:
            dtype, shape = type_of(value)
            found[value.name] = Tensor(value.name, dtype or old.dtype, merged_shape(shape, old.shape))
    return graph.with_tensors(found.values())


def _hint(model: onnx.ModelProto, inferred: onnx.ModelProto) -> bool:
    """Add to ``model`` the types of outputs that inference did not reach though it knows the inputs they follow from."""
    graph = inferred.graph
    known = {v.name: v.type for v in (*graph.value_info, *graph.input, *graph.output) if v.type.WhichOneof("value")}
    known |= {t.name: helper.make_tensor_type_proto(t.data_type, list(t.dims)) for t in graph.initializer}
    outputs = {v.name: v for v in model.graph.output}
    added = False
    for node in graph.node:
        rule = _OUTPUT_TYPES.get(f"{node.domain}.{node.op_type}".removeprefix("."))
        if rule is None or node.output[0] in known or not all(name in known for name in node.input if name):
            continue
        found = rule(node, [known[name] for name in node.input if name])
        if found is not None:
            name = node.output[0]
            value = outputs[name] if name in outputs else model.graph.value_info.add(name=name)
            value.type.CopyFrom(found)
            added = True
    return added


def _like_first(node: onnx.NodeProto, types: Sequence[onnx.TypeProto]) -> onnx.TypeProto | None:
    return types[0]


def _like_product(node: onnx.NodeProto, types: Sequence[onnx.TypeProto]) -> onnx.TypeProto | None:
    """FusedMatMul: a MatMul whose operands may be transposed; None when their ranks leave it open."""
    turned = {a.name: bool(a.i) for a in node.attribute}
    left, right = ([*t.tensor_type.shape.dim] for t in types[:2])
    if turned.get("transBatchA") or turned.get("transBatchB") or min(len(left), len(right)) < 2:
        return None
    batch = left[:-2] if len(left) >= len(right) else right[:-2]
    row, column = left[-1 if turned.get("transA") else -2], right[-2 if turned.get("transB") else -1]
    return _with_dims(types[0], [*batch, row, column])


def _like_columns(node: onnx.NodeProto, types: Sequence[onnx.TypeProto]) -> onnx.TypeProto | None:
    """MatMulNBits: the last dimension becomes N."""
    (columns,) = (a.i for a in node.attribute if a.name == "N")
    return _with_dims(types[0], [*types[0].tensor_type.shape.dim[:-1], onnx.TensorShapeProto.Dimension(dim_value=columns)])


def _with_dims(like: onnx.TypeProto, dims: Iterable[onnx.TensorShapeProto.Dimension]) -> onnx.TypeProto:
    shape = onnx.TensorShapeProto(dim=dims)
    return onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=like.tensor_type.elem_type, shape=shape))


# Ops that ONNX does not know, or defines by functions that its shape inference does not look into: how the type of their output
# follows from the types of their inputs (for com.microsoft: the operator documentation of ONNX Runtime, ContribOperators.md).
_OUTPUT_TYPES: Mapping[str, Callable[[onnx.NodeProto, Sequence[onnx.TypeProto]], onnx.TypeProto | None]] = {
    "GroupNormalization": _like_first,
    "SimplifiedLayerNormalization": _like_first,
    "com.microsoft.FusedMatMul": _like_product,
    "com.microsoft.Inverse": _like_first,
    "com.microsoft.MatMulNBits": _like_columns,
    "com.microsoft.QuickGelu": _like_first,
}
