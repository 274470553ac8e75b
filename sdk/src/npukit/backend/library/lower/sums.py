"""Conv, ConvTranspose, MatMul and Gemm: sums of integers that no step of the computation rounds, then one multiplier or divisor.

8-bit operands go to ONNX Runtime's integer operators, which compute the requantization of the kernels: int32 sums, one float32
multiplier, round half to even, saturate (https://onnx.ai/onnx/operators/onnx__QLinearConv.html). Weights of 8 bits are uint8 where
sums of two products of uint8 and int8 saturate in 16 bits, as on processors without VNNI; those of uint8 and uint8 do not.

16-bit operands are convolved in float32, in two pieces where one would not be exact (``pieces``). Products of two activations that
are too wide for QLinearMatMul are float64 sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import attrs
import numpy as np

from npukit.backend import FastCall, Lowering, Operand
from npukit.backend.kernels import (
    EXACT_FLOAT64,
    integer_bias,
    integer_weight,
    largest,
    sliding_window,
)
from npukit.backend.library.lower.bytewise import byte_conv, byte_matmul
from npukit.backend.library.lower.pieces import Sum, adds_once, terms, total
from npukit.backend.library.lower.saturation import products_saturate
from npukit.backend.library.requantize import Requantizer
from npukit.encoding import Array, Encoding

_INT32 = 2**31
_FLOAT, _DOUBLE = 1, 11  # TensorProto


def _sum(call: FastCall, requantizer: Requantizer, weight: int, channel_axis: int) -> Sum | None:
    x, w, bias, out = call.encoding(0), call.constant(weight), call.constant(2), call.wanted()
    if x is None or w is None or (out is None and not call.gives_real()) or (call.has(2) and bias is None):
        return None
    form = integer_weight(w, channel_axis)
    if form is None:
        return None
    scale = np.asarray(x.steps * form.scale, np.float32)
    how, total = None if out is None else requantizer(scale, out), integer_bias(bias, scale)
    if how is not None and how.offset.any():
        total = how.offset if total is None else total + how.offset
    return Sum(form.values, channel_axis, total, scale, how)


def _bytes(weight: Array) -> tuple[Array, int] | None:
    """Integers as 8 bits and their zero point, or None when they span more.

    They are int8, which is fast, where sums of products of uint8 and int8 are exact: everywhere on processors with VNNI, elsewhere
    when they are so small (4 bits, say) that two products stay within 16 bits. Else they are uint8.
    """
    low, high = int(weight.min(initial=0)), int(weight.max(initial=0))
    if (low >= -64 and high <= 64) or (low >= -128 and high <= 127 and not products_saturate()):
        return weight.astype(np.int8), 0
    zero = 128 if low >= -128 and high <= 127 else -low
    return ((weight + zero).astype(np.uint8), zero) if high + zero <= 255 and zero <= 255 else None


def _signed(weight: Array) -> Array | None:
    """Integers as int8, where sums of products of uint8 and int8 are exact."""
    stored = _bytes(weight)
    return stored[0] if stored is not None and stored[0].dtype == np.int8 else None


def _is_byte(*encodings: Encoding | None) -> bool:
    return all(e is not None and e.bits == 8 for e in encodings)


def _integer_operands(call: FastCall, made: Sum, stack: tuple[int, ...] = ()) -> list[Operand | str] | None:
    """x, its scale and zero point, the weight, its scale and zero point, the output's, as the QLinear operators take them.

    The weight's scale is the multiplier and the others are 1, so that the operators multiply by it as it is. Of a ``stack`` of
    matrices each has the scales of its own columns. None beyond int32.
    """
    x, out, stored = call.encoding(0), call.wanted(), _bytes(made.weights)
    if x is None or out is None or made.how is None or not _is_byte(x, out) or stored is None:
        return None
    if not made.how.is_qlinear or made.bound(largest(x)) >= _INT32:
        return None
    codes, zero = stored
    factors = made.how.factor
    if stack and factors.size > 1:
        factors = np.broadcast_to(factors, (*stack, 1, factors.size))
    zeros, one = call.literal(np.full(factors.shape, zero, codes.dtype)), call.literal(np.float32(1))
    return [call.codes(0), one, call.zero(x), call.literal(codes), call.literal(factors), zeros, one, call.code(made.how.zero, out)]


def conv(call: FastCall, requantizer: Requantizer) -> bool:
    """Conv as QLinearConv, as products of bytes, or in float32."""
    made, attributes = _sum(call, requantizer, 1, 0), _padded(call)
    if made is None or attributes is None:
        return False
    operands = _integer_operands(call, made)
    if operands is None:
        weight = _signed(made.weights)
        codes = None if weight is None else byte_conv(call, made, weight)
        return call.give(codes) if codes is not None else _float_conv(call, made, attributes)
    bias = [] if made.bias is None else [call.literal(np.broadcast_to(made.bias, made.totals.shape), np.int32)]
    return call.give(call.write("QLinearConv", *operands, *bias, **attributes))


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


def _float_conv(call: FastCall, made: Sum, attributes: Mapping[str, Any]) -> bool:
    """A Conv in float32. A pointwise one runs as a Conv along one axis: a plain matrix product, without changes of layout."""
    weight, shape = made.weights, call.shape(0) or ()
    moves = (attributes.get(name, ()) for name in ("strides", "pads"))
    pointwise = weight[0, 0].size == 1 and not any(set(values) - {fixed} for values, fixed in zip(moves, (1, 0), strict=True))
    sizes = [d for d in shape[2:] if isinstance(d, int)]
    if not pointwise or attributes.get("group", 1) != 1 or len(sizes) != len(shape) - 2:
        codes = _float_sum(call, made, "Conv", attributes, spatial=weight.ndim - 2)
        return codes is not None and call.give(codes)
    flat = call.write("Reshape", call.integers(0), call.literal([0, 0, -1], np.int64))
    codes = _float_sum(call, attrs.evolve(made, weights=weight.reshape(*weight.shape[:2], 1)), "Conv", {}, flat, 1)
    return codes is not None and call.give(call.write("Reshape", codes, call.literal([0, 0, *sizes], np.int64)))


def conv_transpose(call: FastCall, requantizer: Requantizer) -> bool:
    """ConvTranspose in float32, where its size is given by pads alone."""
    if call.node.get("output_shape") or call.node.get("auto_pad", "NOTSET") != "NOTSET" or call.node.get("group", 1) != 1:
        return False
    made = _sum(call, requantizer, 1, 1)
    if made is None:
        return False
    codes = _float_sum(call, made, "ConvTranspose", call.node.attributes, spatial=made.weights.ndim - 2)
    return codes is not None and call.give(codes)


def gemm(call: FastCall, requantizer: Requantizer) -> bool:
    """Gemm as QGemm, or in float32."""
    node = call.node
    if (node.get("alpha", 1.0), node.get("beta", 1.0)) != (1.0, 1.0) or node.get("transA", 0) or call.shape(0) is None:
        return False
    is_turned = bool(node.get("transB", 0))
    made = _sum(call, requantizer, 1, 0 if is_turned else 1)
    if made is None or (made.bias is not None and made.bias.ndim > 1):
        return False
    if is_turned:
        made = attrs.evolve(made, weights=np.ascontiguousarray(made.weights.T), axis=1)
    operands = _integer_operands(call, made)
    if operands is None:
        return _matrix_sum(call, made, "Gemm")
    bias = "" if made.bias is None else call.literal(np.broadcast_to(made.bias, made.totals.shape), np.int32)
    return call.give(call.write("QGemm", *operands[:6], bias, *operands[6:], domain="com.microsoft"))


def matmul(call: FastCall, requantizer: Requantizer) -> bool:
    """MatMul with a constant on the right as a sum; of two activations as QLinearMatMul or in float64."""
    shapes = (call.shape(0), call.shape(1))
    if any(s is None or len(s) < 2 for s in shapes) or call.constant(0) is not None:
        return False
    if call.constant(1) is None:
        return _matmul_of_two(call, requantizer, (shapes[0] or (None,))[-1])
    made = _sum(call, requantizer, 1, -1)
    if made is None:
        return False
    stack = made.weights.shape[:-2]
    operands = _integer_operands(call, made, stack) if made.bias is None else None  # QLinearMatMul takes no bias
    if operands is None:
        return _matrix_sum(call, made, "MatMul")
    return call.give(call.write("QLinearMatMul", *operands))


def _matrix_sum(call: FastCall, made: Sum, op: str) -> bool:
    """A MatMul or a Gemm (K, N) as products of bytes, or in float32."""
    matrix = _signed(made.weights)
    codes = None if matrix is None else byte_matmul(call, made, matrix)
    codes = codes or _float_sum(call, made, op, {})
    return codes is not None and call.give(codes)


def _matmul_of_two(call: FastCall, requantizer: Requantizer, depth: int | str | None) -> bool:
    a, b, out = call.encoding(0), call.encoding(1), call.wanted()
    if a is None or b is None or out is None or not isinstance(depth, int):
        return False
    how = requantizer(np.asarray(a.steps * b.steps, np.float32), out)
    is_narrow = _is_byte(a, b, out) and depth * largest(a) * largest(b) < _INT32
    if not is_narrow or not how.is_qlinear or how.offset.any():
        return product(call, requantizer, call.integers(1), b)
    one = call.literal(np.float32(1))
    operands = [call.codes(0), one, call.zero(a), call.codes(1), call.literal(how.factor), call.zero(b)]
    return call.give(call.write("QLinearMatMul", *operands, one, call.code(how.zero, out)))


def product(call: FastCall, requantizer: Requantizer, right: Operand | str, b: Encoding) -> bool:
    """The product of input 0 and ``right``, integers in float32 on the grid ``b``, as float64 sums, where these are exact."""
    a, out, depth = call.encoding(0), call.wanted(), (call.shape(0) or (None,))[-1]
    if a is None or out is None or not isinstance(depth, int):
        return False
    how = requantizer(np.asarray(a.steps * b.steps, np.float32), out)
    if depth * largest(a) * largest(b) + np.abs(how.offset).max() > EXACT_FLOAT64:
        return False
    total = call.write("MatMul", *(call.write("Cast", x, to=_DOUBLE) for x in (call.integers(0), right)))
    if how.offset.any():
        total = call.write("Add", total, call.literal(how.offset, np.float64))
    codes = how.write(call, call.write("Cast", total, to=_FLOAT), 0, out)
    return codes is not None and call.give(codes)


def _float_sum(
    call: FastCall, made: Sum, op: str, attributes: Mapping[str, Any], operand: Operand | str = "", spatial: int = 0
) -> str | None:
    """CODES of a sum in float32, in pieces; None when it needs too many of them. ``spatial`` axes follow the channels."""
    x, grouped = call.encoding(0), attributes.get("group", 1) != 1
    assert x is not None
    parts = terms(call, made, operand or call.integers(0), largest(x), -1 - spatial, grouped=grouped)
    if parts is None:
        return None
    # ONNX Runtime fuses the addition of a convolution into another one, where it may round in between, but no difference.
    subtracts = len(parts) == 2 and not (op == "Conv" and adds_once(parts, call.shape(0) or (), attributes))
    sums = []
    for sign, term in zip((1, -1) if subtracts else [1] * len(parts), parts, strict=True):
        inputs = [term.operand, call.literal(sign * term.sum.weights, np.float32)]
        offset = []
        if term.sum.bias is not None:
            offset = [call.literal(np.broadcast_to(sign * term.sum.bias, term.sum.totals.shape), np.float32)]
        if op == "MatMul":  # which has no input for a bias
            product = call.write(op, *inputs)
            sums.append(call.write("Add", product, *offset) if offset else product)
        else:
            sums.append(call.write(op, *inputs, *offset, **attributes))
    return made.write(call, call.write("Sub", *sums) if subtracts else total(call, sums), spatial)


def sums(requantizer: Requantizer) -> Mapping[str, Lowering]:
    """The lowerings of sums for one requantization."""
    lowerings = {"Conv": conv, "ConvTranspose": conv_transpose, "Gemm": gemm, "MatMul": matmul}
    return {op: partial(lowering, requantizer=requantizer) for op, lowering in lowerings.items()}
