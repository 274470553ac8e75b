"""Between ONNX files and Graph: the only module that touches protobuf."""

from __future__ import annotations

import hashlib
import heapq
import logging
import math
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from npukit.errors import ModelError, UsageError, did_you_mean
from npukit.graph._types import Array, Dim, Graph, Node, Shape, Tensor

CANONICAL_OPSET = 21
MIN_OPSET = 7
_STANDARD_DOMAINS = ("", "ai.onnx")
# Ops that ONNX Runtime has in the default domain and ONNX does not; its optimizer and its exporters for language models write them.
_RUNTIME_OPS = frozenset({"SimplifiedLayerNormalization"})
_HIDDEN = "npukit.runtime"
_RESIZE_CHANGED = 11  # before this opset, pixels were not at half coordinates
# Initializers above this many bytes stay out of the model proto while it is converted and its shapes are inferred.
_LARGE = 1 << 16

logging.getLogger("onnx").setLevel(logging.ERROR)


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
        raise ModelError(f"{_label(source)} is not a valid ONNX model: {_one_line(error)}") from error


def save(graph: Graph, path: str | os.PathLike[str], *, external_data: str | None = None) -> None:
    """Write a graph as an ONNX file, with the large weights in the file ``external_data`` beside it when it is named.

    The model is written to a temporary file first: nothing is half written. Raises UsageError when the target cannot be written.
    """
    target = Path(path)
    model, blob = _to_model(graph, external_data)
    if external_data is not None:
        write_atomic(target.parent / external_data, blob)
    write_atomic(target, [model.SerializeToString(deterministic=True)])


def serialize(graph: Graph) -> bytes:
    """The graph as the bytes of one ONNX model (at most 2 GB)."""
    return bytes(_to_model(graph, None)[0].SerializeToString(deterministic=True))


def serialize_split(graph: Graph, location: str) -> tuple[bytes, list[bytes]]:
    """The graph as model bytes and the pieces of an external data file called ``location`` that they refer to."""
    model, blob = _to_model(graph, location)
    return model.SerializeToString(deterministic=True), blob


def load_split(model: bytes, location: str, weights: Path, offset: int, size: int) -> Graph:
    """Read what ``serialize_split`` wrote; the weights are memory-mapped from ``size`` bytes at ``offset`` of a file."""
    try:
        proto = onnx.load_model_from_string(model)
    except DecodeError as error:
        raise ModelError(f"the model is damaged: {_one_line(error)}") from None
    base = np.memmap(weights, np.uint8, "r", offset, (size,)) if size else np.zeros(0, np.uint8)
    try:
        return _build_graph(proto, lambda entry, tensor: _external_slice(entry, tensor, location, base))
    except (ModelError, UsageError):
        raise
    except Exception as error:
        raise ModelError(f"the model is damaged: {_one_line(error)}") from error


