"""Functions of one value: the kernel's own table over all codes, written as nothing, a clamp, a rescaling or a lookup."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from npukit.backend import FastCall, Lowering, Operand, Value
from npukit.backend.library.kernels.unary import UNARY
from npukit.encoding import Array, Encoding, container, dequantize, quantize

_INT32 = 6  # TensorProto.INT32


def tabulated(call: FastCall) -> bool:
    """A function of one value by the cheapest form that gives its table."""
    x, out = call.encoding(0), call.wanted()
    if x is None and out is not None and call.node.op in _OF_SUMS and call.has_real(0):
        return call.give(call.quantized(_OF_SUMS[call.node.op](call), out))
    if x is None or out is None or any(call.has(i) and call.constant(i) is None for i in range(1, len(call.node.inputs))):
        return False
    table = _table(call, x)
    low, high = int(table.min()), int(table.max())
    codes = np.arange(x.qmin, x.qmax + 1).astype(container(x))
    if x.dtype == out.dtype and np.array_equal(table, np.clip(codes, low, high)):
        return call.give(_clamped(call, call.codes(0), low, high, x))
    if np.array_equal(table, np.clip(quantize(dequantize(codes, x), out), low, high)):
        return call.give(_clamped(call, call.quantized(call.real(0), out), low, high, out))
    # uint8 and uint16 codes count from 0; negative int16 codes count from the end of a table that starts at code 0.
    ordered = np.roll(table, x.qmin) if x.dtype == "int16" else table
    return call.give(lookup(call, call.code(ordered, out), call.write("Cast", call.codes(0), to=_INT32)))


def _leaky_relu(call: FastCall) -> str:
    return call.write("LeakyRelu", call.real(0), **call.node.attributes)


def _hard_swish(call: FastCall) -> str:
    inner = call.write("Add", call.write("Div", call.real(0), call.literal(np.float32(6))), call.literal(np.float32(0.5)))
    return call.write("Mul", call.real(0), call.write("Clip", inner, call.literal(np.float32(0)), call.literal(np.float32(1))))


_OF_SUMS: Mapping[str, Callable[[FastCall], str]] = {"HardSwish": _hard_swish, "LeakyRelu": _leaky_relu}
"""Functions that chips compute on the real values of a sum: the float32 operations of their kernels."""


def _table(call: FastCall, x: Encoding) -> Array:
    """What the kernel makes of every code of ``x``, in order."""
    codes = Value(np.arange(x.qmin, x.qmax + 1).astype(container(x)), x)
    others = tuple(call.constant(i) for i in range(1, len(call.node.inputs)))
    return call.compute(codes, *others).data


def _clamped(call: FastCall, codes: Operand | str, low: int, high: int, grid: Encoding) -> Operand | str:
    """Codes of ``grid`` limited to [low, high]."""
    if (low, high) == (grid.qmin, grid.qmax):
        return codes
    if grid.bits == 8:
        return call.write("Min", call.write("Max", codes, call.code(low, grid)), call.code(high, grid))
    zero = int(grid.zeros)
    steps = call.write("DequantizeLinear", codes, call.literal(np.float32(1)), call.zero(grid))
    limits = [call.literal(np.float32(int(code) - zero)) for code in (low, high)]
    return call.rounded(call.write("Clip", steps, *limits), grid)


def lookup(call: FastCall, table: str, indices: str) -> str:
    """The entries of the constant ``table`` (entries,) at ``indices``, int32, negative ones from its end.

    GatherElements on one axis is the quick one of ONNX Runtime's lookups.
    """
    flat = call.write("Reshape", indices, call.literal([-1], np.int64))
    found = call.write("GatherElements", table, flat, axis=0)
    return call.write("Reshape", found, call.write("Shape", indices))


TABLES: Mapping[str, Lowering] = dict.fromkeys(UNARY, tabulated)
