"""MatMul and Gemm: exact integer sums when both operands have grids, float32 otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from npukit.backend import Accumulator, Call, Result, Value
from npukit.encoding import Array
from npukit_htp.kernels._values import IntegerWeight, exact_dtype, integer_bias, integer_weight, remember


def matmul(call: Call) -> Sequence[Result]:
    """ONNX MatMul, the numpy matmul, of an activation and a weight or of two activations."""
    a, b = call.value(0), call.value(1)
    left = remember(call, "left", (a,), lambda: _operand(a, -2))
    right = remember(call, "right", (b,), lambda: _operand(b, -1))
    if left is None or right is None:
        return [np.matmul(a.real(), b.real())]
    if left.scale.size > 1:
        left = IntegerWeight(left.values, left.scale[:, None])
    return [_product(left, right, None)]


def gemm(call: Call) -> Sequence[Result]:
    """ONNX Gemm; integer only with alpha = beta = 1, which is all that the hardware takes."""
    a, b, c = call.value(0), call.value(1), call.optional(2)
    node = call.node
    trans_a, trans_b = bool(node.get("transA", 0)), bool(node.get("transB", 0))
    alpha, beta = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0))
    left = _operand(a, 1 if trans_a else 0)
    right = remember(call, "right", (b,), lambda: _operand(b, 0 if trans_b else 1))
    if left is None or right is None or left.scale.size > 1 or (alpha, beta) != (1.0, 1.0):
        total = _turn(a.real(), trans_a) @ _turn(b.real(), trans_b)
        total = total if alpha == 1.0 else total * np.float32(alpha)
        return [total if c is None else total + c.real() * np.float32(beta)]
    left = IntegerWeight(_turn(left.values, trans_a), left.scale)
    right = IntegerWeight(_turn(right.values, trans_b), right.scale)
    return [_product(left, right, c)]


def einsum(call: Call) -> Sequence[Result]:
    """ONNX Einsum in float32."""
    return [np.einsum(str(call.node.get("equation")), *(v.real() for v in call.inputs if v is not None), optimize=True)]


def _operand(value: Value, channel_axis: int) -> IntegerWeight | None:
    """Integers of an operand; a vector has no channels, and two-level scales are taken for matrices only."""
    kind = "tensor" if value.encoding is None else value.encoding.granularity
    if (value.data.ndim < 2 and kind != "tensor") or (value.data.ndim > 2 and kind == "lpbq"):
        return None
    return integer_weight(value, channel_axis)


def _product(a: IntegerWeight, b: IntegerWeight, bias: Value | None) -> Accumulator:
    scale = np.asarray(a.scale * b.scale, np.float32)
    integers = integer_bias(bias, scale)
    dtype = exact_dtype(_bound(a.values, b.values, integers))
    values = np.matmul(a.values.astype(dtype, copy=False), b.values.astype(dtype, copy=False))
    if integers is not None:
        values = values + integers.astype(dtype)
    return Accumulator(values, scale)


def _bound(a: Array, b: Array, bias: Array | None) -> float:
    """The largest sum of absolute values of all terms of one element, for these operands."""
    columns = np.abs(b).sum(axis=-2 if b.ndim > 1 else 0, dtype=np.float64)
    return float(np.max(np.abs(a), initial=0)) * float(np.max(columns, initial=0)) + (
        0.0 if bias is None else float(np.max(np.abs(bias), initial=0))
    )


def _turn(values: Array, transpose: bool) -> Array:
    return values.T if transpose else values
