"""From ONNX to Graph."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from npukit.errors import ModelError, NpukitError, UsageError, one_line
from npukit.graph.convert import canonical
from npukit.graph.infer import CANONICAL_OPSET, check_graph, infer_shapes
from npukit.graph.model import Array, Graph, Node, Stored, Tensor
from npukit.graph.protobuf import PACKED, STANDARD_DOMAINS, byte_count, dtype_name, inline, numpy_dtype, plain, type_of


def load(source: str | os.PathLike[str] | bytes, *, symbols: Mapping[str, int] | None = None, batch: int | None = None) -> Graph:
    """Read an ONNX model (opset 7 to the newest that onnx knows) as a Graph of opset 21 or newer.

    Tensor names stay as in the file. Functions are inlined, Constant nodes and initializers (also those listed as inputs) become
    constants, missing shapes are inferred. External data is memory-mapped. ``symbols`` binds symbolic dimensions, ``batch`` the
    first dimension of every input. Raises ModelError for a damaged or unsupported model, UsageError for a missing file or an
    unknown symbol.
    """
    folder, model = _read(source)
    try:
        return _from_model(model, folder, dict(symbols or {}), batch)
    except (ModelError, UsageError):
        raise
    except Exception as error:  # onnx raises many types for damaged models
        raise ModelError(f"{_label(source)} is not a valid ONNX model: {one_line(error)}") from error


Unpack: TypeAlias = Callable[[Tensor, str, Array], Stored]
"""Makes the values of a constant (given without them) from the form of its Blob and its bytes."""


def load_split(model: bytes, location: str, weights: Path, offset: int, size: int, unpack: Unpack | None = None) -> Graph:
    """Read what ``serialize_split`` wrote; the weights are memory-mapped from ``size`` bytes at ``offset`` of a file.

    ``unpack`` reads the constants that are stored in a form of their own. Raises ModelError for a model that is damaged.
    """
    try:
        proto = onnx.load_model_from_string(model)
    except DecodeError as error:
        raise ModelError(f"the model is damaged: {one_line(error)}") from None
    base = np.memmap(weights, np.uint8, "r", offset, (size,)) if size else np.zeros(0, np.uint8)
    try:
        return _build_graph(proto, lambda entry, tensor: _split_slice(entry, tensor, location, base, unpack))
    except NpukitError:
        raise
    except Exception as error:
        raise ModelError(f"the model is damaged: {one_line(error)}") from error


def _label(source: object) -> str:
    return "the model" if isinstance(source, bytes) else f"'{source}'"


def _read(source: str | os.PathLike[str] | bytes) -> tuple[Path | None, onnx.ModelProto]:
    if isinstance(source, bytes):
        folder, data = None, source
    else:
        path = Path(source)
        try:
            folder, data = path.parent, path.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read model '{path}': {error.strerror}") from None
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        raise ModelError(f"{_label(source)} is not an ONNX model, or it is truncated") from None
    if not model.graph.node and not model.graph.initializer and not model.graph.output:
        raise ModelError(f"{_label(source)} is not an ONNX model: it has no graph")
    return folder, model


def _from_model(model: onnx.ModelProto, folder: Path | None, symbols: Mapping[str, int], batch: int | None) -> Graph:
    graph = _build_graph(canonical(model, symbols, batch), lambda entry, tensor: _external_file(entry, tensor, folder))
    check_graph(graph)
    return infer_shapes(graph)


def _build_graph(model: onnx.ModelProto, external: Any) -> Graph:
    tensors: dict[str, Tensor] = {}
    for value in (*model.graph.value_info, *model.graph.output, *model.graph.input):
        tensors[value.name] = Tensor(value.name, *type_of(value))
    for proto in model.graph.initializer:
        tensors[proto.name] = _constant(proto, external)
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.domain in STANDARD_DOMAINS:
            tensors[node.output[0]] = Tensor.constant(node.output[0], _constant_value(node))
            continue
        for name in node.output:
            if name and name not in tensors:
                tensors[name] = Tensor(name)
        nodes.append(_node(node, external))
    versions = {o.domain: o.version for o in model.opset_import}
    opset = versions.pop("", versions.pop("ai.onnx", CANONICAL_OPSET))
    inputs, outputs = tuple(i.name for i in model.graph.input), tuple(o.name for o in model.graph.output)
    return Graph(model.graph.name or "graph", tuple(nodes), tensors, inputs, outputs, opset, versions)


def _constant(proto: TensorProto, external: Any) -> Tensor:
    dtype, shape = dtype_name(proto.data_type), tuple(proto.dims)
    if not external_data_helper.uses_external_data(proto):
        return Tensor(proto.name, dtype, shape, inline(proto))
    entry = {e.key: e.value for e in proto.external_data}
    return Tensor(proto.name, dtype, shape, external(entry, proto))


def _external_file(entry: Mapping[str, str], proto: TensorProto, folder: Path | None) -> Array:
    """A memory map of an initializer in a file beside the model."""
    location = entry.get("location", "")
    if folder is None:
        raise ModelError(f"tensor '{proto.name}' is in the external file '{location}', but the model was given as bytes")
    root = folder.resolve()
    path = (root / location).resolve()
    if not path.is_relative_to(root):
        raise ModelError(f"tensor '{proto.name}' is in '{location}', outside the folder of the model")
    if not path.is_file():
        raise ModelError(f"tensor '{proto.name}' needs the file '{location}' beside the model, which is not there")
    base = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    return _external_slice(entry, proto, location, base)


def _split_slice(entry: Mapping[str, str], proto: TensorProto, location: str, base: Array, unpack: Unpack | None) -> Array | Stored:
    """An initializer in the bytes ``base`` of the file ``location``, in the form that its entry names."""
    form = entry.get("form", "")
    if not form:
        return _external_slice(entry, proto, location, base)
    if unpack is None:
        raise ModelError(f"tensor '{proto.name}' is stored in the form '{form[:80]}', which is not known")
    tensor = Tensor(proto.name, dtype_name(proto.data_type), tuple(proto.dims))
    return unpack(tensor, form, _piece(entry, proto, location, base, None))


def _external_slice(entry: Mapping[str, str], proto: TensorProto, location: str, base: Array) -> Array:
    """The view of an initializer in the bytes ``base`` of the file ``location``."""
    piece = _piece(entry, proto, location, base, byte_count(proto))
    if dtype_name(proto.data_type) in PACKED:
        packed = TensorProto(data_type=proto.data_type, dims=proto.dims, raw_data=piece.tobytes())
        return numpy_helper.to_array(packed)
    return piece.view(numpy_dtype(proto)).reshape(tuple(proto.dims))


def _piece(entry: Mapping[str, str], proto: TensorProto, location: str, base: Array, need: int | None) -> Array:
    """The bytes that an entry names, as many as are needed; None: as many as it says."""
    if entry.get("location") != location:
        raise ModelError(f"tensor '{proto.name}' refers to the file '{entry.get('location')}', expected '{location}'")
    try:
        offset, size = int(entry.get("offset", "0")), int(entry.get("length", "0") or 0)
    except ValueError:
        raise ModelError(f"tensor '{proto.name}' has a damaged external data entry") from None
    need = size if need is None else need
    if min(offset, size, *proto.dims, 0) < 0 or (size and size != need) or offset + need > base.size:
        raise ModelError(f"tensor '{proto.name}' needs {need} bytes at {offset} of '{location}', which has {base.size}")
    return base[offset : offset + need]


def _constant_value(node: onnx.NodeProto) -> Array:
    for attr in node.attribute:
        if attr.name == "value":
            return inline(attr.t)
        if attr.name in ("value_float", "value_floats"):
            return np.asarray(helper.get_attribute_value(attr), np.float32)
        if attr.name in ("value_int", "value_ints"):
            return np.asarray(helper.get_attribute_value(attr), np.int64)
        if attr.name in ("value_string", "value_strings"):
            return np.asarray(helper.get_attribute_value(attr), object)
    raise ModelError(f"node '{node.name}' (Constant) has no dense value")


def _node(proto: onnx.NodeProto, external: Any) -> Node:
    domain = "" if proto.domain in STANDARD_DOMAINS else proto.domain
    attributes = {a.name: _attribute_value(a, external) for a in proto.attribute}
    return Node(proto.op_type, proto.name, tuple(proto.input), tuple(proto.output), attributes, domain)


def _attribute_value(attr: onnx.AttributeProto, external: Any) -> Any:
    if attr.type == onnx.AttributeProto.GRAPH:
        return _build_graph(onnx.ModelProto(graph=attr.g), external)
    if attr.type == onnx.AttributeProto.TENSOR:
        return inline(attr.t)
    return plain(helper.get_attribute_value(attr))
