"""Conv and ConvTranspose: exact integer sums when input and weight have grids, else float32, or float64 when rounded to float16."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from npukit.backend import Accumulator, Call, Result, Value
from npukit.backend.kernels import (
    Window,
    along_channels,
    centered,
    exact_dtype,
    integer_bias,
    integer_weight,
    largest,
    real_sum_dtype,
    remember,
    sliding_window,
    spatial,
)
from npukit.encoding import Array
from npukit.graph import Node


@attrs.frozen(eq=False)
class _Prepared:
    """A weight as float matrices, one per group, and a bias per output channel.

    ``scale`` is that of the integer accumulator, None when the values are real. ``weight`` of Conv is (G, O/G, C/G * K), of
    ConvTranspose (G, O/G * K, C/G).
    """

    weight: Array
    bias: Array | None
    scale: Array | None


def conv(call: Call) -> Sequence[Result]:
    """ONNX Conv over any number of spatial axes."""
    x, w = call.value(0), call.value(1)
    prepared = remember(call, "weight", (w, call.optional(2)), lambda: _prepare(call, channel_axis=0))
    window = sliding_window(call.node, x.data.shape[2:], w.data.shape[2:])
    values = correlate(_input(x, prepared), prepared.weight, window)
    return [_finish(values, prepared)]


def conv_transpose(call: Call) -> Sequence[Result]:
    """ONNX ConvTranspose over any number of spatial axes."""
    x, w = call.value(0), call.value(1)
    prepared = remember(call, "weight", (w, call.optional(2)), lambda: _prepare(call, channel_axis=1))
    values = _spread(_input(x, prepared), prepared.weight, call.node, w.data.shape[2:])
    return [_finish(values, prepared)]


def correlate(x: Array, weight: Array, window: Window) -> Array:
    """Cross-correlation of ``x`` (N, C, *spatial) with ``weight`` (G, O/G, C/G * K), in their dtype; shape (N, O, *out)."""
    groups, rows, depth = weight.shape
    batch = x.shape[0]
    if window.is_pointwise:
        columns = x.reshape(batch, groups, depth, -1)
    elif depth == len(window.taps()):
        return _depthwise(window.padded(x), weight, window)
    else:
        columns = window.columns(window.padded(x)).reshape(batch, groups, depth, -1)
    total: Array = np.matmul(weight, columns)
    return total.reshape(batch, groups * rows, *window.out)


def _depthwise(padded: Array, weight: Array, window: Window) -> Array:
    """One input channel per group: a sum over kernel positions, which needs no im2col."""
    groups, rows, _ = weight.shape
    source = padded if rows == 1 else np.repeat(padded, rows, axis=1)
    taps = weight.reshape(groups * rows, -1, *[1] * len(window.out))
    total = np.empty((padded.shape[0], groups * rows, *window.out), padded.dtype)
    product = np.empty_like(total)
    for index, position in enumerate(window.taps()):
        np.multiply(window.tap(source, position), taps[:, index], out=product if index else total)
        if index:
            total += product
    return total


def _spread(x: Array, weight: Array, node: Node, kernel: tuple[int, ...]) -> Array:
    """Transposed convolution: each input element adds its weighted kernel to the output."""
    batch, shape, rank = x.shape[0], x.shape[2:], len(kernel)
    groups, rows, depth = weight.shape
    strides = tuple(node.get("strides", (1,) * rank))
    dilations = tuple(node.get("dilations", (1,) * rank))
    full = tuple((n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(shape, strides, kernel, dilations, strict=True))
    pads, out = _transpose_pads(node, shape, strides, full)
    products = np.matmul(weight, x.reshape(batch, groups, depth, -1))
    channels = groups * rows // math.prod(kernel)
    products = products.reshape(batch, channels, math.prod(kernel), *shape)
    room = tuple(max(f, begin + o) for f, (begin, _), o in zip(full, pads, out, strict=True))
    total = np.zeros((batch, channels, *room), x.dtype)
    for index, position in enumerate(np.ndindex(*kernel)):
        axes = zip(position, dilations, shape, strides, strict=True)
        total[spatial(slice(k * d, k * d + (n - 1) * s + 1, s) for k, d, n, s in axes)] += products[:, :, index]
    crop = spatial(slice(begin, begin + o) for (begin, _), o in zip(pads, out, strict=True))
    return np.ascontiguousarray(total[crop])


def _transpose_pads(
    node: Node, source: tuple[int, ...], strides: tuple[int, ...], full: tuple[int, ...]
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Cropping and output size of ConvTranspose, from pads or from output_shape and auto_pad (ONNX ConvTranspose)."""
    rank = len(source)
    extra = tuple(node.get("output_padding", (0,) * rank))
    mode = node.get("auto_pad", "NOTSET")
    same = mode in ("SAME_UPPER", "SAME_LOWER")
    shape = node.get("output_shape") or (tuple(n * s for n, s in zip(source, strides, strict=True)) if same else None)
    if shape is None:
        flat = (0,) * (2 * rank) if mode == "VALID" else tuple(node.get("pads", (0,) * (2 * rank)))
        pads = tuple((int(flat[a]), int(flat[a + rank])) for a in range(rank))
        return pads, tuple(f + e - sum(p) for f, e, p in zip(full, extra, pads, strict=True))
    found = []
    for f, e, o in zip(full, extra, shape, strict=True):
        amount = max(0, f + e - int(o))
        small, large = amount // 2, amount - amount // 2
        found.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return tuple(found), tuple(int(o) for o in shape)


