"""From Graph to ONNX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from npukit.graph.files import write_atomic
from npukit.graph.model import Graph, Node, Tensor
from npukit.graph.protobuf import elem_type

# Initializers above this many bytes stay out of the model proto while it is converted and its shapes are inferred.
LARGE = 1 << 16


def save(graph: Graph, path: str | os.PathLike[str], *, external_data: str | None = None) -> None:
    """Write a graph as an ONNX file, with the large weights in the file ``external_data`` beside it when it is named.

    The model is written to a temporary file first: nothing is half written. Raises UsageError when the target cannot be written.
    """
    target = Path(path)
    model, blob = to_model(graph, external_data)
    if external_data is not None:
        write_atomic(target.parent / external_data, blob)
    write_atomic(target, [model.SerializeToString(deterministic=True)])


def serialize(graph: Graph) -> bytes:
    """The graph as the bytes of one ONNX model (at most 2 GB)."""
    return bytes(to_model(graph, None)[0].SerializeToString(deterministic=True))


def serialize_split(graph: Graph, location: str) -> tuple[bytes, list[bytes]]:
    """The graph as model bytes and the pieces of an external data file called ``location`` that they refer to."""
    model, blob = to_model(graph, location)
    return model.SerializeToString(deterministic=True), blob


def to_model(graph: Graph, location: str | None, stub: bool = False) -> tuple[onnx.ModelProto, list[bytes]]:
    """The model; with ``location`` the large constants go to the returned pieces, with ``stub`` they are left out."""
    proto = onnx.GraphProto(name=graph.name)
    pieces: list[bytes] = []
    offset = 0
    for name, tensor in graph.tensors.items():
        if tensor.data is None:
            continue
        large = location is not None and tensor.data.nbytes > (LARGE if stub else 1024)
        if not large:
            proto.initializer.append(_tensor_proto(name, tensor))
            continue
        entry = TensorProto(name=name, data_type=elem_type(tensor.dtype), dims=tensor.data.shape)
        entry.data_location = TensorProto.EXTERNAL
        raw = b"" if stub else _tensor_proto(name, tensor).raw_data
        for key, value in {"location": location or "stub", "offset": str(offset), "length": str(len(raw))}.items():
            entry.external_data.add(key=key, value=value)
        proto.initializer.append(entry)
        pieces += [raw, b"\0" * (-len(raw) % 64)]
        offset += len(raw) + -len(raw) % 64
    proto.node.extend(node_proto(node) for node in graph.nodes)
    proto.input.extend(_value_info(graph.tensor(name)) for name in graph.inputs)
    proto.output.extend(_value_info(graph.tensor(name)) for name in graph.outputs)
    shown = set(graph.inputs) | set(graph.outputs)
    made = [t for t in graph.tensors.values() if not t.is_constant and t.name not in shown and t.dtype]
    proto.value_info.extend(_value_info(t) for t in made)
    imports = opset_imports(graph)
    version = max(8, helper.find_min_ir_version_for(imports, ignore_unknown=True))
    return helper.make_model(proto, opset_imports=imports, ir_version=version, producer_name="npukit"), pieces


def opset_imports(graph: Graph) -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid("", graph.opset), *(helper.make_opsetid(d, v) for d, v in graph.domains.items())]


def _tensor_proto(name: str, tensor: Tensor) -> TensorProto:
    return numpy_helper.from_array(np.asarray(tensor.data, order="C"), name)


def _value_info(tensor: Tensor) -> onnx.ValueInfoProto:
    if not tensor.dtype:
        return helper.make_empty_tensor_value_info(tensor.name)
    return helper.make_tensor_value_info(tensor.name, elem_type(tensor.dtype), tensor.shape)


def node_proto(node: Node) -> onnx.NodeProto:
    proto = onnx.NodeProto(op_type=node.op, name=node.name, domain=node.domain)
    proto.input.extend(node.inputs)
    proto.output.extend(node.outputs)
    for key, value in node.attributes.items():
        proto.attribute.append(_attribute_proto(node, key, value))
    return proto


def _attribute_proto(node: Node, key: str, value: Any) -> onnx.AttributeProto:
    if isinstance(value, Graph):
        return helper.make_attribute(key, to_model(value, None)[0].graph)
    if isinstance(value, np.ndarray):
        return helper.make_attribute(key, numpy_helper.from_array(value))
    if isinstance(value, tuple):
        kind = _attribute_kind(node, key) if not value else None
        return helper.make_attribute(key, list(value), attr_type=kind)
    return helper.make_attribute(key, value)


_ATTRIBUTE_KINDS = {
    "FLOATS": onnx.AttributeProto.FLOATS,
    "INTS": onnx.AttributeProto.INTS,
    "STRINGS": onnx.AttributeProto.STRINGS,
}


def _attribute_kind(node: Node, key: str) -> int | None:
    """The type of an empty list attribute, which its value cannot tell."""
    try:
        kind = str(onnx.defs.get_schema(node.op, node.domain).attributes[key].type)
        return _ATTRIBUTE_KINDS.get(kind.rpartition(".")[2], onnx.AttributeProto.INTS)
    except (onnx.defs.SchemaError, KeyError):
        return onnx.AttributeProto.INTS