def source_hash(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomic(target: Path, pieces: Iterable[bytes]) -> None:
    """Write ``pieces`` to a temporary file beside ``target`` and rename it. Raises UsageError when that is not possible."""
    with open_atomic(target) as file:
        for piece in pieces:
            file.write(piece)


@contextmanager
def open_atomic(target: Path) -> Iterator[BinaryIO]:
    """A new file that becomes ``target`` when the block ends well, and vanishes otherwise.

    Raises UsageError when it cannot be written, and for a target that is there and is no regular file (a folder, a device).
    """
    if target.exists() and not target.is_file():
        raise UsageError(f"cannot write {target}: it is not a regular file")
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with open(part, "xb") as file:
            yield file
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from None
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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
    graph = Graph(name, _sorted(nodes, set(tensors)), tensors | made, tuple(inputs), tuple(outputs), opset, domains)
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


def infer_shapes(graph: Graph) -> Graph:
    """Fill in dtypes and shapes of the non-constant tensors that ONNX shape inference knows; others stay as they are."""
    model, _ = _to_model(graph, "", stub=True)
    for value in model.graph.value_info:
        value.type.ClearField("value")
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.Clear()
    while True:
        try:
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except Exception as error:
            raise ModelError(f"the shapes of the model do not fit: {_one_line(error)}") from None
        if not _hint(model, inferred):
            break
    found = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        old = graph.tensors.get(value.name)
        if old is not None and not old.is_constant and value.name not in graph.inputs:
            dtype, shape = _type_of(value)
            found[value.name] = Tensor(value.name, dtype or old.dtype, _merge(shape, old.shape))
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


def attribute(node: Node, name: str) -> Any:
    """The value of an attribute, or the default that ONNX gives it, or None."""
    if name in node.attributes:
        return node.attributes[name]
    return _defaults(node.op, node.domain).get(name)


@lru_cache(maxsize=512)
def _defaults(op: str, domain: str) -> dict[str, Any]:
    try:
        schema = onnx.defs.get_schema(op, domain)
    except onnx.defs.SchemaError:
        return {}
    return {
        key: _plain(helper.get_attribute_value(a.default_value)) for key, a in schema.attributes.items() if a.default_value.name
    }


def evaluate_node(node: Node, inputs: Sequence[Array | None], graph: Graph) -> tuple[Array, ...]:
    """Compute one node with the ONNX reference implementation on arrays (None for an absent input).

    Raises ModelError naming node and op when there is no reference implementation or the values do not fit.
    """
    try:
        return tuple(_evaluator(node, graph)(inputs))
    except Exception as error:
        raise ModelError(f"node '{node.name}' ({node.op}) cannot be computed: {_one_line(error)}") from error


def _evaluator(node: Node, graph: Graph) -> Any:
    from onnx.reference import ReferenceEvaluator

    proto = _node_proto(node)
    model = helper.make_model(
        helper.make_graph(
            [proto],
            "node",
            [helper.make_empty_tensor_value_info(n) for n in dict.fromkeys(n for n in node.inputs if n)],
            [helper.make_empty_tensor_value_info(n) for n in node.outputs if n],
        ),
        opset_imports=_opset_imports(graph),
    )
    reference = ReferenceEvaluator(model)

    def run(inputs: Sequence[Array | None]) -> list[Array]:
        feeds = {n: v for n, v in zip(node.inputs, inputs, strict=False) if n and v is not None}
        results = iter(reference.run(None, feeds))
        return [np.asarray(next(results)) if n else np.zeros(0, np.float32) for n in node.outputs]

    return run


# ---------------------------------------------------------------------------------------------------------------- reading


def _label(source: object) -> str:
    return "the model" if isinstance(source, bytes) else f"'{source}'"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


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


def _from_model(model: onnx.ModelProto, folder: Path | None, symbols: dict[str, int], batch: int | None) -> Graph:
    opset = next((o.version for o in model.opset_import if o.domain in _STANDARD_DOMAINS), None)
    newest = onnx.defs.onnx_opset_version()
    if opset is None and any(n.domain in _STANDARD_DOMAINS for n in model.graph.node):
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
    graph = _build_graph(model, lambda entry, tensor: _external_file(entry, tensor, folder))
    check_graph(graph)
    return infer_shapes(graph)


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
        if node.op_type in _RUNTIME_OPS or (node.domain, node.op_type) in functions:
            continue
        if node.domain in _STANDARD_DOMAINS:
            try:
                onnx.defs.get_schema(node.op_type, opset, "")
            except onnx.defs.SchemaError:
                name = node.name or (node.output[0] if node.output else str(index))
                raise ModelError(f"node '{name}' has op '{node.op_type}', which ONNX opset {opset} does not have") from None


def _sort_nodes(graph: onnx.GraphProto) -> None:
    known = {i.name for i in (*graph.input, *graph.initializer)} | {s.values.name for s in graph.sparse_initializer}
    protos = [Node(p.op_type, p.name, _reads(p), tuple(p.output), {"proto": p}) for p in graph.node]
    ordered = _sorted(protos, known)
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


def _sorted(nodes: Sequence[Node], known: set[str]) -> tuple[Node, ...]:
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
        if tensor.ByteSize() > _LARGE or external_data_helper.uses_external_data(tensor):
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
        if node.op_type in _RUNTIME_OPS and node.domain in _STANDARD_DOMAINS:
            node.domain = _HIDDEN
    model.opset_import.append(helper.make_opsetid(_HIDDEN, 1))
    try:
        converted = onnx.version_converter.convert_version(model, opset)
    except Exception as error:
        raise ModelError(f"the model cannot be brought to ONNX opset {opset}: {_one_line(error)}") from None
    for node in converted.graph.node:
        node.domain = node.domain if node.domain != _HIDDEN else ""
    kept = [o for o in converted.opset_import if o.domain != _HIDDEN]
    del converted.opset_import[:]
    converted.opset_import.extend(kept)
    return converted


def _keep_resize(graph: onnx.GraphProto) -> None:
    """Give the Resize nodes that were Upsample, or Resize of opset 10, the coordinates they had: the converter leaves them out."""
    for node in graph.node:
        if node.op_type == "Resize" and node.domain in _STANDARD_DOMAINS:
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


def _build_graph(model: onnx.ModelProto, external: Any) -> Graph:
    tensors: dict[str, Tensor] = {}
    for value in (*model.graph.value_info, *model.graph.output, *model.graph.input):
        tensors[value.name] = Tensor(value.name, *_type_of(value))
    for proto in model.graph.initializer:
        tensors[proto.name] = _constant(proto, external)
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.domain in _STANDARD_DOMAINS:
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


def _type_of(value: onnx.ValueInfoProto) -> tuple[str, Shape | None]:
    kind = value.type.tensor_type
    dtype = dtype_name(kind.elem_type) if kind.elem_type else ""
    if not kind.HasField("shape"):
        return dtype, None
    return dtype, tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in kind.shape.dim)