def _input(x: Value, prepared: _Prepared) -> Array:
    return x.real().astype(prepared.weight.dtype, copy=False) if prepared.scale is None else centered(x, prepared.weight.dtype)


def _finish(values: Array, prepared: _Prepared) -> Accumulator | Array:
    if prepared.bias is not None:
        values += along_channels(prepared.bias, values.ndim)
    if prepared.scale is None:
        return values.astype(np.float32, copy=False)
    return Accumulator(values, along_channels(prepared.scale, values.ndim))


def _prepare(call: Call, channel_axis: int) -> _Prepared:
    x, w, bias = call.value(0), call.value(1), call.optional(2)
    groups = int(call.node.get("group", 1))
    form = integer_weight(w, channel_axis) if x.is_codes else None
    if form is None or x.encoding is None or (channel_axis == 1 and groups > 1 and form.scale.size > 1):
        # The few products of a depthwise window are added one after the other, whose order float32 may show.
        dtype = np.float32 if channel_axis == 0 and w.data.shape[1] == 1 else real_sum_dtype(call)
        real = w.real().astype(dtype, copy=False)
        return _Prepared(_matrices(real, groups, channel_axis), None if bias is None else bias.real(), None)
    scale = np.asarray(x.encoding.steps * form.scale, np.float32)
    integers = integer_bias(bias, scale)
    matrices = _matrices(form.values, groups, channel_axis)
    dtype = exact_dtype(_bound(largest(x.encoding), form.values, groups, channel_axis, integers))
    return _Prepared(matrices.astype(dtype), None if integers is None else integers.astype(dtype), scale)


def _bound(x: int, weight: Array, groups: int, channel_axis: int, bias: Array | None) -> float:
    """The largest sum of absolute values of all terms that one output element can have."""
    rest = tuple(a for a in range(weight.ndim) if a != channel_axis)
    if channel_axis == 1 and groups > 1:
        per_group = np.abs(weight).reshape(groups, -1, *weight.shape[1:])
        sums = per_group.sum(axis=(1, *range(3, per_group.ndim)), dtype=np.float64).reshape(-1)
    else:
        sums = np.abs(weight).sum(axis=rest, dtype=np.float64)
    return float(np.max(x * sums + (0 if bias is None else np.abs(bias)), initial=0))


def _matrices(weight: Array, groups: int, channel_axis: int) -> Any:
    """Conv: (O, C/G, *k) -> (G, O/G, C/G * K). ConvTranspose: (C, O/G, *k) -> (G, O/G * K, C/G)."""
    grouped = weight.reshape(groups, weight.shape[0] // groups, -1)
    return np.ascontiguousarray(grouped if channel_axis == 0 else grouped.transpose(0, 2, 1))
