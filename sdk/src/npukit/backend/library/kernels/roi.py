"""Pooling of regions of interest: RoiAlign in float32 between its grids, MaxRoiPool on codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from npukit.backend import Call, Kernel, Result
from npukit.backend.kernels import place
from npukit.encoding import Array
from npukit.errors import ModelError
from npukit.graph import attribute


def roi_align(call: Call) -> Sequence[Result]:
    """ONNX RoiAlign with averages: images (N, C, H, W), regions (R, 4), indices (R,) -> (R, C, output_height, output_width).

    A bilinear sample is a product of one weight per row and one per column, so a region is two small matrices.
    https://onnx.ai/onnx/operators/onnx__RoiAlign.html
    """
    x, regions, images = call.value(0).real(), call.value(1).real().astype(np.float64), call.value(2).data
    if attribute(call.node, "mode") != "avg":
        raise ModelError(f"node '{call.node.name}' (RoiAlign): only mode avg is computed")
    found = []
    for region, image in zip(regions, images, strict=True):
        rows, columns = _region_weights(call, region, x.shape[2:])
        found.append(np.matmul(np.matmul(rows, x[int(image)]), columns.T))
    shape = (0, x.shape[1], int(call.node.get("output_height", 1)), int(call.node.get("output_width", 1)))
    return [np.stack(found) if found else np.zeros(shape, np.float32)]


def _region_weights(call: Call, region: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The weights of one region (x1, y1, x2, y2): (output_height, H) and (output_width, W), float32."""
    node = call.node
    half = attribute(node, "coordinate_transformation_mode") == "half_pixel"
    corners = region * float(node.get("spatial_scale", 1.0)) - (0.5 if half else 0.0)
    points = int(node.get("sampling_ratio", 0))
    bins = (int(node.get("output_height", 1)), int(node.get("output_width", 1)))
    found = []
    for start, end, count, size in ((corners[1], corners[3], bins[0], shape[0]), (corners[0], corners[2], bins[1], shape[1])):
        length = end - start if half else max(end - start, 1.0)
        found.append(_sample_weights(start, length / count, count, points or int(np.ceil(length / count)), size))
    return found[0], found[1]


def _sample_weights(start: float, step: float, bins: int, points: int, size: int) -> Array:
    """The mean of ``points`` linear samples in each of ``bins`` steps from ``start``, as weights (bins, size)."""
    matrix = np.zeros((bins, size))
    if points < 1:
        return matrix.astype(np.float32)
    at = start + (np.arange(bins)[:, None] + (np.arange(points) + 0.5) / points) * step
    weight = ((at >= -1) & (at <= size)) / points
    at = np.clip(at, 0, size - 1)
    low = np.floor(at).astype(np.int64)
    rows = np.arange(bins)[:, None]
    np.add.at(matrix, (rows, low), weight * (1 - (at - low)))
    np.add.at(matrix, (rows, np.minimum(low + 1, size - 1)), weight * (at - low))
    return matrix.astype(np.float32)


def max_roi_pool(call: Call) -> Sequence[Result]:
    """ONNX MaxRoiPool: images (N, C, H, W), regions (R, 5) of image index and corners -> (R, C, *pooled_shape).

    The bins are those of Fast R-CNN (Girshick 2015, https://arxiv.org/abs/1504.08083); one outside of the image is zero.
    """
    value, regions = call.value(0), call.value(1).real()
    scale, bins = np.float32(call.node.get("spatial_scale", 1.0)), tuple(call.node.get("pooled_shape", ()))
    zero = int(value.encoding.zeros) if value.is_codes and value.encoding is not None else 0

    def maxima(x: Array) -> Array:
        out = np.full((len(regions), x.shape[1], *bins), 0 if x.dtype.kind == "f" else zero, x.dtype)
        for target, region in zip(out, regions, strict=True):
            rows, columns = (_bins(region[i] * scale, region[i + 2] * scale, bins[2 - i], x.shape[4 - i]) for i in (2, 1))
            for (i, row), (j, column) in ((a, b) for a in enumerate(rows) for b in enumerate(columns)):
                window = x[int(region[0]), :, row, column]
                if window.size:
                    target[:, i, j] = window.max((1, 2))
        return out

    return [place(value, maxima, call.outputs[0])]


def _bins(start: float, end: float, count: int, size: int) -> list[slice]:
    """``count`` slices of an axis that cover the pixels from ``start`` to ``end``, both rounded and both included."""
    first, last = (int(np.trunc(v + np.copysign(0.5, v))) for v in (start, end))
    step = np.float32(max(last - first + 1, 1)) / np.float32(count)
    edges = [(int(np.floor(i * step)) + first, int(np.ceil((i + 1) * step)) + first) for i in range(count)]
    return [slice(min(max(low, 0), size), min(max(high, 0), size)) for low, high in edges]


ROI: Mapping[str, Kernel] = {"MaxRoiPool": max_roi_pool, "RoiAlign": roi_align}
"""Ops that pool regions of interest."""
