"""Encodings JSON as AIMET writes it and QAIRT reads it, versions 0.6.1, 1.0.0 and 2.0.0.

In 0.6.1 and 1.0.0 ``real = scale * (u + offset)`` on the unsigned grid, so ``offset = qmin - zero_point``; channels and blocks have
no axis there, it follows from the op that reads the parameter. 2.0.0 mirrors ONNX QuantizeLinear.
Specification: https://quic.github.io/aimet-pages/releases/latest/techniques/encoding_spec.html
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from npukit.encoding.arithmetic import lpbq_channel_scale, spread
from npukit.encoding.types import FLOAT_BITS, INT_BITS, Array, Encoding
from npukit.errors import EncodingError, UsageError, counted, did_you_mean
from npukit.graph import Graph

VERSIONS = ("0.6.1", "1.0.0", "2.0.0")
Entry = Mapping[str, Any]


@attrs.frozen(eq=False)
class Overrides:
    """What a file says: encodings by tensor name, and the names that match no tensor (only when read leniently)."""

    encodings: Mapping[str, Encoding]
    version: str
    ignored: tuple[str, ...] = ()


def read_encodings(source: str | os.PathLike[str] | bytes, graph: Graph, *, lenient: bool = False) -> Overrides:
    """Read an encodings file, given as a path or its bytes; every encoding has origin "override".

    Raises UsageError when the file cannot be read, EncodingError (one line naming tensor and key) when it is malformed, and for
    names that match no tensor or stand in the wrong section, unless ``lenient``.
    """
    document = _parse(source)
    version = document.get("version")
    if version not in VERSIONS:
        raise EncodingError(f"encodings version {version!r} is not known", hint=f"known: {', '.join(VERSIONS)}")
    encodings: dict[str, Encoding] = {}
    ignored: list[str] = []
    for section, name, entry in _entries(document, version):
        tensor = graph.tensors.get(name)
        if tensor is None:
            ignored.append(name)
            continue
        if section == "param" and not tensor.is_constant and not lenient:
            raise EncodingError(f"'{name}' is an activation, but stands in param_encodings", hint="move it, or read leniently")
        if name in encodings:
            raise EncodingError(f"tensor '{name}' has two encodings")
        encodings[name] = _read_entry(entry, name, graph, version)
    if ignored and not lenient:
        shown = "; ".join(f"'{n}' ({did_you_mean(n, graph.tensors)})" for n in ignored[:3])
        more = f" and {len(ignored) - 3} more" if len(ignored) > 3 else ""
        raise EncodingError(f"{counted(len(ignored), 'encoding')} without a tensor: {shown}{more}", hint="--lenient skips them")
    return Overrides(encodings, version, tuple(ignored))


def write_encodings(encodings: Mapping[str, Encoding], graph: Graph, version: str = "1.0.0") -> str:
    """The JSON text of an encodings file. As in AIMET, derived biases are written in 2.0.0 only, float tensors in the others only.

    Raises EncodingError naming the tensor when the version cannot express its encoding, UsageError for an unknown version.
    """
    if version not in VERSIONS:
        raise UsageError(f"encodings version '{version}' is not known", hint=f"known: {', '.join(VERSIONS)}")
    document: dict[str, Any] = {"version": version, "producer": {"package": "npukit", "version": "0.1.0"}}
    if version == "2.0.0":
        document["encodings"] = [_write_200(n, e) for n, e in encodings.items() if not e.is_float]
        return json.dumps(document, indent=1, sort_keys=True)
    sections: dict[bool, dict[str, Any]] = {False: {}, True: {}}
    write = _write_061 if version == "0.6.1" else _write_100
    for name, encoding in encodings.items():
        if encoding.origin != "derived":
            sections[_is_parameter(graph, name)][name] = write(name, encoding, graph)
    for key, constant in (("activation_encodings", False), ("param_encodings", True)):
        found = sections[constant]
        document[key] = found if version == "0.6.1" else list(found.values())
    return json.dumps(document, indent=1, sort_keys=True)


# ---------------------------------------------------------------------------------------------------------------- reading


def _parse(source: str | os.PathLike[str] | bytes) -> Mapping[str, Any]:
    if isinstance(source, bytes):
        label, data = "the encodings", source
    else:
        label = f"encodings file '{os.fspath(source)}'"
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {label}: {error.strerror}") from None

    def refuse(text: str) -> float:
        raise EncodingError(f"{label} has the number {text}")

    try:
        document = json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise EncodingError(f"{label} is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise EncodingError(f"{label} is not a JSON object")
    return document


def _entries(document: Mapping[str, Any], version: str) -> Iterator[tuple[str, str, Any]]:
    """(section, tensor name, entry) of a document; the entry of 0.6.1 is a list."""
    sections = {"": "encodings"} if version == "2.0.0" else {"activation": "activation_encodings", "param": "param_encodings"}
    for section, key in sections.items():
        value = document.get(key, {} if version == "0.6.1" else [])
        if version == "0.6.1":
            if not isinstance(value, dict):
                raise EncodingError(f"'{key}' must be an object of tensor names in version 0.6.1")
            yield from ((section, name, entry) for name, entry in value.items())
        else:
            if not isinstance(value, list):
                raise EncodingError(f"'{key}' must be a list in version {version}")
            for entry in value:
                if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                    raise EncodingError(f"an entry of '{key}' is not an object with a name")
                yield section, entry["name"], entry


def _read_entry(entry: Any, name: str, graph: Graph, version: str) -> Encoding:
    read: dict[str, Callable[[Any, str, Graph], Encoding]] = {"0.6.1": _read_061, "1.0.0": _read_100, "2.0.0": _read_200}
    try:
        encoding = read[version](entry, name, graph).with_origin("override")
        if encoding.axis is not None:
            spread(encoding.steps, encoding, _constant_shape(graph, name))  # raises when the scales do not fit
        return encoding
    except EncodingError as error:
        message = error.message if f"'{name}'" in error.message else f"tensor '{name}': {error.message}"
        raise EncodingError(message, hint=error.hint) from None
    except KeyError as error:
        raise EncodingError(f"tensor '{name}': the key {error} is missing") from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise EncodingError(f"tensor '{name}': {error}") from None


def _read_061(entry: Any, name: str, graph: Graph) -> Encoding:
    if not isinstance(entry, list) or not entry or not all(isinstance(item, dict) for item in entry):
        raise EncodingError(f"tensor '{name}': a list of encodings is expected, found {type(entry).__name__}")
    first = entry[0]
    if str(first.get("dtype", "int")).lower() == "float":
        return Encoding(_float_type(int(first["bitwidth"])))
    scale = np.array([item["scale"] for item in entry], np.float64)
    offset = np.array([item["offset"] for item in entry], np.float64)
    symmetric = str(first["is_symmetric"]).lower() == "true"
    dtype, zero = _unsigned_grid(graph, name, int(first["bitwidth"]), symmetric, offset)
    if len(entry) == 1:
        return Encoding(dtype, scale[0], zero[0], symmetric=symmetric)
    axis, block_axis = _axes(graph, name)
    shape = _constant_shape(graph, name)
    if len(entry) == shape[axis]:
        return Encoding(dtype, scale, zero, axis=axis, symmetric=symmetric)
    if block_axis is None or len(entry) % shape[axis]:
        raise EncodingError(f"{len(entry)} encodings do not fit the {shape[axis]} channels on axis {axis}")
    block_size = -(-shape[block_axis] // (len(entry) // shape[axis]))
    # Unlike 1.0.0, this version lists blocks in the order of the tensor's own axes.
    full = [-(-n // block_size) if d == block_axis else n if d == axis else 1 for d, n in enumerate(shape)]
    if scale.size != math.prod(full):
        raise EncodingError(f"{scale.size} encodings do not fit blocks of shape {full}")
    return Encoding(dtype, scale.reshape(full), zero.reshape(full), axis=block_axis, block_size=block_size, symmetric=symmetric)


def _read_100(entry: Entry, name: str, graph: Graph) -> Encoding:
    bits = int(entry["bw"])
    if str(entry.get("dtype", "INT")).upper() == "FLOAT":
        return Encoding(_float_type(bits))
    kind = entry["enc_type"]
    scale = np.atleast_1d(np.array(entry["scale"], np.float64))
    offset = np.atleast_1d(np.array(entry["offset"], np.float64))
    if scale.shape != offset.shape:
        raise EncodingError(f"{scale.size} scales, but {offset.size} offsets")
    symmetric = bool(entry["is_sym"])
    if kind == "LPBQ":
        bits = _checked_bits(int(entry["compressed_bw"]))
        offset = np.full(offset.shape, -(1 << (bits - 1)), np.float64)
    shift = np.array(entry.get("zero_point_shift", 0.0), np.float64)
    dtype, zero = _unsigned_grid(graph, name, bits, symmetric, offset + shift)
    if kind == "PER_TENSOR":
        if scale.size != 1:
            raise EncodingError(f"PER_TENSOR needs one scale, found {scale.size}")
        return Encoding(dtype, scale[0], zero[0], symmetric=symmetric)
    axis, block_axis = _axes(graph, name)
    shape = _constant_shape(graph, name)
    if kind == "PER_CHANNEL":
        if scale.size != shape[axis]:
            raise EncodingError(f"{scale.size} scales do not fit the {shape[axis]} channels on axis {axis}")
        return Encoding(dtype, scale, zero, axis=axis, symmetric=symmetric)
    if kind not in ("PER_BLOCK", "LPBQ") or block_axis is None:
        raise EncodingError(f"enc_type {kind!r} is not known for this tensor")
    factors = np.array(entry["per_block_int_scale"], np.int64) if kind == "LPBQ" else None
    return _blocks(dtype, scale, zero, shape, axis, block_axis, int(entry["block_size"]), symmetric, factors)


def _read_200(entry: Entry, name: str, graph: Graph) -> Encoding:
    dtype = str(entry["output_dtype"])
    if dtype not in INT_BITS:
        allowed = ", ".join(INT_BITS)
        raise EncodingError(f"tensor '{name}': output_dtype '{dtype}' is not one of {allowed}")
    axis, size = entry.get("axis"), entry.get("block_size")
    factors = None
    if "per_block_int_scale" in entry:
        factors = np.array(entry["per_block_int_scale"], np.int64)
        scale: Array = _float32(np.array(entry["per_channel_float_scale"], np.float64)) * factors
    else:
        scale = np.array(entry["y_scale"], np.float64)
    zero = entry.get("y_zero_point")
    if axis is not None:
        shape = _constant_shape(graph, name)
        if not -len(shape) <= axis < len(shape):
            raise EncodingError(f"axis {axis} does not exist in shape {list(shape)}")
        if size is None and scale.size != shape[axis]:
            raise EncodingError(f"{scale.size} scales do not fit the {shape[axis]} channels on axis {axis}")
    elif scale.size != 1:
        raise EncodingError(f"{scale.size} scales need an axis")
    symmetric = zero is None and not dtype.startswith("u")
    return Encoding(dtype, scale, zero, axis=axis, block_size=size, block_scale=factors, symmetric=symmetric)


def _float_type(bits: int) -> str:
    found = {16: "float16", 32: "float32"}.get(bits)
    if found is None:
        raise EncodingError(f"a float of {bits} bits is not known", hint="16 or 32")
    return found


def _unsigned_grid(graph: Graph, name: str, bits: int, symmetric: bool, offset: Array) -> tuple[str, Array]:
    """Type and zero point for an offset on the unsigned grid: symmetric parameters are signed, everything else unsigned."""
    signed = symmetric and _is_parameter(graph, name)
    qmin = -(1 << (_checked_bits(bits) - 1)) if signed else 0
    return f"{'' if signed else 'u'}int{bits}", qmin - offset


def _float32(values: Array) -> Array:
    with np.errstate(over="ignore"):  # Encoding refuses what became infinite
        return values.astype(np.float32)


def _checked_bits(bits: int) -> int:
    if bits not in INT_BITS.values():
        raise EncodingError(f"integers of {bits} bits are not known", hint=f"one of {sorted(set(INT_BITS.values()))}")
    return bits


def _is_parameter(graph: Graph, name: str) -> bool:
    """Whether a constant is a parameter of a layer; the constant of an Add or Mul counts as an activation, as in AIMET."""
    if not graph.tensor(name).is_constant:
        return False
    readers = graph.consumers.get(name, ())
    return not readers or any(node.op in _LAYERS and name in node.inputs for node in readers)


_LAYERS = frozenset(
    [
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "PRelu",
        "BatchNormalization",
        "LayerNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "RMSNormalization",
        "LSTM",
        "GRU",
        "RNN",
        "Gather",
    ]
)


def _constant_shape(graph: Graph, name: str) -> tuple[int, ...]:
    shape = graph.tensor(name).static_shape
    if not shape:
        raise EncodingError("only a tensor of known shape can have scales per channel")
    return shape


def _axes(graph: Graph, name: str) -> tuple[int, int | None]:
    """(channel axis, axis of the input channels) of a parameter, from the first op that reads it as its weight."""
    rank = len(graph.tensor(name).shape or ())
    for node in graph.consumers.get(name, ()):
        if node.input(1) != name:
            continue
        if node.op == "Conv":
            return 0, 1
        if node.op == "ConvTranspose":
            return 1, 0
        if node.op == "Gemm":
            return (0, 1) if node.get("transB", 0) else (1, 0)
        if node.op == "MatMul":
            return rank - 1, rank - 2 if rank > 1 else None
    return 0, 1 if rank > 1 else None


def _blocks(
    dtype: str,
    scale: Array,
    zero: Array,
    shape: tuple[int, ...],
    axis: int,
    block_axis: int,
    size: int,
    symmetric: bool,
    factors: Array | None,
) -> Encoding:
    """An encoding from flat lists of per-block values; LPBQ has one float scale per channel and integer ``factors``."""
    if size < 1:
        raise EncodingError(f"a block size is at least 1, found {size}")
    full = [1] * len(shape)
    full[axis], full[block_axis] = shape[axis], -(-shape[block_axis] // size)
    wanted = (scale if factors is None else factors).size
    if wanted != full[axis] * full[block_axis] or (factors is not None and scale.size != shape[axis]):
        raise EncodingError(f"{wanted} blocks of {size} do not fit shape {list(shape)}")

    def unflat(values: Array) -> Array:
        if _transposed(shape, axis):
            return values.reshape(full[axis], full[block_axis]).T
        return values.reshape(full)

    if factors is None:
        return Encoding(dtype, unflat(scale), unflat(zero), axis=block_axis, block_size=size, symmetric=symmetric)
    blocks = unflat(factors)
    channels = _float32(scale).reshape([-1 if d == axis else 1 for d in range(len(shape))])
    return Encoding(dtype, channels * blocks, axis=block_axis, block_size=size, block_scale=blocks, symmetric=symmetric)


def _transposed(shape: tuple[int, ...], axis: int) -> bool:
    """Whether block values are listed (out, in) although the tensor is (in, out): 2-D weights of Gemm and MatMul."""
    return len(shape) == 2 and axis == 1


# ---------------------------------------------------------------------------------------------------------------- writing


def _numbers(values: Array) -> Any:
    """Nested lists of Python numbers; float32 prints as the double it equals."""
    return np.asarray(values).astype(np.float64 if values.dtype.kind == "f" else np.int64).tolist()


def _flat(encoding: Encoding, values: Array, graph: Graph, name: str) -> list[Any]:
    """Per-channel or per-block values as the flat list of 1.0.0."""
    if encoding.block_size is None:
        return list(_numbers(values.reshape(-1)))
    axis, _ = _axes(graph, name)
    if _transposed(_constant_shape(graph, name), axis):
        values = values.T
    return list(_numbers(values.reshape(-1)))


def _offsets(encoding: Encoding) -> Array:
    return np.asarray(encoding.qmin - encoding.zeros, np.float64)


def _write_061(name: str, encoding: Encoding, _graph: Graph) -> list[dict[str, Any]]:
    if encoding.is_float:
        return [{"bitwidth": FLOAT_BITS[encoding.dtype], "dtype": "float"}]
    if encoding.granularity == "lpbq":
        raise EncodingError(f"tensor '{name}': version 0.6.1 cannot express LPBQ", hint="use 1.0.0 or 2.0.0")
    scales, offsets = _numbers(encoding.steps.reshape(-1)), _numbers(_offsets(encoding).reshape(-1))
    top = (1 << encoding.bits) - 1
    return [
        {
            "bitwidth": encoding.bits,
            "dtype": "int",
            "is_symmetric": str(encoding.symmetric),
            "scale": scale,
            "offset": offset,
            "min": scale * offset,
            "max": scale * (top + offset),
        }
        for scale, offset in zip(scales, offsets, strict=True)
    ]


def _write_100(name: str, encoding: Encoding, graph: Graph) -> dict[str, Any]:
    if encoding.is_float:
        return {"name": name, "dtype": "FLOAT", "bw": FLOAT_BITS[encoding.dtype], "enc_type": "PER_TENSOR"}
    kinds = {"tensor": "PER_TENSOR", "channel": "PER_CHANNEL", "block": "PER_BLOCK", "lpbq": "LPBQ"}
    entry: dict[str, Any] = {
        "name": name,
        "dtype": "INT",
        "bw": encoding.bits,
        "enc_type": kinds[encoding.granularity],
        "is_sym": encoding.symmetric,
    }
    if encoding.block_size is not None:
        entry["block_size"] = encoding.block_size
    if encoding.block_scale is not None:
        channels = lpbq_channel_scale(encoding).reshape(-1)
        # AIMET gives the width after the block scales are multiplied in: twice that of the codes.
        entry |= {"bw": 2 * encoding.bits, "compressed_bw": encoding.bits, "scale": _numbers(channels)}
        entry["offset"] = [-(1 << (2 * encoding.bits - 1))] * channels.size
        entry["per_block_int_scale"] = _flat(encoding, encoding.block_scale, graph, name)
        return entry
    offsets, zeros = _offsets(encoding), encoding.zeros
    if zeros.dtype.kind == "f":
        shift = np.ceil(zeros) - zeros
        entry["zero_point_shift"] = _flat(encoding, shift, graph, name)
        offsets = offsets - shift
    entry["scale"] = _flat(encoding, encoding.steps, graph, name)
    entry["offset"] = _flat(encoding, offsets, graph, name)
    return entry


def _write_200(name: str, encoding: Encoding) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "output_dtype": encoding.dtype}
    if encoding.axis is not None:
        entry["axis"] = encoding.axis
    if encoding.block_size is not None:
        entry["block_size"] = encoding.block_size
    if encoding.block_scale is not None:
        return entry | {
            "per_block_int_scale": _numbers(encoding.block_scale),
            "per_channel_float_scale": _numbers(lpbq_channel_scale(encoding)),
        }
    entry["y_scale"] = _numbers(encoding.steps)
    if np.any(encoding.zeros) or (encoding.signed and not encoding.symmetric):
        entry["y_zero_point"] = _numbers(encoding.zeros)
    return entry
