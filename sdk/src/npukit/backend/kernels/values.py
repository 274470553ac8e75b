"""Values in the forms that kernels compute with: integers, exact sums, grids that stay, tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from npukit.backend.call import Call, Result
from npukit.backend.value import Value
from npukit.encoding import Array, Encoding, container, dequantize, quantize, spread

T = TypeVar("T")
ArrayFunction: TypeAlias = Callable[[Array], Array]

EXACT_FLOAT32 = 1 << 24
"""All integers up to here are float32 numbers (IEEE 754 binary32)."""
EXACT_FLOAT64 = 1 << 53
"""All integers up to here are float64 numbers (IEEE 754 binary64)."""


def exact_dtype(bound: float) -> npt.DTypeLike:
    """The fastest float type in which sums of integers are exact when the absolute values of all terms add up to ``bound``.

    Every partial sum, in any order, with or without fused multiply-add, is then an integer of at most ``bound``, and float32
    holds all integers up to 2**24, float64 up to 2**53. So the result does not depend on how BLAS splits the sum. Raises ValueError
    above 2**53.
    """
    if bound > EXACT_FLOAT64:
        raise ValueError(f"integer sums up to {bound:.3g} are exact in no float type")
    return np.float32 if bound <= EXACT_FLOAT32 else np.float64


def real_sum_dtype(call: Call) -> npt.DTypeLike:
    """The float type in which a node sums real values: float64 when it computes in float16, else float32.

    Products of float16 numbers are multiples of 2**-48, so float64 sums of them are exact while the absolute values add up to less
    than 32. Beyond that they differ by 2**-52 of that with the order of the terms, which rounding to 11 bits hides.
    """
    return np.float64 if call.type == "float16" else np.float32


def largest(encoding: Encoding) -> int:
    """The largest absolute value of code minus zero point on a per-tensor grid."""
    zero = int(encoding.zeros)
    return max(abs(encoding.qmin - zero), abs(encoding.qmax - zero))


def centered(value: Value, dtype: npt.DTypeLike = np.float32) -> Array:
    """Codes minus zero points, in the shape of the value and a float type; float32 is exact for codes of up to 16 bits.

    The value has an integer grid, of any granularity.
    """
    assert value.encoding is not None
    zeros = spread(value.encoding.zeros, value.encoding, value.data.shape)
    out = np.empty(value.data.shape, dtype)
    np.subtract(value.data, zeros.astype(dtype), out=out)
    return out


def along_channels(values: Array, rank: int) -> Array:
    """Values per channel, (C,), or one for all, () or (1,), in a form that broadcasts with (N, C, ...) of ``rank`` axes."""
    return values.reshape(-1, *[1] * (rank - 2)) if values.size > 1 else values.reshape(())


@attrs.frozen(eq=False)
class IntegerWeight:
    """An operand as integers in float32, in its own shape, and a float32 scale: () or one per output channel (C,)."""

    values: Array
    scale: Array


def integer_weight(value: Value, channel_axis: int) -> IntegerWeight | None:
    """The integer form of an operand, or None when its sum has no single scale per output channel.

    Per-tensor and per-channel grids give codes minus zero point. LPBQ gives codes times the integer block scale, which leaves
    one scale per channel (two-level scales: https://arxiv.org/abs/2102.04503). All are below 2**17, so float32 holds them.
    Float grids, grids of more than 16 bits and grids with a float scale per block have no such form.
    """
    encoding, rank = value.encoding, value.data.ndim
    if encoding is None or encoding.bits > 16 or encoding.granularity in ("float", "block"):
        return None
    if encoding.granularity == "tensor":
        return IntegerWeight(centered(value), encoding.steps)
    channel_axis %= rank
    if encoding.granularity == "lpbq":
        return _lpbq_weight(value.data, encoding, channel_axis)
    if encoding.axis is None or encoding.axis % rank != channel_axis:
        return None
    return IntegerWeight(centered(value), encoding.steps)


def _lpbq_weight(codes: Array, encoding: Encoding, channel_axis: int) -> IntegerWeight | None:
    axis, size, block_scale = encoding.axis, encoding.block_size, encoding.block_scale
    if axis is None or size is None or block_scale is None:
        return None
    axis %= codes.ndim
    channel = (encoding.steps / block_scale).take(0, axis)
    per_channel = channel.reshape(-1).astype(np.float32)
    if axis == channel_axis or per_channel.size != codes.shape[channel_axis]:
        return None
    block_of = np.arange(codes.shape[axis]) // size
    values = codes - encoding.zeros.astype(np.float32).take(block_of, axis)  # float32 holds them all, in half the room of int64
    values *= block_scale.astype(np.float32).take(block_of, axis)
    return IntegerWeight(values, per_channel)


def integer_bias(bias: Value | None, scale: Array) -> Array | None:
    """A bias (C,) as integers in float64 at ``scale``, () or (C,): its own codes when they are on that grid, else rounded to it.

    Rounding a bias that arrives in another form is what onnxruntime-qnn and ExecuTorch do: the hardware adds int32.
    """
    if bias is None:
        return None
    encoding = bias.encoding
    if encoding is not None and not encoding.is_float and not encoding.zeros.any() and np.array_equal(encoding.steps, scale):
        return bias.data.astype(np.float64)
    return np.rint(bias.real().astype(np.float64) / scale.astype(np.float64))


def same_grid(a: Encoding | None, b: Encoding | None) -> bool:
    """Whether codes of one are codes of the other; None is no grid at all."""
    return a is b or (a is not None and b is not None and a.same_grid(b))


def move(call: Call, function: ArrayFunction, index: int = 0) -> list[Result]:
    """Every output of an op that only moves elements of input ``index``: on the codes when the grid stays, else on real values."""
    return [place(call.value(index), function, out) for out in call.outputs]


def place(value: Value, function: ArrayFunction, out: Encoding | None) -> Result:
    """One output of an op that moves elements of ``value``: codes when it has the grid of ``out``, else real values."""
    if same_grid(value.encoding, out) and (out is None or out.axis is None):
        return Value(function(value.data), out)
    return function(value.real())


def tabulate(call: Call, function: ArrayFunction) -> list[Result]:
    """A function of one value: the correctly rounded real result, looked up by code.

    The table is made in float64 over all codes, then rounded to float32 and to the output grid; it is kept in the call's memo.
    Values without codes are computed in float32.
    """
    value, out = call.value(0), call.outputs[0]
    encoding = value.encoding
    if encoding is None or encoding.is_float or encoding.bits > 16 or encoding.axis is not None:
        return [function(value.real())]
    table = call.once("table", lambda: _table(function, encoding, out))
    found = table[value.data.view(_unsigned(value.data.dtype))]
    return [Value(found, out) if out is not None and not out.is_float else found]


def _table(function: ArrayFunction, encoding: Encoding, out: Encoding | None) -> Array:
    dtype = container(encoding)
    codes = np.arange(1 << (8 * dtype.itemsize)).astype(_unsigned(dtype)).view(dtype)
    with np.errstate(all="ignore"):
        real = np.asarray(function(dequantize(codes, encoding).astype(np.float64)), np.float64).astype(np.float32)
    # An undefined point (log of a negative number) becomes 0; poles saturate.
    real = np.nan_to_num(real, nan=0.0, posinf=np.inf, neginf=-np.inf)
    return real if out is None or out.is_float else quantize(real, out)


def _unsigned(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"uint{8 * dtype.itemsize}")


def half_up(values: Array, out: Encoding) -> Value:
    """Real-valued codes rounded half up and saturated: floor(x + 1/2), as in the integer averages of TensorFlow Lite.

    https://github.com/tensorflow/tensorflow/blob/v2.16.1/tensorflow/lite/kernels/internal/reference (Apache-2.0).
    """
    codes = np.floor(values + 0.5)
    return Value(np.clip(codes, out.qmin, out.qmax).astype(container(out)), out)


def requantized(value: Value, out: Encoding | None) -> Value:
    """The value on another grid."""
    if out is None or same_grid(value.encoding, out):
        return value
    return Value(quantize(value.real(), out), out)


def remember(call: Call, key: str, sources: Sequence[Value | None], make: Callable[[], T]) -> T:
    """What ``make`` builds from ``sources``, kept until one of them is another array: constants are prepared once."""
    found = call.memo.get(key)
    arrays = [None if v is None else v.data for v in sources]
    if found is None or any(a is not b for a, b in zip(found[0], arrays, strict=True)):
        found = (arrays, make())
        call.memo[key] = found
    result: T = found[1]
    return result
