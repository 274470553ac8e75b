"""Sums of codes and 8-bit weights as products of bytes, where ONNX Runtime multiplies bytes faster than floats.

A code of 16 bits is 256 times its upper byte and its lower one. MatMulIntegerToFloat adds products in int32 and gives
float32(sum) * scale + bias (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md). That is exact up to
2**24, as the scale is a power of two. Adding the two rounds once, as converting the exact sum to float32 does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import numpy as np

from npukit.backend import FastCall, Operand
from npukit.backend.kernels import EXACT_FLOAT32, largest, sliding_window
from npukit.backend.library.lower.pieces import PIECE, Sum, Sums, blocks, exact_pair, is_short, split, total
from npukit.backend.library.lower.windows import windows
from npukit.encoding import Array, Encoding, container

_UINT8 = 2  # TensorProto
# Dividing by a little less than 256 rounds (code - 128) / 256 to floor(code / 256), as no result is a tie.
_JUST_BELOW = np.float32(255.999)
# Below so many channels or products the copies of windows take longer than a convolution in float32.
_CHANNELS, _PRODUCTS = 32, 4_000_000


def byte_conv(call: FastCall, made: Sum, weight: Array) -> str | None:
    """The output of a Conv without groups; None where another form is quicker. ``weight`` is int8."""
    x, shape = call.encoding(0), call.shape(0) or ()
    sizes = tuple(d for d in shape[2:] if isinstance(d, int))
    if x is None or call.node.get("group", 1) != 1 or len(sizes) != weight.ndim - 2:
        return None
    if x.bits == 16 and is_short(made, largest(x)):
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
    codes = None if found is None else made.write(call, found, 0)
    return None if codes is None else call.write("Transpose", codes, perm=(0, rank - 1, *range(1, rank - 1)))


def byte_matmul(call: FastCall, made: Sum, matrix: Array) -> str | None:
    """The output of the product of input 0 (..., K) and ``matrix`` (K, N), int8; None where another form is quicker."""
    x = call.encoding(0)
    if x is None or matrix.ndim != 2:
        return None
    found = _product(call, attrs.evolve(made, weights=matrix, axis=1), x, call.codes(0), lambda part, zero: part)
    return None if found is None else made.write(call, found, 0)


def _product(
    call: FastCall, made: Sum, x: Encoding, codes: Operand | str, rows: Callable[[Operand | str, str], Operand | str]
) -> str | None:
    """The total of ``made.weights`` (K, N) and the rows that ``rows`` makes of bytes and their zero; None when it is too long."""
    lowest = int(np.iinfo(container(x)).min)
    zeros = (int(x.zeros) - lowest,) if x.bits == 8 else divmod(int(x.zeros) - lowest, PIECE)
    most = [max(zero, PIECE - 1 - zero) for zero in zeros]
    cut = blocks(made, lambda part: _exact(part, most))
    if cut is None:
        return None
    sums = []
    parts = (codes,) if x.bits == 8 else _bytes(call, x, codes, lowest)
    for index, (part, zero) in enumerate(zip(parts, zeros, strict=True)):
        code, scale = call.literal(zero, np.uint8), call.literal(PIECE if index < len(parts) - 1 else 1, np.float32)
        for piece, terms in zip(split(call, rows(part, code), cut, -1), cut, strict=True):
            term = terms[index]
            bias = [] if term.bias is None else ["", call.literal(np.broadcast_to(term.bias, term.totals.shape), np.float32)]
            operands = [piece, call.literal(term.weights, np.int8), scale, call.literal(np.float32(1)), code]
            sums.append(call.write("MatMulIntegerToFloat", *operands, *bias, domain="com.microsoft"))
    return total(call, sums)


def _exact(part: Sum, most: Sequence[int]) -> Sums | None:
    """The sums of a part for one byte or two, whose values are up to ``most``; None where they are not exact."""
    if len(most) == 1:
        return (part,) if part.bound(most[0]) <= EXACT_FLOAT32 else None
    return exact_pair(part, PIECE, (part.weights, most[0] * PIECE), (part.weights, most[1]))


def _bytes(call: FastCall, x: Encoding, codes: Operand | str, lowest: int) -> tuple[str, str]:
    """The upper and the lower byte of 16-bit codes counted from the lowest one."""
    middle = call.code(lowest + PIECE // 2, x)
    steps = call.write("DequantizeLinear", codes, call.literal(np.float32(1)), middle)
    upper = call.write("QuantizeLinear", steps, call.literal(_JUST_BELOW), call.literal(np.uint8(0)))
    return upper, call.write("Cast", codes, to=_UINT8)
