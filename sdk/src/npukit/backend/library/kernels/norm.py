"""Softmax and the normalizations, rounded once to the output grid.

On codes every step is a sum that is exact in any order, a table, or one operation of IEEE 754 in float64, so that whoever takes
these steps gets the same bits. Real values are computed in float32, or in float64 where the result is rounded to float16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from npukit.backend import Call, Kernel, Result, Value
from npukit.backend.kernels import along_channels, centered, real_sum_dtype
from npukit.encoding import Array, Encoding, encoding_for_range, fake_quantize
from npukit.graph import Node

# numpy reduces a last axis of a few elements one short row at a time; as the first axis it is whole arrays at a time.
_SHORT = 16
# The powers of a Softmax on codes are multiples of 2**-30: float64 sums of them are exact up to 2**23.
_POWER_UNIT = np.float32(2.0**30)


def _grid(value: Value) -> Encoding | None:
    """The encoding of a value that is integers on one grid of 16 bits or fewer."""
    encoding = value.encoding
    if encoding is None or encoding.granularity != "tensor" or encoding.bits > 16 or encoding.zeros.dtype.kind == "f":
        return None
    return encoding


def powers_below(encoding: Encoding) -> Array:
    """exp(-scale * d) for all differences d of two codes, from 0 on: float32, rounded to multiples of 2**-30."""
    differences = np.arange(encoding.qmax - encoding.qmin + 1)
    powers = np.exp(-float(encoding.steps) * differences).astype(np.float32)
    return np.asarray(np.rint(powers * _POWER_UNIT) / _POWER_UNIT)


def _along_axis(call: Call, function: Callable[[Array, int], Array]) -> list[Result]:
    """``function(d, axis)`` in float32, with a short axis moved to the front; d is how far below the maximum of the axis the input
    is, in codes or real values."""
    value, axis = call.value(0), int(call.node.get("axis", -1))
    x = value.real().astype(real_sum_dtype(call), copy=False) if _grid(value) is None else value.data.astype(np.int32)
    if x.shape[axis] > _SHORT:
        return [function(x.max(axis, keepdims=True) - x, axis).astype(np.float32, copy=False)]
    x = np.ascontiguousarray(np.moveaxis(x, axis, 0))
    return [np.moveaxis(function(x.max(0, keepdims=True) - x, 0).astype(np.float32, copy=False), 0, axis)]


def _powers(call: Call, below: Array) -> Array:
    """exp(-d) for ``below`` as ``_along_axis`` gives it."""
    grid = _grid(call.value(0))
    return np.exp(-below) if grid is None else np.asarray(call.once("powers", lambda: powers_below(grid))[below])


def softmax(call: Call) -> Sequence[Result]:
    """ONNX Softmax along one axis."""

    def function(below: Array, axis: int) -> Array:
        powers = _powers(call, below)
        return np.asarray(powers / powers.sum(axis, np.float64, keepdims=True).astype(powers.dtype))

    return _along_axis(call, function)


def log_softmax(call: Call) -> Sequence[Result]:
    """ONNX LogSoftmax along one axis."""

    def function(below: Array, axis: int) -> Array:
        grid = _grid(call.value(0))
        shifted = -below if grid is None else -float(grid.steps) * below
        return np.asarray(shifted - np.log(_powers(call, below).sum(axis, np.float64, keepdims=True)))

    return _along_axis(call, function)


def _real(value: Value | None) -> Array | None:
    return None if value is None else value.real()


def _scaled(x: Array, scale: Array | None, bias: Array | None) -> Array:
    """x * scale + bias in the type of x, as float32."""
    if scale is not None:
        x = x * scale
    return np.asarray(x if bias is None else x + bias, np.float32)


def _standardize(call: Call, axes: tuple[int, ...]) -> Array:
    """Input 0 less its mean over ``axes``, over its standard deviation.

    The variance of codes comes from their sum and the sum of their squares: (n * squares - sum^2) / n^2, at least 0.
    """
    value, epsilon = call.value(0), float(call.node.get("epsilon", 1e-5))
    grid, count = _grid(value), math.prod(value.data.shape[a] for a in axes)
    if grid is None:
        return _standardized(value.real().astype(real_sum_dtype(call), copy=False), axes, epsilon)
    x = centered(value, np.float64)
    total, squares = (np.sum(v, axes, keepdims=True) for v in (x, np.square(x)))
    variance = np.maximum(squares * count - total * total, 0) / float(count * count)
    return np.asarray((x - total / count) / np.sqrt(variance + epsilon_on(grid, epsilon)))


def _standardized(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    apart = x - x.mean(axes, keepdims=True)
    return np.asarray(apart / np.sqrt(np.square(apart).mean(axes, keepdims=True) + x.dtype.type(epsilon)))


def epsilon_on(grid: Encoding, epsilon: float) -> float:
    """An epsilon that is added to squares of real values, for squares of codes."""
    return epsilon / float(grid.steps) ** 2


def _last_axes(call: Call) -> tuple[int, ...]:
    rank = call.value(0).data.ndim
    return tuple(range(int(call.node.get("axis", -1)) % rank, rank))


def layer_normalization(call: Call) -> Sequence[Result]:
    """ONNX LayerNormalization; the optional mean and inverse deviation outputs are not given."""
    return [_scaled(_standardize(call, _last_axes(call)), call.value(1).real(), _real(call.optional(2)))]


def rms_normalization(call: Call) -> Sequence[Result]:
    """ONNX RMSNormalization, which ONNX Runtime calls SimplifiedLayerNormalization (Zhang, Sennrich 2019, https://arxiv.org/abs/1910.07467)."""
    value, axes, epsilon = call.value(0), _last_axes(call), float(call.node.get("epsilon", 1e-5))
    grid = _grid(value)
    x = value.real().astype(real_sum_dtype(call), copy=False) if grid is None else centered(value, np.float64)
    epsilon = epsilon if grid is None else epsilon_on(grid, epsilon)
    count = math.prod(x.shape[a] for a in axes)
    length = np.sqrt(np.square(x).sum(axes, keepdims=True) / x.dtype.type(count) + x.dtype.type(epsilon))
    return [_scaled(x / length, call.value(1).real(), None)]


def instance_normalization(call: Call) -> Sequence[Result]:
    rank = call.value(0).data.ndim
    normal = _standardize(call, tuple(range(2, rank)))
    return [_scaled(normal, along_channels(call.value(1).real(), rank), along_channels(call.value(2).real(), rank))]


def group_normalization(call: Call) -> Sequence[Result]:
    """ONNX GroupNormalization of opset 21: scale and bias per channel."""
    x, groups = call.value(0).real().astype(real_sum_dtype(call), copy=False), int(call.node.get("num_groups", 1))
    grouped = x.reshape(x.shape[0], groups, -1)
    normal = _standardized(grouped, (2,), float(call.node.get("epsilon", 1e-5))).reshape(x.shape)
    return [_scaled(normal, along_channels(call.value(1).real(), x.ndim), along_channels(call.value(2).real(), x.ndim))]


def batch_normalization(call: Call) -> Sequence[Result]:
    """ONNX BatchNormalization in inference form: one scale and one shift per channel.

    Where the model gives scale and bias on grids of 8 bits, the folded values are rounded to grids of these types over their own
    range: onnxruntime-qnn (MIT, builder/opbuilder/batch_norm_op_builder) folds before it quantizes.
    """
    x = call.value(0).real()
    factor, shift = folded_normalization(call.node, *(call.value(i) for i in range(1, 5)))
    return [_scaled(x, along_channels(factor, x.ndim), along_channels(shift, x.ndim))]


def folded_normalization(node: Node, scale: Value, bias: Value, mean: Value, variance: Value) -> tuple[Array, Array]:
    """The factor and the shift of every channel, float32, that a BatchNormalization amounts to."""
    s, b, m, v = (value.real().astype(np.float64) for value in (scale, bias, mean, variance))
    factor = s / np.sqrt(v + float(node.get("epsilon", 1e-5)))
    return _refolded(factor, scale), _refolded(b - m * factor, bias)


def _refolded(values: Array, given: Value) -> Array:
    """Folded values as float32, on a grid of the type that was given when that has 8 bits."""
    encoding = given.encoding
    if encoding is None or encoding.bits != 8 or not np.isfinite(values).all():
        return values.astype(np.float32)
    return fake_quantize(values, encoding_for_range(values.min(), values.max(), encoding.dtype))


def lrn(call: Call) -> Sequence[Result]:
    """ONNX LRN across channels."""
    x, node = call.value(0).real(), call.node
    size = int(node.get("size", 1))
    alpha, beta, bias = (np.float32(node.get(k, d)) for k, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    before = (size - 1) // 2
    padded = np.zeros((x.shape[0], x.shape[1] + size - 1, *x.shape[2:]), np.float32)
    padded[:, before : before + x.shape[1]] = np.square(x)
    total = padded[:, : x.shape[1]].copy()
    for shift in range(1, size):
        total += padded[:, shift : shift + x.shape[1]]
    return [x / np.power(bias + alpha / np.float32(size) * total, beta)]


def lp_normalization(call: Call) -> Sequence[Result]:
    """ONNX LpNormalization for p of 1 and 2."""
    x, axis = call.value(0).real(), int(call.node.get("axis", -1))
    if int(call.node.get("p", 2)) == 1:
        length = np.abs(x).sum(axis, keepdims=True)
    else:
        length = np.sqrt(np.square(x).sum(axis, keepdims=True))
    return [np.divide(x, length, out=np.zeros_like(x), where=length != 0)]


NORM: Mapping[str, Kernel] = {
    "BatchNormalization": batch_normalization,
    "GroupNormalization": group_normalization,
    "InstanceNormalization": instance_normalization,
    "LRN": lrn,
    "LayerNormalization": layer_normalization,
    "LogSoftmax": log_softmax,
    "LpNormalization": lp_normalization,
    "RMSNormalization": rms_normalization,
    "SimplifiedLayerNormalization": rms_normalization,
    "Softmax": softmax,
}
