"""Sums of 16-bit codes and 8-bit weights as two products of bytes, where ONNX Runtime multiplies bytes faster than floats.

A code is 256 times its upper byte and its lower one. MatMulIntegerToFloat adds products in int32 and gives float32(sum) * scale +
bias (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md), which is exact up to 2**24 where the scale is a
power of two. Adding the two rounds once, as converting the exact sum to float32 does.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np

from npukit.backend import FastCall, Operand
from npukit.backend.kernels import largest, sliding_window
from npukit.backend.library.lower.pieces import PIECE, Sum, blocks, exact_pair, is_short, split, total
from npukit.backend.library.lower.windows import windows
from npukit.encoding import Array, Encoding, container

_UINT8 = 2  # TensorProto
# Dividing by a little less than 256 rounds (code - 128) / 256 to floor(code / 256), as no result is a tie.
_JUST_BELOW = np.float32(255.999)
# Below so many channels or products the copies of windows take longer than a convolution in float32.
_CHANNELS, _PRODUCTS = 32, 4_000_000


def byte_conv(call: FastCall, made: Sum, weight: Array) -> str | None:
    """CODES of a Conv without groups; None where another form is quicker. ``weight`` is int8."""
    x, out, shape = call.encoding(0), call.wanted(), call.shape(0) or ()
    assert out is not None
    sizes = tuple(d for d in shape[2:] if isinstance(d, int))
    if x is None or x.bits != 16 or call.node.get("group", 1) != 1 or len(sizes) != weight.ndim - 2 or is_short(made, largest(x)):
        return None
    window = sliding_window(call.node, sizes, weight.shape[2:])
    if not window.is_pointwise and (weight.shape[1] < _CHANNELS or weight.size * np.prod(window.out) < _PRODUCTS):
        return None
    rank = weight.ndim
    matrix = np.moveaxis(weight, (0, 1), (-1, -2)).reshape(-1, len(weight))
    rows = call.write("Transpose", call.codes(0), perm=(0, *range(2, rank), 1))
    found = _product(
        call, attrs.evolve(made, weights=matrix, axis=1), x, rows, lambda part, zero: windows(call, part, window, 1, rank - 1, zero)
    )
    codes = None if found is None else made.how.write(call, found, 0, out)
    return None if codes is None else call.write("Transpose", codes, perm=(0, rank - 1, *range(1, rank - 1)))


def byte_matmul(call: FastCall, made: Sum, matrix: Array) -> str | None:
    """CODES of the product of input 0 (..., K) and ``matrix`` (K, N), int8; None where another form is quicker."""
    x, out = call.encoding(0), call.wanted()
    assert out is not None
    if x is None or x.bits != 16 or matrix.ndim != 2:
        return None
    found = _product(call, attrs.evolve(made, weights=matrix, axis=1), x, call.codes(0), lambda part, zero: part)
    return None if found is None else made.how.write(call, found, 0, out)


def _product(call: FastCall, made: Sum, x: Encoding, codes: Operand | str, rows: Callable[[str, str], Operand | str]) -> str | None:
    """The total of ``made.weights`` (K, N) and the rows that ``rows`` makes of bytes and their zero; None when it is too long."""
    zeros = divmod(int(x.zeros) - int(np.iinfo(container(x)).min), PIECE)
    upper, lower = (max(zero, PIECE - 1 - zero) for zero in zeros)
    cut = blocks(made, lambda part: exact_pair(part, PIECE, (part.weights, upper * PIECE), (part.weights, lower)))
    if cut is None:
        return None
    sums = []
    for index, (part, zero, scale) in enumerate(zip(_bytes(call, x, codes), zeros, (PIECE, 1), strict=True)):
        code = call.literal(zero, np.uint8)
        for piece, pair in zip(split(call, rows(part, code), cut, -1), cut, strict=True):
            made, factors = pair[index], (call.literal(scale, np.float32), call.literal(np.float32(1)))
            bias = [] if made.bias is None else ["", call.literal(np.broadcast_to(made.bias, made.totals.shape), np.float32)]
            weight = call.literal(made.weights, np.int8)
            sums.append(call.write("MatMulIntegerToFloat", piece, weight, *factors, code, *bias, domain="com.microsoft"))
    return total(call, sums)


def _bytes(call: FastCall, x: Encoding, codes: Operand | str) -> tuple[str, str]:
    """The upper and the lower byte of 16-bit codes counted from the lowest one."""
    middle = call.code(int(np.iinfo(container(x)).min) + PIECE // 2, x)
    steps = call.write("DequantizeLinear", codes, call.literal(np.float32(1)), middle)
    upper = call.write("QuantizeLinear", steps, call.literal(_JUST_BELOW), call.literal(np.uint8(0)))
    return upper, call.write("Cast", codes, to=_UINT8)
