"""Arithmetic on grids: quantize, dequantize, and encodings from ranges or weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import ml_dtypes
import numpy as np

from npukit.encoding.types import FLOAT_BITS, INT_BITS, Array, Encoding
from npukit.errors import EncodingError

# A range narrower than this is widened, so that a tensor of zeros has a usable scale (onnxruntime's QNN configuration uses the
# same figure: https://github.com/microsoft/onnxruntime, quantization/execution_providers/qnn).
MIN_RANGE = 1e-4


@attrs.frozen
class GridForm:
    """What grids of a chip have in common, whatever their range.

    ``limits`` gives, per type, the least and the largest code that a range is spread over ({"int8": (-127, 127)}); ``power_of_two``
    rounds scales up to powers of two; ``min_range`` is the width that a narrower range is widened to.
    """

    limits: Mapping[str, tuple[int, int]] = attrs.field(factory=dict)
    power_of_two: bool = False
    min_range: float = MIN_RANGE


_PLAIN = GridForm()
# LPBQ: the integer scale of a block has 4 bits and lies in 1..16 (aimet-onnx 2.42, BSD-3-Clause).
LPBQ_STEPS = 16


def container(encoding: Encoding) -> np.dtype[Any]:
    """The numpy dtype that holds the codes of an integer encoding: 2 and 4 bits live in 8."""
    return np.dtype(f"{'int' if encoding.signed else 'uint'}{max(8, encoding.bits)}")


def spread(values: Array, encoding: Encoding, shape: tuple[int, ...]) -> Array:
    """Bring ``values`` (scales or zero points of ``encoding``) to a form that broadcasts against a tensor of ``shape``.

    Raises EncodingError when the number of channels or blocks does not fit.
    """
    if encoding.axis is None:
        return values.reshape(())
    if not -len(shape) <= encoding.axis < len(shape) or values.ndim not in (1, len(shape)):
        raise EncodingError(f"an encoding on axis {encoding.axis} does not fit a tensor of shape {list(shape)}")
    axis = encoding.axis % len(shape)
    if encoding.block_size is not None:
        return _spread_blocks(values, encoding.block_size, axis, shape)
    flat = values.reshape(-1)
    if flat.size != shape[axis]:
        raise EncodingError(f"{flat.size} scales on axis {axis} do not fit a tensor of shape {list(shape)}")
    return flat.reshape([-1 if d == axis else 1 for d in range(len(shape))])


def _spread_blocks(values: Array, size: int, axis: int, shape: tuple[int, ...]) -> Array:
    expected = [-(-d // size) if i == axis else d for i, d in enumerate(shape)]
    fits = values.ndim == len(shape) and all(v in (1, e) for v, e in zip(values.shape, expected, strict=True))
    if not fits or values.shape[axis] != expected[axis]:
        raise EncodingError(f"blocks of shape {list(values.shape)} and size {size} do not fit a tensor of shape {list(shape)}")
    repeated = np.repeat(values, size, axis=axis)
    return np.take(repeated, np.arange(shape[axis]), axis=axis)


def quantize(values: Array, encoding: Encoding) -> Array:
    """Codes of real values: rint(x / scale) + zero_point, saturated (ONNX QuantizeLinear, ties to even); NaN gives the lowest.

    ``values``: any shape, float. Returns an integer array of the encoding's container type. Raises EncodingError for a float
    encoding.
    """
    # float32 holds every code of up to 16 bits; 32-bit codes need float64.
    kind: Any = np.float32 if encoding.bits <= 16 else np.float64
    scale = spread(encoding.steps, encoding, values.shape).astype(kind)
    with np.errstate(over="ignore"):  # an infinite quotient saturates like a large one
        codes = np.asarray(np.divide(values, scale, dtype=kind))
    zeros = spread(encoding.zeros, encoding, values.shape).astype(kind)
    if encoding.zeros.dtype.kind == "f":  # a grid shifted by a fraction of a step
        codes += zeros - np.floor(zeros)
        zeros = np.floor(zeros)
    np.rint(codes, out=codes)
    codes += zeros
    np.clip(codes, encoding.qmin, encoding.qmax, out=codes)
    if np.isnan(codes.min(initial=0)):  # as in ONNX Runtime; a cast of NaN depends on the machine
        codes[np.isnan(codes)] = encoding.qmin
    return codes.astype(container(encoding))


def dequantize(codes: Array, encoding: Encoding) -> Array:
    """Real values of codes, float32: (q - zero_point) * scale (ONNX DequantizeLinear)."""
    kind: Any = np.float32 if encoding.bits <= 16 else np.float64
    values = np.asarray(codes, dtype=kind) - spread(encoding.zeros, encoding, codes.shape).astype(kind)
    scaled = values * spread(encoding.steps, encoding, codes.shape).astype(kind)
    return np.asarray(scaled, dtype=np.float32)


def fake_quantize(values: Array, encoding: Encoding) -> Array:
    """The real values that remain after storing ``values`` with ``encoding``, float32."""
    if encoding.dtype == "float32":
        return np.asarray(values, np.float32)
    if encoding.is_float:
        narrow: Any = np.float16 if encoding.dtype == "float16" else ml_dtypes.bfloat16
        with np.errstate(over="ignore"):  # beyond the largest float16 the result is infinite, as in hardware
            return np.asarray(values, np.float32).astype(narrow).astype(np.float32)
    return dequantize(quantize(values, encoding), encoding)


def encoding_for_range(
    low: Any,
    high: Any,
    dtype: str,
    *,
    symmetric: bool = False,
    axis: int | None = None,
    origin: str = "calibrated",
    form: GridForm = _PLAIN,
) -> Encoding:
    """The encoding of type ``dtype`` that covers [low, high]; scalars, or (C,) with ``axis``.

    The range is widened to hold 0, and to ``form.min_range``. Asymmetric: scale = (high - low) / (2^bits - 1), the zero point
    rounded so that 0 is on the grid. Symmetric: scale = max(|low|, |high|) / qmax of the signed type, zero point 0 (unsigned: in
    the middle). ``form`` may limit the codes, or round scales up to powers of two. A float ``dtype`` gives the plain float
    encoding. Raises EncodingError for NaN, infinite or inverted ranges.
    """
    if dtype in FLOAT_BITS:
        return Encoding(dtype, origin=origin)
    scale, zero = _grid(low, high, dtype, symmetric, form)
    return Encoding(dtype, scale, zero, axis=axis, symmetric=symmetric, origin=origin)


def _grid(low: Any, high: Any, dtype: str, symmetric: bool, form: GridForm) -> tuple[Array, Array]:
    """Scale and zero point for ranges of any shape."""
    if dtype not in INT_BITS:
        raise EncodingError(f"unknown encoding type '{dtype}'")
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if low.size == 0 or not (low.shape == high.shape or 1 in (low.size, high.size)):
        raise EncodingError(f"a range needs as many lower as upper ends, at least one, found {low.size} and {high.size}")
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))) or np.any(low > high):
        raise EncodingError(f"a range must be finite and ordered, found [{np.min(low)}, {np.max(high)}]")
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    bits, signed = INT_BITS[dtype], not dtype.startswith("u")
    qmin = -(1 << (bits - 1)) if signed else 0
    least, most = form.limits.get(dtype, (qmin, qmin + (1 << bits) - 1))
    if symmetric:
        widest = np.maximum(np.maximum(-low, high), form.min_range / 2)
        middle = 0 if signed else 1 << (bits - 1)
        wide = _rounded(widest / max(min(most - middle, middle - least), 1), form)
        zero = np.full(wide.shape, middle, np.int64)
    else:
        high = np.maximum(high, low + form.min_range)
        wide = _rounded((high - low) / (most - least), form)
        zero = np.clip(np.rint(least - low / _narrow(wide)), least, most).astype(np.int64)
    return _narrow(wide), zero


def _rounded(scale: Array, form: GridForm) -> Array:
    return np.asarray(np.exp2(np.ceil(np.log2(scale)))) if form.power_of_two else np.asarray(scale)


def _narrow(scale: Array) -> Array:
    """Scales as float32; beyond its range they become infinite, which Encoding refuses."""
    with np.errstate(over="ignore"):
        return scale.astype(np.float32)


def encoding_for_weights(
    data: Array,
    dtype: str,
    *,
    granularity: str = "tensor",
    axis: int | None = None,
    block_size: int | None = None,
    symmetric: bool = True,
    origin: str = "calibrated",
    form: GridForm = _PLAIN,
) -> Encoding:
    """The min-max encoding of a constant tensor.

    ``granularity``: "tensor"; "channel" (one scale per index of ``axis``); "block" (one scale per ``block_size`` values along
    ``axis``, separately for every other index); "lpbq" (the same, block scales being integers 1..16 times a float scale per
    channel of all other indices; symmetric only). Raises EncodingError for a granularity or axis that does not exist, and for data
    that is not finite.
    """
    if dtype in FLOAT_BITS:
        return Encoding(dtype, origin=origin)
    if granularity == "tensor":
        return encoding_for_range(data.min(initial=0), data.max(initial=0), dtype, symmetric=symmetric, origin=origin, form=form)
    if granularity not in ("channel", "block", "lpbq"):
        raise EncodingError(f"granularity '{granularity}' is not tensor, channel, block or lpbq")
    if axis is None or not -data.ndim <= axis < data.ndim:
        raise EncodingError(f"granularity '{granularity}' needs an axis of a tensor of shape {list(data.shape)}, found {axis}")
    axis %= data.ndim
    if granularity == "channel":
        others = tuple(d for d in range(data.ndim) if d != axis)
        low, high = data.min(axis=others, initial=0), data.max(axis=others, initial=0)
        return encoding_for_range(low, high, dtype, symmetric=symmetric, axis=axis, origin=origin, form=form)
    if block_size is None or block_size < 1:
        raise EncodingError(f"granularity '{granularity}' needs a block size of at least 1")
    starts = np.arange(0, data.shape[axis], block_size)
    low, high = np.minimum.reduceat(data, starts, axis), np.maximum.reduceat(data, starts, axis)
    scale, zero = _grid(low, high, dtype, symmetric, form)
    factors = None
    if granularity == "lpbq":
        if not symmetric:
            raise EncodingError("LPBQ weights are symmetric")
        channel = (scale.max(axis=axis, keepdims=True) / LPBQ_STEPS).astype(np.float32)
        factors = np.clip(np.rint(scale / channel), 1, LPBQ_STEPS).astype(np.int64)
        scale = (channel * factors).astype(np.float32)
    return Encoding(dtype, scale, zero, axis=axis, block_size=block_size, block_scale=factors, symmetric=symmetric, origin=origin)


def lpbq_channel_scale(encoding: Encoding) -> Array:
    """The float scale per channel of an LPBQ encoding, float32, 1 along the block axis."""
    assert encoding.block_scale is not None
    assert encoding.axis is not None  # both hold for LPBQ
    ratio = encoding.steps.astype(np.float64) / encoding.block_scale
    # The largest factor gives the most exact quotient of the rounded product.
    best = np.argmax(encoding.block_scale, axis=encoding.axis, keepdims=True)
    return np.take_along_axis(ratio, best, axis=encoding.axis).astype(np.float32)
