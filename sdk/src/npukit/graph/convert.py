"""Bring a model proto to one canonical form: opset 21 or newer, sorted, every node named, symbols bound."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import onnx
import onnx.inliner
from onnx import TensorProto, external_data_helper, helper

from npukit.errors import ModelError, UsageError, did_you_mean, one_line
from npukit.graph.infer import CANONICAL_OPSET, sorted_nodes
from npukit.graph.model import Node
from npukit.graph.protobuf import RUNTIME_OPS, STANDARD_DOMAINS
from npukit.graph.write import LARGE

MIN_OPSET = 7


_HIDDEN = "npukit.runtime"


_RESIZE_CHANGED = 11  # before this opset, pixels were not at half coordinates


logging.getLogger("onnx").setLevel(logging.ERROR)


def canonical(model: onnx.ModelProto, symbols: Mapping[str, int], batch: int | None) -> onnx.ModelProto:
    """The model in opset 21 or newer: functions inlined, nodes sorted and named, symbols bound.

    Raises ModelError when that cannot be, UsageError for an unknown symbol.
    """
    opset = next((o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS), None)
    newest = onnx.defs.onnx_opset_version()
    if opset is None and any(n.domain in STANDARD_DOMAINS for n in model.graph.node):
        raise ModelError("the model does not say which ONNX opset it uses")
    if opset is not None and not MIN_OPSET <= opset <= newest:
        raise ModelError(f"the model uses ONNX opset {opset}, known are {MIN_OPSET} to {newest}")
    _drop_initializer_inputs(model)
    _check_ops(model, opset or newest)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    _sort_nodes(model.graph)
    _name_nodes(model.graph)
    stubs = _detach(model)
    if opset is not None and opset < CANONICAL_OPSET:
        model = _convert(model, CANONICAL_OPSET)
        if opset < _RESIZE_CHANGED:
            _keep_resize(model.graph)
        _name_nodes(model.graph)
    if symbols or batch is not None:
        _bind(model.graph, symbols, batch)
    _reattach(model, stubs)
    return model


def _drop_initializer_inputs(model: onnx.ModelProto) -> None:
    model.ir_version = max(model.ir_version, 4)  # before 4 an initializer had to be an input as well
    names = {i.name for i in model.graph.initializer}
    kept = [i for i in model.graph.input if i.name not in names]
    if len(kept) != len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(kept)
    for value in kept:
        if not value.type.HasField("tensor_type"):
            raise ModelError(f"graph input '{value.name}' is not a tensor")


def _check_ops(model: onnx.ModelProto, opset: int) -> None:
    functions = {(f.domain, f.name) for f in model.functions}
    for index, node in enumerate(model.graph.node):
        if node.op_type in RUNTIME_OPS or (node.domain, node.op_type) in functions:
            continue
        if node.domain in STANDARD_DOMAINS:
            try:
                onnx.defs.get_schema(node.op_type, opset, "")
            except onnx.defs.SchemaError:
                name = node.name or (node.output[0] if node.output else str(index))
                raise ModelError(f"node '{name}' has op '{node.op_type}', which ONNX opset {opset} does not have") from None


def _sort_nodes(graph: onnx.GraphProto) -> None:
    known = {i.name for i in (*graph.input, *graph.initializer)} | {s.values.name for s in graph.sparse_initializer}
    protos = [Node(p.op_type, p.name, _reads(p), tuple(p.output), {"proto": p}) for p in graph.node]
    ordered = sorted_nodes(protos, known)
    if ordered != tuple(protos):
        nodes = [n.attributes["proto"] for n in ordered]
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _reads(proto: onnx.NodeProto) -> tuple[str, ...]:
    """The tensors a node reads, those of its subgraphs' outer scope included."""
    names = list(proto.input)
    for attr in proto.attribute:
        for sub in [attr.g] if attr.HasField("g") else attr.graphs:
            own = {i.name for i in (*sub.input, *sub.initializer)} | {o for n in sub.node for o in n.output}
            names += [n for node in sub.node for n in _reads(node) if n not in own]
            names += [o.name for o in sub.output if o.name not in own]
    return tuple(names)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a unique name: its own, else that of its first output."""
    used: set[str] = set()
    for index, node in enumerate(graph.node):
        base = node.name or next((o for o in node.output if o), f"{node.op_type}_{index}")
        name, count = base, 1
        while name in used:
            count += 1
            name = f"{base}_{count}"
        used.add(name)
        node.name = name


def _detach(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """Replace large and external initializers by empty stubs of the same type and shape; return the originals."""
    kept = {}
    for index, tensor in enumerate(model.graph.initializer):
        if tensor.ByteSize() > LARGE or external_data_helper.uses_external_data(tensor):
            kept[tensor.name] = TensorProto.FromString(tensor.SerializeToString())
            stub = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            stub.data_location = TensorProto.EXTERNAL
            stub.external_data.add(key="location", value="stub")
            model.graph.initializer[index].CopyFrom(stub)
    return kept


def _reattach(model: onnx.ModelProto, kept: Mapping[str, TensorProto]) -> None:
    for tensor in model.graph.initializer:
        if tensor.name in kept:
            tensor.CopyFrom(kept[tensor.name])


def _convert(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    # The converter drops functions, model metadata and stubs' locations alike; only the graph matters here. It stops at ops that
    # ONNX does not have, but leaves those of other domains alone.
    for node in model.graph.node:
        if node.op_type in RUNTIME_OPS and node.domain in STANDARD_DOMAINS:
            node.domain = _HIDDEN
    model.opset_import.append(helper.make_opsetid(_HIDDEN, 1))
    try:
        converted = onnx.version_converter.convert_version(model, opset)
    except Exception as error:
        raise ModelError(f"the model cannot be brought to ONNX opset {opset}: {one_line(error)}") from None
    for node in converted.graph.node:
        node.domain = node.domain if node.domain != _HIDDEN else ""
    kept = [o for o in converted.opset_import if o.domain != _HIDDEN]
    del converted.opset_import[:]
    converted.opset_import.extend(kept)
    return converted


def _keep_resize(graph: onnx.GraphProto) -> None:
    """Give the Resize nodes that were Upsample, or Resize of opset 10, the coordinates they had: the converter leaves them out."""
    for node in graph.node:
        if node.op_type == "Resize" and node.domain in STANDARD_DOMAINS:
            before = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            node.attribute.extend(helper.make_attribute(key, value) for key, value in before.items())


def _bind(graph: onnx.GraphProto, symbols: Mapping[str, int], batch: int | None) -> None:
    dims = [d for i in graph.input for d in i.type.tensor_type.shape.dim]
    known = {d.dim_param for d in dims if d.dim_param}
    for symbol, size in symbols.items():
        if symbol not in known:
            raise UsageError(f"the model has no symbolic dimension '{symbol}'", hint=did_you_mean(symbol, known))
        if size < 1:
            raise UsageError(f"dimension '{symbol}' must be at least 1, found {size}")
    if batch is not None:
        if batch < 1:
            raise UsageError(f"the batch must be at least 1, found {batch}")
        for value in graph.input:
            if value.type.tensor_type.shape.dim:
                first = value.type.tensor_type.shape.dim[0]
                if first.dim_param:
                    symbols = {**symbols, first.dim_param: batch}
                first.dim_value = batch
    for dim in dims:
        if dim.dim_param in symbols:
            dim.dim_value = symbols[dim.dim_param]
    # Shapes written in the file may contradict the bound ones; they are inferred anew.
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
