"""Encodings as QuantizeLinear and DequantizeLinear nodes in an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import ml_dtypes
import numpy as np

from npukit.encoding.arithmetic import dequantize, fake_quantize, lpbq_channel_scale
from npukit.encoding.codes import codes_of
from npukit.encoding.types import INT_BITS, Array, Encoding
from npukit.errors import EncodingError
from npukit.graph import Graph, Node, Tensor, check_graph, evaluate_node, remove_dead_nodes

DEQUANTIZED = ".dq"
"""What insert_qdq appends to the name of an activation for the tensor after the Q/DQ pair (a graph output keeps its name)."""

_CAST = {"float16": 10, "bfloat16": 16}  # TensorProto.FLOAT16, BFLOAT16
_FLOAT32 = 1
_SUFFIXES = ("_quantized", ".q", "_q")


def insert_qdq(graph: Graph, encodings: Mapping[str, Encoding]) -> Graph:
    """A float ONNX graph that computes with ``encodings``: Q/DQ pairs on activations, quantized constants with a DQ.

    Tensor names stay; an activation ``t`` is followed by ``t.dq``, which its readers read; a graph output keeps its name after
    the pair. float16 and bfloat16 become pairs of Cast. The opset is 21, where all types of 4 to 32 bits and blocks exist; 2-bit
    weights are stored in 4 bits. Raises EncodingError for 2-bit activations.
    """
    writer = _Writer(graph, encodings)
    return writer.build()


class _Writer:
    def __init__(self, graph: Graph, encodings: Mapping[str, Encoding]) -> None:
        self._graph = graph
        self._encodings = {n: e for n, e in encodings.items() if n in graph.tensors and e.dtype != "float32"}
        self._nodes: list[Node] = []
        self._tensors = dict(graph.tensors)
        self._read: dict[str, str] = {}

    def build(self) -> Graph:
        graph = self._graph
        for name, tensor in graph.tensors.items():
            if tensor.is_constant and name in self._encodings:
                self._constant(tensor, self._encodings[name])
        for name in graph.inputs:
            self._activation(name, name)
        for node in graph.nodes:
            raw = {n: f"{n}.raw" for n in node.outputs if n in graph.outputs and n in self._encodings}
            inputs = tuple(self._read.get(n, n) for n in node.inputs)
            outputs = tuple(raw.get(n, n) for n in node.outputs)
            self._nodes.append(attrs.evolve(node, inputs=inputs, outputs=outputs))
            for name, before in raw.items():
                self._tensors[before] = attrs.evolve(graph.tensors[name], name=before)
            for name in node.outputs:
                self._activation(name, raw.get(name, name))
        opset = max(21, graph.opset)
        built = graph.evolve(nodes=tuple(self._nodes), tensors=self._tensors, opset=opset)
        check_graph(built)
        return built

    def _activation(self, name: str, before: str) -> None:
        """Q/DQ after tensor ``before``, for the readers of ``name``."""
        encoding = self._encodings.get(name)
        if encoding is None:
            return
        after = name if before != name else f"{name}{DEQUANTIZED}"
        self._tensors[after] = attrs.evolve(self._graph.tensors[name], name=after)
        self._read[name] = after
        middle = f"{name}.q"
        if encoding.is_float:
            self._tensors[middle] = Tensor(middle, encoding.dtype, self._graph.tensors[name].shape)
            self._nodes.append(Node("Cast", f"{name}.narrow", (before,), (middle,), {"to": _CAST[encoding.dtype]}))
            self._nodes.append(Node("Cast", f"{name}.widen", (middle,), (after,), {"to": _FLOAT32}))
            return
        if encoding.bits < 4:  # constants of so few bits are stored in 4
            raise EncodingError(f"tensor '{name}': ONNX has no {encoding.bits}-bit activations at opset 21")
        self._tensors[middle] = Tensor(middle, encoding.dtype, self._graph.tensors[name].shape)
        parameters = self._parameters(name, encoding, encoding.steps, encoding.zeros, encoding.dtype)
        attributes = _attributes(encoding)
        self._nodes.append(Node("QuantizeLinear", f"{name}.quantize", (before, *parameters), (middle,), attributes))
        self._nodes.append(Node("DequantizeLinear", f"{name}.dequantize", (middle, *parameters), (after,), attributes))

    def _constant(self, tensor: Tensor, encoding: Encoding) -> None:
        """Replace a constant by its codes and a DQ that makes the tensor."""
        name, shape = tensor.name, tensor.static_shape or ()
        stored = f"{name}.q"
        self._tensors[name] = Tensor(name, tensor.dtype, tensor.shape)
        if encoding.is_float:
            narrow: Any = np.float16 if encoding.dtype == "float16" else ml_dtypes.bfloat16
            data = tensor.data
            assert data is not None  # the caller has looked
            self._tensors[stored] = Tensor(stored, encoding.dtype, shape, fake_quantize(data, encoding).astype(narrow))
            self._nodes.append(Node("Cast", f"{name}.widen", (stored,), (name,), {"to": _FLOAT32}))
            return
        codes, steps, zeros, dtype = codes_of(tensor, encoding), encoding.steps, encoding.zeros, encoding.dtype
        if zeros.dtype.kind == "f":  # half steps: (q + 1/2) s = (2 q + 1) (s / 2), exact in 4 bits
            codes, steps, zeros = 2 * codes + np.rint(-2 * zeros).astype(codes.dtype).flat[0], steps / 2, np.zeros_like(steps)
        if encoding.bits < 8:
            dtype = f"{'' if encoding.signed else 'u'}int4"
            codes = codes.astype(np.dtype(getattr(ml_dtypes, dtype)))
        self._tensors[stored] = Tensor(stored, dtype, shape, codes)
        if encoding.block_size is not None and encoding.axis is not None:  # ONNX wants one scale per element of the other axes
            axis = encoding.axis % len(shape)
            full = [s if d == axis else n for d, (s, n) in enumerate(zip(steps.shape, shape, strict=True))]
            steps, zeros = np.broadcast_to(steps, full), np.broadcast_to(zeros, full)
        parameters = self._parameters(name, encoding, steps, zeros, dtype)
        if encoding.granularity == "lpbq":
            self._two_levels(parameters[0], encoding)
        self._nodes.append(Node("DequantizeLinear", f"{name}.dequantize", (stored, *parameters), (name,), _attributes(encoding)))

    def _two_levels(self, scale: str, encoding: Encoding) -> None:
        """Make the block scales of LPBQ by a DQ of integers with one float scale per channel, the form that the QNN provider knows.

        A weight with several axes besides that of the blocks has no such channel: its block scales stay plain floats.
        """
        channels, integers = lpbq_channel_scale(encoding), encoding.block_scale
        axes = [axis for axis, size in enumerate(channels.shape) if size > 1]
        if len(axes) > 1 or integers is None or integers.shape != self._tensors[scale].shape:
            return
        axis = axes[0] if axes else (1 if encoding.axis == 0 else 0)
        self._tensors[scale] = Tensor(scale, "float32", tuple(integers.shape))
        stored, factor, zero = f"{scale}.q", f"{scale}.factor", f"{scale}.zero_point"
        self._tensors[stored] = Tensor.constant(stored, integers.astype(np.uint8))
        self._tensors[factor] = Tensor.constant(factor, channels.reshape(-1))
        self._tensors[zero] = Tensor.constant(zero, np.zeros(channels.size, np.uint8))
        self._nodes.append(Node("DequantizeLinear", f"{scale}.dequantize", (stored, factor, zero), (scale,), {"axis": axis}))

    def _parameters(self, name: str, encoding: Encoding, steps: Array, zeros: Array, dtype: str) -> tuple[str, ...]:
        scale = f"{name}.scale"
        self._tensors[scale] = Tensor.constant(scale, steps.astype(np.float32))
        if dtype == "int32":
            return (scale,)  # ONNX takes no zero point there
        zero = f"{name}.zero_point"
        kind = np.dtype(getattr(ml_dtypes, dtype) if INT_BITS[dtype] < 8 else dtype)
        self._tensors[zero] = Tensor(zero, dtype, tuple(zeros.shape), zeros.astype(np.int32).astype(kind))
        return scale, zero


def _attributes(encoding: Encoding) -> dict[str, Any]:
    if encoding.axis is None:
        return {}
    return {"axis": encoding.axis} | ({} if encoding.block_size is None else {"block_size": encoding.block_size})


def extract_qdq(graph: Graph) -> tuple[Graph, dict[str, Encoding]]:
    """Take Q/DQ pairs (and pairs of Cast through a 16-bit float) out of a graph: the float graph and the encodings they stood for.

    A constant behind a DQ becomes its real values, which quantize to the same codes again. A tensor that is quantized twice in a
    row on different grids keeps an Identity between the two.
    """
    reader = _Reader(graph)
    return reader.build()


class _Reader:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._tensors = dict(graph.tensors)
        self._nodes: list[Node] = []
        self._same: dict[str, str] = {}  # tensor after a pair -> tensor before it
        self._encodings: dict[str, Encoding] = {}
        self._skip: set[int] = set()
        self._levels: dict[str, Array] = {}  # scale of a DQ -> the integers that it was made of

    def build(self) -> tuple[Graph, dict[str, Encoding]]:
        for node in self._graph.nodes:
            if id(node) in self._skip or self._constant(node) or self._pair(node):
                continue
            inputs = tuple(self._same.get(n, n) for n in node.inputs)
            self._nodes.append(attrs.evolve(node, inputs=inputs))
        names = self._output_names()
        nodes = tuple(
            attrs.evolve(n, inputs=tuple(names.get(i, i) for i in n.inputs), outputs=tuple(names.get(o, o) for o in n.outputs))
            for n in self._nodes
        )
        graph = remove_dead_nodes(self._graph.evolve(nodes=nodes, tensors=self._tensors))
        check_graph(graph)
        encodings = {names.get(n, n): e.with_origin("override") for n, e in self._encodings.items()}
        return graph, {n: e for n, e in encodings.items() if n in graph.tensors}

    def _data(self, name: str) -> Array | None:
        return self._tensors[name].data if name else None

    def _constant(self, node: Node) -> bool:
        """A DQ of constant codes, or a Cast of a constant 16-bit float: a constant with an encoding."""
        stored = self._data(node.input(0))
        if stored is None or node.op not in ("DequantizeLinear", "Cast"):
            return False
        output = node.outputs[0]
        if node.op == "Cast":
            dtype = self._tensors[node.inputs[0]].dtype
            if dtype not in _CAST or node.get("to") != _FLOAT32:
                return False
            encoding, values = Encoding(dtype), stored.astype(np.float32)
        else:
            if self._is_scale(output):
                (values,) = evaluate_node(node, [self._data(n) for n in node.inputs], self._graph)
                self._tensors[output] = Tensor.constant(output, values)
                self._levels[output] = stored
                return True
            encoding = self._encoding(node, self._tensors[node.inputs[0]].dtype)
            values = dequantize(stored.astype(np.int64), encoding)
        name = self._constant_name(node.inputs[0], output)
        self._tensors[name] = Tensor.constant(name, values)
        self._encodings[name] = encoding
        if name != output:
            self._same[output] = name
            self._tensors.pop(output)
        return True

    def _is_scale(self, name: str) -> bool:
        """Whether a tensor is only read as the scale of another DQ (LPBQ: integer block scales times a float scale)."""
        readers = self._graph.consumers.get(name, ())
        return bool(readers) and all(r.op in ("DequantizeLinear", "QuantizeLinear") and r.input(1) == name for r in readers)

    def _constant_name(self, stored: str, output: str) -> str:
        for suffix in _SUFFIXES:
            base = stored.removesuffix(suffix)
            if base != stored and (base == output or base not in self._tensors):
                return base
        return output

    def _pair(self, node: Node) -> bool:
        """A Q followed by DQs only, or a Cast to 16-bit float followed by Casts back."""
        narrowing = next((d for d, code in _CAST.items() if node.op == "Cast" and node.get("to") == code), None)
        if node.op != "QuantizeLinear" and narrowing is None:
            return False
        if node.outputs[0] in self._graph.outputs or not self._tensors[node.inputs[0]].is_float:
            return False
        back = self._graph.consumers.get(node.outputs[0], ())
        wanted = "Cast" if narrowing else "DequantizeLinear"
        if not back or any(b.op != wanted or (narrowing and b.get("to") != _FLOAT32) for b in back):
            return False
        encoding = Encoding(narrowing) if narrowing else self._encoding(node, self._code_type(node))
        name = self._place(node, self._same.get(node.inputs[0], node.inputs[0]), encoding)
        for reader in back:
            self._same[reader.outputs[0]] = name
            self._skip.add(id(reader))
        return True

    def _place(self, node: Node, name: str, encoding: Encoding) -> str:
        """Give ``name`` the encoding; when it has another one already, go on from a copy."""
        old = self._encodings.get(name)
        if old is not None and not old.same_grid(encoding):
            copy = f"{node.outputs[0]}.copy"
            self._tensors[copy] = attrs.evolve(self._tensors[name], name=copy)
            self._nodes.append(Node("Identity", copy, (name,), (copy,)))
            name = copy
        self._encodings[name] = encoding
        return name

    def _code_type(self, node: Node) -> str:
        zero = node.input(2)
        return self._tensors[zero].dtype if zero else self._tensors[node.outputs[0]].dtype or "uint8"

    def _encoding(self, node: Node, dtype: str) -> Encoding:
        scale, zero = self._data(node.input(1)), self._data(node.input(2))
        if scale is None or (node.input(2) and zero is None):
            raise EncodingError(f"node '{node.name}' ({node.op}): scale and zero point must be constants")
        if dtype not in INT_BITS:
            raise EncodingError(f"node '{node.name}' ({node.op}): type {dtype} is not one of {', '.join(INT_BITS)}")
        try:
            return self._grid(node, dtype, scale, zero)
        except EncodingError as error:
            raise EncodingError(f"node '{node.name}' ({node.op}): {error.message}", hint=error.hint) from None

    def _grid(self, node: Node, dtype: str, scale: Array, zero: Array | None) -> Encoding:
        zeros = None if zero is None else zero.astype(np.int64)
        symmetric = not dtype.startswith("u") and (zeros is None or not zeros.any())
        size = int(node.get("block_size", 0)) or None
        if scale.size == 1 and size is None:
            scale, zeros = scale.reshape(()), None if zeros is None else zeros.reshape(())
            return Encoding(dtype, scale, zeros, symmetric=symmetric)
        rank = len(self._tensors[node.inputs[0]].shape or ())
        axis = int(node.get("axis", 1))
        axis = axis % rank if rank else axis
        levels = self._levels.get(node.input(1)) if size is not None and symmetric else None
        return Encoding(dtype, scale, zeros, axis=axis, block_size=size, block_scale=levels, symmetric=symmetric)

    def _output_names(self) -> dict[str, str]:
        """Graph outputs that were made by a pair: the tensor before it takes the output's name."""
        names: dict[str, str] = {}
        for output in self._graph.outputs:
            before = self._same.get(output)
            if before is None:
                continue
            if before in self._graph.inputs or before in self._graph.outputs or before in names or self._data(before) is not None:
                self._nodes.append(Node("Identity", f"{output}.identity", (before,), (output,)))
                self._encodings[output] = self._encodings[before]
                continue
            names[before] = output
            self._tensors[output] = attrs.evolve(self._tensors[before], name=output)
        return names