def _merge(new: Shape | None, old: Shape | None) -> Shape | None:
    """The better known of two shapes of the same tensor, dimension by dimension."""
    if new is None or old is None or len(new) != len(old):
        return old if new is None else new

    def better(a: Dim, b: Dim) -> Dim:
        return a if isinstance(a, int) or b is None else b

    return tuple(better(a, b) for a, b in zip(new, old, strict=True))


def dtype_name(elem_type: int) -> str:
    """ "float32" for TensorProto.FLOAT, and so on: the ONNX name in lower case, sized."""
    name = str(TensorProto.DataType.Name(elem_type)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _elem_type(dtype: str) -> int:
    name = {"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper())
    return int(TensorProto.DataType.Value(name))


def _constant(proto: TensorProto, external: Any) -> Tensor:
    dtype, shape = dtype_name(proto.data_type), tuple(proto.dims)
    if not external_data_helper.uses_external_data(proto):
        return Tensor(proto.name, dtype, shape, _inline(proto))
    entry = {e.key: e.value for e in proto.external_data}
    return Tensor(proto.name, dtype, shape, external(entry, proto))


def _inline(proto: TensorProto) -> Array:
    """The values of a tensor that stands in the model itself; onnx would look for others relative to the working directory."""
    if external_data_helper.uses_external_data(proto):
        raise ModelError(f"tensor '{proto.name}' is in another file, which only initializers may be")
    if any(d < 0 for d in proto.dims):
        raise ModelError(f"tensor '{proto.name}' has the negative dimensions {list(proto.dims)}")
    return numpy_helper.to_array(proto)


def _numpy_dtype(proto: TensorProto) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(proto.data_type))


def _byte_count(proto: TensorProto) -> int:
    count = math.prod(map(int, proto.dims))  # exact: a damaged file may claim any dimensions
    bits = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}.get(dtype_name(proto.data_type))
    return count * _numpy_dtype(proto).itemsize if bits is None else -(-count * bits // 8)


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


def _external_slice(entry: Mapping[str, str], proto: TensorProto, location: str, base: Array) -> Array:
    """The view of an initializer in the bytes ``base`` of the file ``location``."""
    if entry.get("location") != location:
        raise ModelError(f"tensor '{proto.name}' refers to the file '{entry.get('location')}', expected '{location}'")
    try:
        offset, size = int(entry.get("offset", "0")), int(entry.get("length", "0") or 0)
    except ValueError:
        raise ModelError(f"tensor '{proto.name}' has a damaged external data entry") from None
    need = _byte_count(proto)
    if min(offset, *proto.dims, 0) < 0 or (size and size != need) or offset + need > base.size:
        raise ModelError(f"tensor '{proto.name}' needs {need} bytes at {offset} of '{location}', which has {base.size}")
    piece = base[offset : offset + need]
    if dtype_name(proto.data_type) in ("int4", "uint4", "int2", "uint2"):
        packed = TensorProto(data_type=proto.data_type, dims=proto.dims, raw_data=piece.tobytes())
        return numpy_helper.to_array(packed)
    return piece.view(_numpy_dtype(proto)).reshape(tuple(proto.dims))


def _constant_value(node: onnx.NodeProto) -> Array:
    for attr in node.attribute:
        if attr.name == "value":
            return _inline(attr.t)
        if attr.name in ("value_float", "value_floats"):
            return np.asarray(helper.get_attribute_value(attr), np.float32)
        if attr.name in ("value_int", "value_ints"):
            return np.asarray(helper.get_attribute_value(attr), np.int64)
        if attr.name in ("value_string", "value_strings"):
            return np.asarray(helper.get_attribute_value(attr), object)
    raise ModelError(f"node '{node.name}' (Constant) has no dense value")


def _node(proto: onnx.NodeProto, external: Any) -> Node:
    domain = "" if proto.domain in _STANDARD_DOMAINS else proto.domain
    attributes = {a.name: _attribute_value(a, external) for a in proto.attribute}
    return Node(proto.op_type, proto.name, tuple(proto.input), tuple(proto.output), attributes, domain)


def _attribute_value(attr: onnx.AttributeProto, external: Any) -> Any:
    if attr.type == onnx.AttributeProto.GRAPH:
        return _build_graph(onnx.ModelProto(graph=attr.g), external)
    if attr.type == onnx.AttributeProto.TENSOR:
        return _inline(attr.t)
    return _plain(helper.get_attribute_value(attr))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, TensorProto):
        return _inline(value)
    if isinstance(value, (str, int, float)):
        return value
    return tuple(_plain(v) for v in value)


