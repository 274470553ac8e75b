"""From Graph to ONNX."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from npukit.graph.files import write_atomic
from npukit.graph.model import Graph, Node, Tensor
from npukit.graph.protobuf import PACKED, byte_count, elem_type

# Initializers above this many bytes stay out of the model proto while it is converted and its shapes are inferred.
LARGE = 1 << 16
# Below this many bytes a constant stands in the model itself.
_SMALL = 1024
_ALIGNMENT = 64


@attrs.frozen(eq=False)
class Blob:
    """The bytes of a constant in an external data file: how many, and what gives them piece by piece.

    ``form`` is "" for those that ONNX defines; a reader must know any other.
    """

    size: int
    pieces: Callable[[], Iterable[bytes]]
    form: str = ""


def save(graph: Graph, path: str | os.PathLike[str], *, external_data: str | None = None) -> None:
    """Write a graph as an ONNX file, with the large weights in the file ``external_data`` beside it when it is named.

    The model is written to a temporary file first: nothing is half written. Weights in an external file are written piece by
    piece. Raises UsageError when the target cannot be written.
    """
    target = Path(path)
    model, blobs = to_model(graph, external_data)
    if external_data is not None:
        write_atomic(target.parent / external_data, joined(blobs))
    write_atomic(target, [model.SerializeToString(deterministic=True)])


def serialize(graph: Graph) -> bytes:
    """The graph as the bytes of one ONNX model (at most 2 GB)."""
    return bytes(to_model(graph, None)[0].SerializeToString(deterministic=True))


def serialize_split(graph: Graph, location: str, blobs: Mapping[str, Blob] | None = None) -> tuple[bytes, Iterator[bytes]]:
    """The graph as model bytes, and piece by piece the external data file called ``location`` that they refer to.

    ``blobs`` are the bytes of constants that are stored in another form, by name.
    """
    model, found = to_model(graph, location, blobs=blobs)
    return model.SerializeToString(deterministic=True), joined(found)


@attrs.frozen
class Place:
    """Where the bytes of a constant are in a file."""

    file: str
    offset: int


def serialize_beside(graph: Graph, places: Mapping[str, Place], folder: str) -> bytes:
    """The graph as the bytes of one ONNX model that refers to files below ``folder`` for the constants in ``places``."""
    rest = graph.evolve(tensors={name: tensor for name, tensor in graph.tensors.items() if name not in places})
    model, _ = to_model(rest, None)
    for name, place in places.items():
        entry = _entry(graph.tensor(name))
        _refer(entry, os.path.relpath(place.file, folder), place.offset, byte_count(entry))
        model.graph.initializer.append(entry)
    return bytes(model.SerializeToString(deterministic=True))


def joined(blobs: Iterable[Blob]) -> Iterator[bytes]:
    """The content of an external data file: each blob starts at a multiple of 64 bytes."""
    for blob in blobs:
        yield from blob.pieces()
        yield bytes(-blob.size % _ALIGNMENT)


def to_model(
    graph: Graph, location: str | None, stub: bool = False, blobs: Mapping[str, Blob] | None = None
) -> tuple[onnx.ModelProto, list[Blob]]:
    """The model; with ``location`` the large constants are left to the returned blobs, with ``stub`` they are left out."""
    proto = onnx.GraphProto(name=graph.name)
    found: list[Blob] = []
    offset = 0
    for name, tensor in graph.tensors.items():
        if not tensor.is_constant:
            continue
        entry = _entry(tensor)
        blob = (blobs or {}).get(name)
        if blob is None:
            if location is None or tensor.dtype == "string" or byte_count(entry) <= (LARGE if stub else _SMALL):
                proto.initializer.append(_tensor_proto(name, tensor))
                continue
            blob = Blob(0, tuple) if stub else Blob(byte_count(entry), partial(_raw_pieces, tensor))
        _refer(entry, location or "stub", offset, blob.size, blob.form)
        proto.initializer.append(entry)
        found.append(blob)
        offset += blob.size + -blob.size % _ALIGNMENT
    proto.node.extend(node_proto(node) for node in graph.nodes)
    proto.input.extend(_value_info(graph.tensor(name)) for name in graph.inputs)
    proto.output.extend(_value_info(graph.tensor(name)) for name in graph.outputs)
    shown = set(graph.inputs) | set(graph.outputs)
    made = [t for t in graph.tensors.values() if not t.is_constant and t.name not in shown and t.dtype]
    proto.value_info.extend(_value_info(t) for t in made)
    imports = opset_imports(graph)
    version = max(8, helper.find_min_ir_version_for(imports, ignore_unknown=True))
    return helper.make_model(proto, opset_imports=imports, ir_version=version, producer_name="npukit"), found


def opset_imports(graph: Graph) -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid("", graph.opset), *(helper.make_opsetid(d, v) for d, v in graph.domains.items())]


def _entry(tensor: Tensor) -> TensorProto:
    """An initializer without its values."""
    return TensorProto(name=tensor.name, data_type=elem_type(tensor.dtype), dims=tensor.static_shape)


def _refer(entry: TensorProto, location: str, offset: int, size: int, form: str = "") -> None:
    """Let an initializer be ``size`` bytes of the file ``location``."""
    entry.data_location = TensorProto.EXTERNAL
    described = {"location": location, "offset": str(offset), "length": str(size)} | ({"form": form} if form else {})
    for key, value in described.items():
        entry.external_data.add(key=key, value=value)


def _raw_pieces(tensor: Tensor) -> Iterator[bytes]:
    """The bytes of a constant as ONNX defines them, a few rows at a time; types that are packed in bytes go as a whole."""
    if tensor.dtype in PACKED:
        yield _tensor_proto(tensor.name, tensor).raw_data
        return
    for piece in tensor.pieces():
        yield np.asarray(piece, order="C").tobytes()


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
