"""GridSample: reading an image at arbitrary positions, in float32 between its grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from npukit.backend import Call, Kernel, Result
from npukit.encoding import Array
from npukit.errors import ModelError

_MODES = {"linear": "linear", "bilinear": "linear", "nearest": "nearest"}


def grid_sample(call: Call) -> Sequence[Result]:
    """ONNX GridSample of an image (N, C, H, W) at positions (N, h, w, 2) in [-1, 1]; linear and nearest.

    https://onnx.ai/onnx/operators/onnx__GridSample.html
    """
    x, positions = call.value(0).real(), call.value(1).real()
    mode = _MODES.get(call.node.get("mode", "linear"))
    if mode is None or x.ndim != 4:
        raise ModelError(f"node '{call.node.name}' (GridSample): only linear and nearest in two dimensions are computed")
    align, padding = bool(call.node.get("align_corners", 0)), call.node.get("padding_mode", "zeros")
    row, column = (_pixels(positions[..., axis], x.shape[3 - axis], align) for axis in (1, 0))
    if padding == "border":
        row, column = np.clip(row, 0, x.shape[2] - 1), np.clip(column, 0, x.shape[3] - 1)
    elif padding == "reflection":
        row, column = _reflected(row, x.shape[2], align), _reflected(column, x.shape[3], align)
    if mode == "nearest":
        return [_read(x, np.rint(row), np.rint(column))]
    top, left = np.floor(row), np.floor(column)
    down, right = (row - top)[:, None], (column - left)[:, None]
    upper = _read(x, top, left) * (1 - right) + _read(x, top, left + 1) * right
    lower = _read(x, top + 1, left) * (1 - right) + _read(x, top + 1, left + 1) * right
    return [upper * (1 - down) + lower * down]


def _pixels(position: Array, size: int, align: bool) -> Array:
    """Positions in [-1, 1] as pixel coordinates: -1 and 1 are the centres of the outermost pixels, or their outer edges."""
    wide = position * np.float32((size - 1) / 2) + np.float32((size - 1) / 2)
    return wide if align else ((position + 1) * np.float32(size) - 1) / np.float32(2)


def _reflected(pixel: Array, size: int, align: bool) -> Array:
    """Coordinates mirrored at the borders until they are inside."""
    low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
    span = high - low
    if span == 0:
        return np.zeros_like(pixel)
    part = np.mod(pixel - low, 2 * span)
    return np.clip(np.where(part > span, 2 * span - part, part) + low, 0, size - 1).astype(np.float32)


def _read(x: Array, row: Array, column: Array) -> Array:
    """The pixels at integer coordinates (N, h, w), shape (N, C, h, w); zero outside."""
    inside = (row >= 0) & (row < x.shape[2]) & (column >= 0) & (column < x.shape[3])
    rows, columns = (np.where(inside, v, 0).astype(np.int64) for v in (row, column))
    batch = np.arange(x.shape[0])[:, None, None]
    return np.asarray(np.where(inside[:, None], x[batch, :, rows, columns].transpose(0, 3, 1, 2), 0), x.dtype)


SAMPLE: Mapping[str, Kernel] = {"GridSample": grid_sample}
"""Ops that read at computed positions."""