# ---------------------------------------------------------------------------------------------------------------- writing


def _opset_imports(graph: Graph) -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid("", graph.opset), *(helper.make_opsetid(d, v) for d, v in graph.domains.items())]


def _to_model(graph: Graph, location: str | None, stub: bool = False) -> tuple[onnx.ModelProto, list[bytes]]:
    """The model; with ``location`` the large constants go to the returned pieces, with ``stub`` they are left out."""
    proto = onnx.GraphProto(name=graph.name)
    pieces: list[bytes] = []
    offset = 0
    for name, tensor in graph.tensors.items():
        if tensor.data is None:
            continue
        large = location is not None and tensor.data.nbytes > (_LARGE if stub else 1024)
        if not large:
            proto.initializer.append(_tensor_proto(name, tensor))
            continue
        entry = TensorProto(name=name, data_type=_elem_type(tensor.dtype), dims=tensor.data.shape)
        entry.data_location = TensorProto.EXTERNAL
        raw = b"" if stub else _tensor_proto(name, tensor).raw_data
        for key, value in {"location": location or "stub", "offset": str(offset), "length": str(len(raw))}.items():
            entry.external_data.add(key=key, value=value)
        proto.initializer.append(entry)
        pieces += [raw, b"\0" * (-len(raw) % 64)]
        offset += len(raw) + -len(raw) % 64
    proto.node.extend(_node_proto(node) for node in graph.nodes)
    proto.input.extend(_value_info(graph.tensor(name)) for name in graph.inputs)
    proto.output.extend(_value_info(graph.tensor(name)) for name in graph.outputs)
    shown = set(graph.inputs) | set(graph.outputs)
    made = [t for t in graph.tensors.values() if not t.is_constant and t.name not in shown and t.dtype]
    proto.value_info.extend(_value_info(t) for t in made)
    imports = _opset_imports(graph)
    version = max(8, helper.find_min_ir_version_for(imports, ignore_unknown=True))
    return helper.make_model(proto, opset_imports=imports, ir_version=version, producer_name="npukit"), pieces


def _tensor_proto(name: str, tensor: Tensor) -> TensorProto:
    return numpy_helper.from_array(np.asarray(tensor.data, order="C"), name)


def _value_info(tensor: Tensor) -> onnx.ValueInfoProto:
    if not tensor.dtype:
        return helper.make_empty_tensor_value_info(tensor.name)
    return helper.make_tensor_value_info(tensor.name, _elem_type(tensor.dtype), tensor.shape)


def _node_proto(node: Node) -> onnx.NodeProto:
    proto = onnx.NodeProto(op_type=node.op, name=node.name, domain=node.domain)
    proto.input.extend(node.inputs)
    proto.output.extend(node.outputs)
    for key, value in node.attributes.items():
        proto.attribute.append(_attribute_proto(node, key, value))
    return proto


def _attribute_proto(node: Node, key: str, value: Any) -> onnx.AttributeProto:
    if isinstance(value, Graph):
        return helper.make_attribute(key, _to_model(value, None)[0].graph)
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
