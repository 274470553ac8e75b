"""Matrix products: exact integer sums when both operands have grids, else float32, or float64 when rounded to float16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from npukit.backend import Accumulator, Call, Kernel, Result, Value
from npukit.backend.kernels import IntegerWeight, exact_dtype, integer_bias, integer_weight, real_sum_dtype, remember
from npukit.encoding import Array
from npukit.graph import Node


def matmul(call: Call) -> Sequence[Result]:
    """ONNX MatMul, the numpy matmul, of an activation and a weight or of two activations."""
    a, b = call.value(0), call.value(1)
    left = remember(call, "left", (a,), lambda: _operand(a, -2))
    right = remember(call, "right", (b,), lambda: _operand(b, -1))
    if left is None or right is None:
        return [np.matmul(_summed(call, 0), _summed(call, 1)).astype(np.float32, copy=False)]
    if left.scale.size > 1:
        left = IntegerWeight(left.values, left.scale[:, None])
    return [_product(left, right, None, remember(call, "columns", (b,), lambda: _columns(right.values)))]


def fused_matmul(call: Call) -> Sequence[Result]:
    """FusedMatMul of com.microsoft, alpha times MatMul with either operand transposed, in float32.

    https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
    """
    a, b = (_turned(call.value(i).real(), call.node, letter) for i, letter in enumerate("AB"))
    return [np.matmul(a, b) * np.float32(call.node.get("alpha", 1.0))]


def _turned(x: Array, node: Node, letter: str) -> Array:
    """An operand of FusedMatMul: transBatch moves the first axis behind the batch, trans swaps the last two."""
    x = np.moveaxis(x, 0, -2) if node.get(f"transBatch{letter}", 0) else x
    return np.swapaxes(x, -1, -2) if node.get(f"trans{letter}", 0) else x


def matmul_n_bits(call: Call) -> Sequence[Result]:
    """MatMulNBits of com.microsoft: a float product of (..., K) with a weight of 2, 4 or 8 bits in blocks, (..., N).

    The weight is uint8 (N, blocks, block_size * bits / 8), the first code in the lowest bits; scales and zero points are one per
    block. https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
    """
    sources = tuple(call.optional(i) for i in (1, 2, 3))
    weight = remember(call, "weight", sources, lambda: _unpacked_weight(call))
    product, bias = np.matmul(call.value(0).real(), weight), call.optional(5)
    return [product if bias is None else product + bias.real()]


def _unpacked_weight(call: Call) -> Array:
    """The weight of MatMulNBits as real values (K, N)."""
    node, packed, scales, zeros = call.node, call.value(1).data, call.value(2).real(), call.optional(3)
    bits, rows, blocks = int(node.get("bits", 4)), packed.shape[0], packed.shape[1]
    middle: Array = np.full((rows, blocks), 1 << (bits - 1), np.float32)
    if zeros is not None and zeros.data.dtype == np.uint8:
        middle = _unpacked(zeros.data.reshape(rows, -1), bits)[:, :blocks]
    elif zeros is not None:
        middle = zeros.real().reshape(rows, blocks)
    codes = _unpacked(packed, bits) - middle[..., None]
    real = codes * scales.reshape(rows, blocks)[..., None].astype(np.float32)
    return np.ascontiguousarray(real.reshape(rows, -1)[:, : int(node.get("K", 0))].T, np.float32)


def _unpacked(packed: Array, bits: int) -> Array:
    """The codes in the bytes of the last axis, lowest bits first, as float32."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return codes.reshape(*packed.shape[:-1], -1).astype(np.float32)


def gemm(call: Call) -> Sequence[Result]:
    """ONNX Gemm; integer only with alpha = beta = 1."""
    a, b, c = call.value(0), call.value(1), call.optional(2)
    node = call.node
    trans_a, trans_b = bool(node.get("transA", 0)), bool(node.get("transB", 0))
    alpha, beta = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0))
    left = _operand(a, 1 if trans_a else 0)
    right = remember(call, "right", (b,), lambda: _operand(b, 0 if trans_b else 1))
    if left is None or right is None or left.scale.size > 1 or (alpha, beta) != (1.0, 1.0):
        total = _turn(_summed(call, 0), trans_a) @ _turn(_summed(call, 1), trans_b)
        total = total if alpha == 1.0 else total * np.float32(alpha)
        total = total if c is None else total + c.real() * np.float32(beta)
        return [total.astype(np.float32, copy=False)]
    left = IntegerWeight(_turn(left.values, trans_a), left.scale)
    right = IntegerWeight(_turn(right.values, trans_b), right.scale)
    return [_product(left, right, c, remember(call, "columns", (b,), lambda: _columns(right.values)))]


def _summed(call: Call, index: int) -> Array:
    """The real values of an operand in the type in which their products are summed; those of a constant are kept."""
    value = call.value(index)
    return remember(call, f"real {index}", (value,), lambda: value.real().astype(real_sum_dtype(call), copy=False))


def einsum(call: Call) -> Sequence[Result]:
    """ONNX Einsum: one that is a MatMul as such, others in float32."""
    if is_matmul(str(call.node.get("equation"))):
        return matmul(call)
    return [np.einsum(str(call.node.get("equation")), *(v.real() for v in call.inputs if v is not None), optimize=True)]


def is_matmul(equation: str) -> bool:
    """Whether an equation multiplies the matrices of the last two axes of two operands: "bij,bjk->bik"."""
    terms, _, out = equation.replace(" ", "").partition("->")
    left, _, right = terms.partition(",")
    if len(left) < 2 or len(left) != len(right) or len(set(left + right[-1])) != len(left) + 1:
        return False
    return left[:-2] == right[:-2] and left[-1] == right[-2] and out == left[:-1] + right[-1]


def _operand(value: Value, channel_axis: int) -> IntegerWeight | None:
    """Integers of an operand; a vector has no channels, and two-level scales are taken for matrices only."""
    kind = "tensor" if value.encoding is None else value.encoding.granularity
    if (value.data.ndim < 2 and kind != "tensor") or (value.data.ndim > 2 and kind == "lpbq"):
        return None
    return integer_weight(value, channel_axis)


def _product(a: IntegerWeight, b: IntegerWeight, bias: Value | None, columns: float) -> Accumulator:
    """The exact product, for ``columns`` as ``_columns`` of the right operand."""
    scale = np.asarray(a.scale * b.scale, np.float32)
    integers = integer_bias(bias, scale)
    terms = float(np.max(np.abs(a.values), initial=0)) * columns
    dtype = exact_dtype(terms + (0.0 if integers is None else float(np.max(np.abs(integers), initial=0))))
    values = np.matmul(a.values.astype(dtype, copy=False), b.values.astype(dtype, copy=False))
    if integers is not None:
        values = values + integers.astype(dtype)
    return Accumulator(values, scale)


def _columns(b: Array) -> float:
    """The largest sum of absolute values of a column: with the largest value of the left operand it bounds every sum."""
    return float(np.max(np.abs(b).sum(axis=-2 if b.ndim > 1 else 0, dtype=np.float64), initial=0))


def _turn(values: Array, transpose: bool) -> Array:
    return values.T if transpose else values


MATMUL: Mapping[str, Kernel] = {
    "Einsum": einsum,
    "Gemm": gemm,
    "MatMul": matmul,
    "com.microsoft.FusedMatMul": fused_matmul,
    "com.microsoft.MatMulNBits": matmul_n_bits,
}
"""Products of matrices."""
