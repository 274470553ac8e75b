"""Pooling: maxima on codes, averages as exact integer sums that round half up in code space."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np

from npukit.backend import Call, Kernel, Result, Value
from npukit.backend.kernels import Window, centered, half_up, place, same_grid, sliding_window
from npukit.encoding import Array, Encoding


def _window(call: Call) -> Window:
    return sliding_window(call.node, call.value(0).data.shape[2:], tuple(call.node.get("kernel_shape", ())))


def _lowest(x: Array) -> float:
    return -math.inf if x.dtype.kind == "f" else int(np.iinfo(x.dtype).min)


def max_pool(call: Call) -> Sequence[Result]:
    """ONNX MaxPool; the order of codes is the order of values, so no arithmetic is needed."""
    window = _window(call)

    def maxima(x: Array) -> Array:
        padded = window.padded(x, _lowest(x))
        first, *rest = window.taps()
        best = window.tap(padded, first).copy()
        for position in rest:
            np.maximum(best, window.tap(padded, position), out=best)
        return best

    return [place(call.value(0), maxima, call.outputs[0])]


def global_max_pool(call: Call) -> Sequence[Result]:
    axes = tuple(range(2, call.value(0).data.ndim))
    return [place(call.value(0), lambda x: x.max(axes, keepdims=True), call.outputs[0])]


def average_pool(call: Call) -> Sequence[Result]:
    """ONNX AveragePool; on one grid the mean of codes rounds half up, as measured on the vendor's simulator."""
    window = _window(call)
    none = (0,) * len(window.kernel)
    ones = np.ones((1, 1, *call.value(0).data.shape[2:]), np.float32)
    if call.node.get("count_include_pad", 0):
        # The declared padding counts, what ceil_mode adds past it does not.
        ones = attrs.evolve(window, ceil_extra=none).padded(ones, 1)
        count = _sum(attrs.evolve(window, pads=((0, 0),) * len(none)).padded(ones), window)
    else:
        count = _sum(window.padded(ones), window)
    return [_mean(call.value(0), lambda x: _sum(window.padded(x), window), count, call.outputs[0])]


def _sum(x: Array, window: Window) -> Array:
    first, *rest = window.taps()
    total = window.tap(x, first).copy()
    for position in rest:
        total += window.tap(x, position)
    return total


def lp_pool(call: Call) -> Sequence[Result]:
    """ONNX LpPool: the p-norm of each window, in float32; padding is zero."""
    window, p = _window(call), int(call.node.get("p", 2))
    total = _sum(window.padded(np.abs(call.value(0).real()) ** np.float32(p)), window)
    return [total if p == 1 else np.sqrt(total) if p == 2 else total ** np.float32(1 / p)]


def global_average_pool(call: Call) -> Sequence[Result]:
    """ONNX GlobalAveragePool."""
    axes = tuple(range(2, call.value(0).data.ndim))
    return [mean_over(call.value(0), axes, True, call.outputs[0])]


def mean_over(value: Value, axes: tuple[int, ...], keepdims: bool, out: Encoding | None) -> Result:
    """The mean over some axes; shared with ReduceMean."""
    count = np.float32(math.prod(value.data.shape[a] for a in axes))
    return _mean(value, lambda x: x.sum(axes, keepdims=keepdims, dtype=_sum_dtype(x)), count, out)


def _sum_dtype(x: Array) -> np.dtype[np.generic]:
    return np.dtype(np.float64) if x.dtype.kind == "f" else x.dtype


def _mean(value: Value, add: Callable[[Array], Array], count: Array | np.float32, out: Encoding | None) -> Result:
    """The mean as sum over count, rounded to the output grid."""
    if value.is_codes and value.encoding is not None and value.encoding.axis is None:
        total = add(centered(value)).astype(np.float64)
        if out is not None and same_grid(value.encoding, out):
            return half_up(total / count + float(out.zeros), out)
        return np.asarray(total / count * float(value.encoding.steps), np.float32)
    x = value.real()
    return np.asarray(add(x) / count, x.dtype)


POOL: Mapping[str, Kernel] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "LpPool": lp_pool,
    "MaxPool": max_pool,
}
