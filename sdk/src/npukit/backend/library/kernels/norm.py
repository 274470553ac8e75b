"""Softmax and the normalizations: float32 on the real values, rounded once to the output grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from npukit.backend import Call, Kernel, Result, Value
from npukit.backend.kernels import along_channels
from npukit.encoding import Array, encoding_for_range, fake_quantize

# numpy reduces a last axis of a few elements one short row at a time; as the first axis it is whole arrays at a time.
_SHORT = 16


def _along_axis(call: Call, function: Callable[[Array, int], Array]) -> Array:
    """``function(x, axis)`` of the input, with a short axis moved to the front."""
    x, axis = call.value(0).real(), int(call.node.get("axis", -1))
    if x.shape[axis] > _SHORT:
        return function(x, axis)
    return np.moveaxis(function(np.ascontiguousarray(np.moveaxis(x, axis, 0)), 0), 0, axis)


def softmax(call: Call) -> Sequence[Result]:
    """ONNX Softmax along one axis."""

    def function(x: Array, axis: int) -> Array:
        powers = np.exp(x - x.max(axis, keepdims=True))
        return np.asarray(powers / powers.sum(axis, keepdims=True))

    return [_along_axis(call, function)]


def log_softmax(call: Call) -> Sequence[Result]:
    """ONNX LogSoftmax along one axis."""

    def function(x: Array, axis: int) -> Array:
        shifted = x - x.max(axis, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis, keepdims=True)))

    return [_along_axis(call, function)]


def _real(value: Value | None) -> Array | None:
    return None if value is None else value.real()


def _scaled(x: Array, scale: Array | None, bias: Array | None) -> Array:
    if scale is not None:
        x = x * scale
    return x if bias is None else x + bias


def _standardize(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centered = x - x.mean(axes, keepdims=True)
    return np.asarray(centered / np.sqrt(np.square(centered).mean(axes, keepdims=True) + np.float32(epsilon)))


def layer_normalization(call: Call) -> Sequence[Result]:
    """ONNX LayerNormalization; the optional mean and inverse deviation outputs are not given."""
    x, epsilon = call.value(0).real(), float(call.node.get("epsilon", 1e-5))
    axes = tuple(range(int(call.node.get("axis", -1)) % x.ndim, x.ndim))
    return [_scaled(_standardize(x, axes, epsilon), call.value(1).real(), _real(call.optional(2)))]


def rms_normalization(call: Call) -> Sequence[Result]:
    """ONNX RMSNormalization, which ONNX Runtime calls SimplifiedLayerNormalization (Zhang, Sennrich 2019, https://arxiv.org/abs/1910.07467)."""
    x, epsilon = call.value(0).real(), np.float32(call.node.get("epsilon", 1e-5))
    axes = tuple(range(int(call.node.get("axis", -1)) % x.ndim, x.ndim))
    return [x / np.sqrt(np.square(x).mean(axes, keepdims=True) + epsilon) * call.value(1).real()]


def instance_normalization(call: Call) -> Sequence[Result]:
    x = call.value(0).real()
    normal = _standardize(x, tuple(range(2, x.ndim)), float(call.node.get("epsilon", 1e-5)))
    return [_scaled(normal, along_channels(call.value(1).real(), x.ndim), along_channels(call.value(2).real(), x.ndim))]


def group_normalization(call: Call) -> Sequence[Result]:
    """ONNX GroupNormalization of opset 21: scale and bias per channel."""
    x, groups = call.value(0).real(), int(call.node.get("num_groups", 1))
    grouped = x.reshape(x.shape[0], groups, -1)
    normal = _standardize(grouped, (2,), float(call.node.get("epsilon", 1e-5))).reshape(x.shape)
    return [_scaled(normal, along_channels(call.value(1).real(), x.ndim), along_channels(call.value(2).real(), x.ndim))]


def batch_normalization(call: Call) -> Sequence[Result]:
    """ONNX BatchNormalization in inference form: one scale and one shift per channel.

    Where the model gives scale and bias on grids of 8 bits, the folded values are rounded to grids of these types over their own
    range: onnxruntime-qnn (MIT, builder/opbuilder/batch_norm_op_builder) folds before it quantizes.
    """
    x, epsilon = call.value(0).real(), float(call.node.get("epsilon", 1e-5))
    scale, bias, mean, variance = (call.value(i).real().astype(np.float64) for i in range(1, 5))
    factor = scale / np.sqrt(variance + epsilon)
    folded = (_refolded(factor, call.value(1)), _refolded(bias - mean * factor, call.value(2)))
    return [_scaled(x, *(along_channels(v, x.ndim) for v in folded))]


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
