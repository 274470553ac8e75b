"""Functions of several values: one float32 operation on real values, which IEEE 754 rounds alike everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np

from npukit.backend import FastCall, Lowering, Operand
from npukit.backend.kernels import along_channels
from npukit.backend.library.kernels.norm import folded_normalization


def _operands(call: FastCall) -> list[Operand | str] | None:
    """All inputs as real values; None when one of them or the output has no grid."""
    indices = range(len(call.node.inputs))
    if call.wanted() is None or not all(_is_real(call, i) for i in indices):
        return None
    return [call.real(i) for i in indices]


def _is_real(call: FastCall, index: int) -> bool:
    constant = call.constant(index)
    return call.encoding(index) is not None if constant is None else constant.real().dtype == np.float32


def _chain(op: str) -> Lowering:
    def run(call: FastCall) -> bool:
        operands, out = _operands(call), call.wanted()
        if operands is None or out is None:
            return False
        return call.give(call.quantized(reduce(lambda a, b: call.write(op, a, b), operands), out))

    return run


def div(call: FastCall) -> bool:
    """Div by a constant without zeros; 0 / 0 has no code that all agree on."""
    divisor = call.constant(1)
    return divisor is not None and bool(np.all(divisor.real())) and _chain("Div")(call)


def batch_normalization(call: FastCall) -> bool:
    """BatchNormalization in inference form, with constants."""
    constants, out, rank = [call.constant(i) for i in range(1, 5)], call.wanted(), len(call.shape(0) or ())
    if out is None or not rank or not _is_real(call, 0) or len(call.node.outputs) > 1:
        return False
    values = [value for value in constants if value is not None]
    if len(values) < len(constants):
        return False
    factor, shift = (call.literal(along_channels(v, rank)) for v in folded_normalization(call.node, *values))
    return call.give(call.quantized(call.write("Add", call.write("Mul", call.real(0), factor), shift), out))


ELEMENTWISE: Mapping[str, Lowering] = {
    "Add": _chain("Add"),
    "BatchNormalization": batch_normalization,
    "Div": div,
    "Max": _chain("Max"),
    "Min": _chain("Min"),
    "Mul": _chain("Mul"),
    "PRelu": _chain("PRelu"),
    "Sub": _chain("Sub"),
    "Sum": _chain("Add"),
}
