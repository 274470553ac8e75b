"""Reductions, arg reductions, running sums and selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from npukit.backend import Call, Kernel, Result, Value
from npukit.backend.kernels import place
from npukit.backend.library.kernels.pool import mean_over
from npukit.encoding import Array


def _axes(call: Call) -> tuple[tuple[int, ...] | None, bool]:
    """The axes to reduce, and whether to keep them; None when nothing is to be reduced (noop_with_empty_axes)."""
    rank, given = call.value(0).data.ndim, call.optional(1)
    axes = tuple(int(a) % rank for a in np.ravel(given.data)) if given is not None else ()
    if not axes and call.node.get("noop_with_empty_axes", 0):
        return None, True
    return axes or tuple(range(rank)), bool(call.node.get("keepdims", 1))


def reduce_mean(call: Call) -> Sequence[Result]:
    """ONNX ReduceMean, with the rounding of average pooling."""
    axes, keep = _axes(call)
    if axes is None:
        return [place(call.value(0), lambda x: x, call.outputs[0])]
    return [mean_over(call.value(0), axes, keep, call.outputs[0])]


def _ordered(function: Callable[..., Array]) -> Kernel:
    """A reduction that picks one of the values, so that codes can stay codes."""

    def run(call: Call) -> Sequence[Result]:
        axes, keep = _axes(call)
        pick = (lambda x: x) if axes is None else (lambda x: np.asarray(function(x, axis=axes, keepdims=keep)))
        return [place(call.value(0), pick, call.outputs[0])]

    return run


def _computed(function: Callable[[Array, tuple[int, ...], bool], Array]) -> Kernel:
    """A reduction in float64 over the real values."""

    def run(call: Call) -> Sequence[Result]:
        axes, keep = _axes(call)
        x = call.value(0).real()
        wide = x.astype(np.float64) if x.dtype.kind == "f" else x
        return [np.asarray(function(wide, () if axes is None else axes, keep)).astype(x.dtype)]

    return run


def _arg(function: Callable[..., Array]) -> Kernel:
    def run(call: Call) -> Sequence[Result]:
        axis, keep = int(call.node.get("axis", 0)), bool(call.node.get("keepdims", 1))
        data = call.value(0).data
        if call.node.get("select_last_index", 0):
            found = data.shape[axis] - 1 - function(np.flip(data, axis), axis=axis, keepdims=keep)
        else:
            found = function(data, axis=axis, keepdims=keep)
        return [np.asarray(found, np.int64)]

    return run


def cum_sum(call: Call) -> Sequence[Result]:
    """ONNX CumSum with exclusive and reverse."""
    x, axis = call.value(0).real(), int(np.ravel(call.value(1).data)[0])
    if call.node.get("reverse", 0):
        x = np.flip(x, axis)
    total = np.cumsum(x, axis, dtype=np.float64 if x.dtype.kind == "f" else None)
    if call.node.get("exclusive", 0):
        total = total - x
    if call.node.get("reverse", 0):
        total = np.flip(total, axis)
    return [total.astype(x.dtype)]


def top_k(call: Call) -> Sequence[Result]:
    """ONNX TopK; ties go to the lower index."""
    value, k = call.value(0), int(np.ravel(call.value(1).data)[0])
    axis, largest = int(call.node.get("axis", -1)), bool(call.node.get("largest", 1))
    keys = value.data.astype(np.float64)
    order = np.argsort(-keys if largest else keys, axis=axis, kind="stable")
    indices = np.take(order, np.arange(k), axis)
    best = place(value, lambda x: np.take_along_axis(x, indices, axis), call.outputs[0])
    return [best, indices.astype(np.int64)]


def one_hot(call: Call) -> Sequence[Result]:
    """ONNX OneHot."""
    indices, depth = call.value(0).data, int(np.ravel(call.value(1).data)[0])
    off, on = call.value(2).real()
    axis = int(call.node.get("axis", -1)) % (indices.ndim + 1)
    wanted = np.arange(depth).reshape([-1 if a == axis else 1 for a in range(indices.ndim + 1)])
    hit = np.expand_dims(np.where(indices < 0, indices + depth, indices), axis) == wanted
    return [np.where(hit, on, off)]


def non_zero(call: Call) -> Sequence[Result]:
    return [np.array(np.nonzero(call.value(0).real()), np.int64)]


_COMBINE: Mapping[str, np.ufunc] = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}


def _scatter(call: Call, locate: Callable[[Array, Array], tuple[Array, ...]]) -> Sequence[Result]:
    """Write updates into a copy of the data; codes are written as codes when all grids agree and nothing is computed."""
    value, updates, out = call.value(0), call.value(2), call.outputs[0]
    index = locate(value.data, call.value(1).data)
    combine = _COMBINE.get(call.node.get("reduction", "none"))

    def write(data: Array, new: Array) -> Array:
        result = data.copy()
        if combine is None:
            result[index] = new
        else:
            combine.at(result, index, new)
        return result

    grids = (value.encoding, updates.encoding)
    if combine is None and out is not None and not out.is_float and all(g is not None and g.same_grid(out) for g in grids):
        return [Value(write(value.data, updates.data), out)]
    return [write(value.real(), updates.real())]


def scatter_nd(call: Call) -> Sequence[Result]:
    """ONNX ScatterND."""
    return _scatter(call, lambda data, indices: tuple(np.moveaxis(indices, -1, 0)))


def scatter_elements(call: Call) -> Sequence[Result]:
    """ONNX ScatterElements."""
    axis = int(call.node.get("axis", 0))

    def locate(data: Array, indices: Array) -> tuple[Array, ...]:
        grid: list[Array] = list(np.ogrid[tuple(slice(n) for n in indices.shape)])
        grid[axis] = np.where(indices < 0, indices + data.shape[axis], indices)
        return tuple(grid)

    return _scatter(call, locate)


def _log_sum_exp(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    """The logarithm of a sum of exponentials, of which none overflows."""
    top = x.max(axes, keepdims=True)
    found: Array = np.log(np.exp(x - top).sum(axes, keepdims=True)) + top
    return found if keep else np.squeeze(found, axes)


REDUCE: Mapping[str, Kernel] = {
    "ArgMax": _arg(np.argmax),
    "ArgMin": _arg(np.argmin),
    "CumSum": cum_sum,
    "NonZero": non_zero,
    "OneHot": one_hot,
    "ReduceL2": _computed(lambda x, axes, keep: np.sqrt(np.square(x).sum(axes, keepdims=keep))),
    "ReduceLogSumExp": _computed(_log_sum_exp),
    "ReduceMax": _ordered(np.max),
    "ReduceMean": reduce_mean,
    "ReduceMin": _ordered(np.min),
    "ReduceSum": _computed(lambda x, axes, keep: x.sum(axes, keepdims=keep)),
    "ReduceSumSquare": _computed(lambda x, axes, keep: np.square(x).sum(axes, keepdims=keep)),
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TopK": top_k,
}
