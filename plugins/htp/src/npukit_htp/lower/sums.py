"""Conv, ConvTranspose, MatMul and Gemm: sums of integers that no step of the computation rounds, then one multiplier.

8-bit operands go to ONNX Runtime's integer operators, which compute the requantization of the kernels: int32 sums, one float32
multiplier, round half to even, saturate (https://onnx.ai/onnx/operators/onnx__QLinearConv.html). Weights of 8 bits are uint8: sums
of two products of uint8 and int8 saturate in 16 bits on processors without VNNI, those of uint8 and uint8 do not.

16-bit operands are convolved in float32, which holds integers up to 2**24 exactly. An operand that is too wide for that is split
into a multiple of 256 and a rest; both sums are exact, and adding them rounds once, as converting the exact sum to float32 does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from npukit.backend import FastCall, Lowering, Operand
from npukit.encoding import Array, Encoding
from npukit_htp.kernels._values import EXACT_FLOAT32, IntegerWeight, integer_bias, integer_weight, largest
from npukit_htp.kernels._window import sliding_window

_INT32 = 2**31
_PIECE = 256
# Adding and subtracting 1.5 * 2**23 * 256 leaves a float32 below 2**30 rounded to a multiple of 256.
_ROUND_TO_PIECE = np.float32(1.5 * 2**23 * _PIECE)


@attrs.frozen(eq=False)
class _Sum:
    """The constant side of a sum: integer weights, an integer bias or None, the scale of the sum, all as the kernels have them.

    ``totals`` are the sums of the absolute weights per output channel.
    """

    weight: IntegerWeight
    bias: Array | None
    scale: Array
    totals: Array

    def bound(self, operand: float) -> float:
        """The largest absolute value of any partial sum when the other operand is below ``operand``."""
        return float(np.max(self.totals * operand + (0 if self.bias is None else np.abs(self.bias)), initial=0))


def _sum(call: FastCall, weight: int, channel_axis: int) -> _Sum | None:
    x, w, bias = call.encoding(0), call.constant(weight), call.constant(2)
    if x is None or w is None or call.wanted() is None or (call.has(2) and bias is None):
        return None
    form = integer_weight(w, channel_axis)
    if form is None:
        return None
    scale = np.asarray(x.steps * form.scale, np.float32)
    others = tuple(a for a in range(w.data.ndim) if a != channel_axis % w.data.ndim)
    totals = np.abs(form.values).sum(axis=others, dtype=np.float64)
    return _Sum(form, integer_bias(bias, scale), scale, totals)


def _bytes(weight: Array) -> tuple[Array, int] | None:
    """Integers as 8 bits and their zero point, or None when they span more.

    They are uint8 unless they are so small (4 bits, say) that a sum of two products of uint8 and int8 stays within 16 bits.
    """
    low, high = int(weight.min(initial=0)), int(weight.max(initial=0))
    if low >= -64 and high <= 64:
        return weight.astype(np.int8), 0
    zero = 128 if low >= -128 and high <= 127 else -low
    return ((weight + zero).astype(np.uint8), zero) if high + zero <= 255 and zero <= 255 else None


def _is_byte(*encodings: Encoding | None) -> bool:
    return all(e is not None and e.bits == 8 for e in encodings)


def _integer_operands(call: FastCall, made: _Sum) -> list[Operand | str] | None:
    """x, its scale and zero point, the weight, its scale and zero point as the QLinear operators take them; None beyond int32."""
    x, out, stored = call.encoding(0), call.wanted(), _bytes(made.weight.values)
    if x is None or not _is_byte(x, out) or stored is None or made.bound(largest(x)) >= _INT32:
        return None
    codes, zero = stored
    zeros = call.literal(np.full(made.weight.scale.shape, zero, codes.dtype))
    return [call.codes(0), call.literal(x.steps), call.zero(x), call.literal(codes), call.literal(made.weight.scale), zeros]


def conv(call: FastCall) -> bool:
    """Conv as QLinearConv, or in float32."""
    made, out, attributes = _sum(call, 1, 0), call.wanted(), _padded(call)
    if made is None or out is None or attributes is None:
        return False
    operands = _integer_operands(call, made)
    if operands is None:
        return _float_sum(call, made, "Conv", made.weight.values, attributes)
    bias = [] if made.bias is None else [call.literal(made.bias, np.int32)]
    out_grid = (call.literal(out.steps), call.zero(out))
    return call.give(call.write("QLinearConv", *operands, *out_grid, *bias, **attributes))


def _padded(call: FastCall) -> dict[str, Any] | None:
    """The attributes of a Conv with its padding in numbers, which automatic padding needs a known shape for."""
    attributes = dict(call.node.attributes)
    mode, w = attributes.pop("auto_pad", "NOTSET"), call.constant(1)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        return attributes
    sizes = tuple(d for d in (call.shape(0) or ())[2:] if isinstance(d, int))
    if w is None or len(sizes) != w.data.ndim - 2:
        return None
    pads = sliding_window(call.node, sizes, w.data.shape[2:]).pads
    return attributes | {"pads": tuple(begin for begin, _ in pads) + tuple(end for _, end in pads)}


def conv_transpose(call: FastCall) -> bool:
    """ConvTranspose in float32, where its size is given by pads alone."""
    if call.node.get("output_shape") or call.node.get("auto_pad", "NOTSET") != "NOTSET" or call.node.get("group", 1) != 1:
        return False
    made = _sum(call, 1, 1)
    return made is not None and _float_sum(call, made, "ConvTranspose", made.weight.values, call.node.attributes)


def gemm(call: FastCall) -> bool:
    """Gemm as QGemm, or in float32."""
    node = call.node
    if (node.get("alpha", 1.0), node.get("beta", 1.0)) != (1.0, 1.0) or node.get("transA", 0) or call.shape(0) is None:
        return False
    made, out = _sum(call, 1, 0 if node.get("transB", 0) else 1), call.wanted()
    if made is None or out is None or (made.bias is not None and made.bias.ndim > 1):
        return False
    weight = made.weight.values.T if node.get("transB", 0) else made.weight.values
    made = attrs.evolve(made, weight=attrs.evolve(made.weight, values=np.ascontiguousarray(weight)))
    operands = _integer_operands(call, made)
    if operands is None:
        return _float_sum(call, made, "Gemm", made.weight.values, {})
    bias = "" if made.bias is None else call.literal(np.broadcast_to(made.bias, weight.shape[1]), np.int32)
    return call.give(call.write("QGemm", *operands, bias, call.literal(out.steps), call.zero(out), domain="com.microsoft"))


def matmul(call: FastCall) -> bool:
    """MatMul with a constant on the right as a sum; of two 8-bit activations as QLinearMatMul."""
    a, b, out = call.encoding(0), call.encoding(1), call.wanted()
    shapes = (call.shape(0), call.shape(1))
    if any(s is None or len(s) < 2 for s in shapes) or a is None or out is None or call.constant(0) is not None:
        return False
    if call.constant(1) is None:
        depth = (shapes[0] or (None,))[-1]
        if b is None or not _is_byte(a, b, out) or not isinstance(depth, int) or depth * largest(a) * largest(b) >= _INT32:
            return False
        operands = [call.codes(0), call.literal(a.steps), call.zero(a), call.codes(1), call.literal(b.steps), call.zero(b)]
    else:
        made = _sum(call, 1, -1)
        if made is None:
            return False
        found = _integer_operands(call, made)
        if found is None:
            return _float_sum(call, made, "MatMul", made.weight.values, {})
        operands = found
    return call.give(call.write("QLinearMatMul", *operands, call.literal(out.steps), call.zero(out)))


def _float_sum(call: FastCall, made: _Sum, op: str, weight: Array, attributes: Mapping[str, Any]) -> bool:
    """A sum in float32, of one piece or two, and its requantization."""
    x, out = call.encoding(0), call.wanted()
    assert x is not None
    assert out is not None
    operand = call.integers(0)

    def add(piece: Operand | str, bias: Array | None, sign: int = 1) -> str:
        inputs = [piece, call.literal(sign * weight, np.float32)]
        if bias is not None:
            inputs.append(call.literal(np.broadcast_to(sign * bias, made.totals.shape), np.float32))
        return call.write(op, *inputs, **attributes)

    if made.bound(largest(x)) <= EXACT_FLOAT32:
        total = add(operand, made.bias)
    else:
        bias = None if made.bias is None else np.rint(made.bias / _PIECE) * _PIECE
        rest = None if made.bias is None or bias is None else made.bias - bias
        high = attrs.evolve(made, bias=bias)
        low = attrs.evolve(made, bias=rest)
        if high.bound(largest(x) + _PIECE / 2) > _PIECE * EXACT_FLOAT32 or low.bound(_PIECE / 2) > EXACT_FLOAT32:
            return False
        shift = call.literal(_ROUND_TO_PIECE)
        upper = call.write("Sub", call.write("Add", operand, shift), shift)
        # A difference, because ONNX Runtime would fuse the addition of a convolution into another one and round in between.
        total = call.write("Sub", add(upper, bias), add(call.write("Sub", operand, upper), rest, -1))
    multiplier = (made.scale.astype(np.float64) / float(out.steps)).astype(np.float32)
    spatial = len(call.shape(0) or ()) - 2 if op.startswith("Conv") else 0
    factors = multiplier.reshape(-1, *[1] * spatial) if multiplier.size > 1 else multiplier.reshape(())
    return call.give(call.rounded(call.write("Mul", total, call.variable(factors)), out))


SUMS: Mapping[str, Lowering] = {"Conv": conv, "ConvTranspose": conv_transpose, "Gemm": gemm, "MatMul": matmul}
