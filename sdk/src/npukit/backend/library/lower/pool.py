"""Pooling and means: maxima of codes, exact integer sums in float32, their rounding in float64 as the kernels have it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from npukit.backend import FastCall, Lowering
from npukit.backend.kernels import EXACT_FLOAT32, largest, sliding_window
from npukit.backend.library.lower.movement import narrow
from npukit.encoding import Array, Encoding

_FLOAT, _DOUBLE = 1, 11  # TensorProto


def max_pool(call: FastCall) -> bool:
    """MaxPool of codes."""
    x, out, node = call.encoding(0), call.wanted(), call.node
    if x is None or out is None or not x.same_grid(out) or node.get("ceil_mode", 0) or len(node.outputs) > 1:
        return False
    return narrow(call, "MaxPool", **node.attributes)


def global_max_pool(call: FastCall) -> bool:
    """GlobalMaxPool on integers in float32."""
    x, out = call.encoding(0), call.wanted()
    if x is None or out is None or not x.same_grid(out):
        return False
    return call.give(call.rounded(call.write("GlobalMaxPool", call.integers(0)), out))


def average_pool(call: FastCall) -> bool:
    """AveragePool as a convolution with ones."""
    x, out, shape, node = call.encoding(0), call.wanted(), call.shape(0), call.node
    kernel = tuple(node.get("kernel_shape", ()))
    if x is None or out is None or shape is None or node.get("ceil_mode", 0) or node.get("count_include_pad", 0):
        return False
    spatial, channels = [d for d in shape[2:] if isinstance(d, int)], shape[1]
    if len(spatial) != len(shape) - 2 or not isinstance(channels, int) or math.prod(kernel) * largest(x) > EXACT_FLOAT32:
        return False
    window = sliding_window(node, tuple(spatial), kernel)
    inside = window.padded(np.ones((1, 1, *spatial), np.float32))
    count = sum(window.tap(inside, position) for position in window.taps())
    kept = {k: v for k, v in node.attributes.items() if k in ("auto_pad", "dilations", "pads", "strides")}
    ones = call.literal(np.ones((channels, 1, *kernel)), np.float32)
    total = call.write("Conv", call.integers(0), ones, **kept, group=channels)
    return _mean(call, total, np.asarray(count), x, out)


def global_average_pool(call: FastCall) -> bool:
    """GlobalAveragePool as a sum."""
    shape = call.shape(0)
    return shape is not None and _mean_over(call, tuple(range(2, len(shape))), 1)


def reduce_mean(call: FastCall) -> bool:
    """ReduceMean over constant axes as a sum."""
    shape, given = call.shape(0), call.constant(1)
    if shape is None or given is None or not given.data.size:
        return False
    return _mean_over(call, tuple(int(a) % len(shape) for a in np.ravel(given.data)), int(call.node.get("keepdims", 1)))


def _mean_over(call: FastCall, axes: tuple[int, ...], keepdims: int) -> bool:
    x, out, shape = call.encoding(0), call.wanted(), call.shape(0) or ()
    sizes = [size for axis, size in enumerate(shape) if axis in axes and isinstance(size, int)]
    if x is None or out is None or len(sizes) != len(axes) or math.prod(sizes) * largest(x) > EXACT_FLOAT32:
        return False
    total = call.write("ReduceSum", call.integers(0), call.literal(axes, np.int64), keepdims=keepdims)
    return _mean(call, total, np.asarray(math.prod(sizes)), x, out)


def _mean(call: FastCall, total: str, count: Array, x: Encoding, out: Encoding) -> bool:
    """Sum over count: codes rounded half up on one grid, else real values that are rounded to the output grid."""
    mean = call.write("Div", call.write("Cast", total, to=_DOUBLE), call.literal(count, np.float64))
    if x.same_grid(out):
        half = call.write("Floor", call.write("Add", mean, call.literal(0.5, np.float64)))
        return call.give(call.rounded(call.write("Cast", half, to=_FLOAT), out))
    real = call.write("Mul", mean, call.literal(float(x.steps), np.float64))
    return call.give(call.quantized(call.write("Cast", real, to=_FLOAT), out))


POOL: Mapping[str, Lowering] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "MaxPool": max_pool,
    "ReduceMean": reduce_mean,
}
