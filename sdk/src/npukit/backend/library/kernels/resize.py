"""Resize: nearest moves codes, linear interpolates codes on one grid, else real values; one axis after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np

from npukit.backend import Call, Kernel, Result, Value
from npukit.backend.kernels import half_up, place, same_grid
from npukit.encoding import Array
from npukit.errors import ModelError


@attrs.frozen(eq=False)
class _Axis:
    """One resized axis: output size, scale as the model states it, region of interest for tf_crop_and_resize."""

    axis: int
    size: int
    out: int
    scale: float
    roi: tuple[float, float]


def resize(call: Call) -> Sequence[Result]:
    """ONNX Resize: nearest, linear and cubic with all coordinate transformations."""
    mode = call.node.get("mode", "nearest")
    axes = [
        a
        for a in _axes(call)
        if a.size != a.out or a.scale != 1 or call.node.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    ]
    if mode == "nearest":
        return [place(call.value(0), lambda x: _nearest(call, x, axes), call.outputs[0])]
    value, out = call.value(0), call.outputs[0]
    if mode == "linear" and value.is_codes and out is not None and out.axis is None and same_grid(value.encoding, out):
        # The weights of an element add up to 1, so the mean of codes is the code of the mean.
        return [half_up(_interpolate(call, value.data.astype(np.float64), axes), out)]
    return [np.ascontiguousarray(_interpolate(call, value.real(), axes), np.float32)]


def _interpolate(call: Call, x: Array, axes: list[_Axis]) -> Array:
    for axis in axes:
        matrix = _weights(call, axis).astype(x.dtype)
        x = np.moveaxis(np.tensordot(x, matrix, (axis.axis, 1)), -1, axis.axis)
    return x


def _floats(value: Value | None) -> list[float]:
    return [] if value is None else [float(v) for v in np.ravel(value.real())]


def _axes(call: Call) -> list[_Axis]:
    shape, rank = call.value(0).data.shape, call.value(0).data.ndim
    chosen = [int(a) % rank for a in call.node.get("axes", range(rank))]
    roi, scales, sizes = _floats(call.optional(1)), _floats(call.optional(2)), _floats(call.optional(3))
    if sizes:
        scales = [s / shape[a] for s, a in zip(sizes, chosen, strict=True)]
        policy = call.node.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            scales = [min(scales) if policy == "not_larger" else max(scales)] * len(scales)
            sizes = [np.floor(s * shape[a] + 0.5) for s, a in zip(scales, chosen, strict=True)]
    else:
        # In float32, as onnxruntime does: 5 * 1.4 is 7 there and 6.99.. in float64.
        sizes = [float(np.floor(np.float32(shape[a]) * np.float32(s))) for s, a in zip(scales, chosen, strict=True)]
    count = len(chosen)
    regions = [(roi[i], roi[i + count]) for i in range(count)] if len(roi) == 2 * count else [(0.0, 1.0)] * count
    return [_Axis(a, shape[a], int(o), s, r) for a, o, s, r in zip(chosen, sizes, scales, regions, strict=True)]


def _coordinates(call: Call, axis: _Axis) -> Array:
    """The input position, float64, of each output element (the formulas of ONNX Resize, coordinate_transformation_mode)."""
    x, n, o, s = np.arange(axis.out, dtype=np.float64), axis.size, axis.out, axis.scale
    mode = call.node.get("coordinate_transformation_mode", "half_pixel")
    if mode == "half_pixel":
        return (x + 0.5) / s - 0.5
    if mode == "half_pixel_symmetric":
        return n / 2 * (1 - o / (s * n)) + (x + 0.5) / s - 0.5
    if mode == "pytorch_half_pixel":
        return (x + 0.5) / s - 0.5 if o > 1 else np.zeros(o)
    if mode == "align_corners":
        return x * (n - 1) / (o - 1) if o > 1 else np.zeros(o)
    if mode == "asymmetric":
        return x / s
    if mode == "tf_crop_and_resize":
        start, end = axis.roi
        return start * (n - 1) + x * (end - start) * (n - 1) / (o - 1) if o > 1 else 0.5 * (start + end) * (n - 1) * np.ones(o)
    raise ModelError(f"node '{call.node.name}' (Resize) has the unknown coordinate_transformation_mode '{mode}'")


_ROUNDINGS: Mapping[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _nearest(call: Call, x: Array, axes: list[_Axis]) -> Array:
    rounding = _ROUNDINGS[call.node.get("nearest_mode", "round_prefer_floor")]
    for axis in axes:
        index = np.clip(rounding(_coordinates(call, axis)), 0, axis.size - 1).astype(np.int64)
        x = np.take(x, index, axis.axis)
    return x


def _weights(call: Call, axis: _Axis) -> Array:
    """The interpolation matrix (out, in) of one axis, float64."""
    mode, position = call.node.get("mode"), _coordinates(call, axis)
    if mode == "linear":
        position = np.clip(position, 0, axis.size - 1)
    base = np.floor(position).astype(np.int64)
    part = position - base
    taps = {0: 1 - part, 1: part} if mode == "linear" else _cubic(part, float(call.node.get("cubic_coeff_a", -0.75)))
    matrix, rows = np.zeros((axis.out, axis.size)), np.arange(axis.out)
    exclude = bool(call.node.get("exclude_outside", 0))
    for offset, weight in taps.items():
        column = base + offset
        inside = (column >= 0) & (column < axis.size)
        np.add.at(matrix, (rows, np.clip(column, 0, axis.size - 1)), np.where(inside | (not exclude), weight, 0))
    if exclude:
        matrix /= matrix.sum(1, keepdims=True)
    return matrix


def _cubic(t: Array, a: float) -> dict[int, Array]:
    """Keys' cubic convolution kernel at distances 1+t, t, 1-t, 2-t."""

    def near(d: Array) -> Array:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Array) -> Array:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return {-1: far(1 + t), 0: near(t), 1: near(1 - t), 2: far(2 - t)}


RESIZE: Mapping[str, Kernel] = {"Resize": resize}
