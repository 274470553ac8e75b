"""Functions of several values: one float32 operation on real values, which IEEE 754 rounds alike everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np

from npukit.backend import FastCall, Lowering, Operand


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


ELEMENTWISE: Mapping[str, Lowering] = {
    "Add": _chain("Add"),
    "Div": div,
    "Max": _chain("Max"),
    "Min": _chain("Min"),
    "Mul": _chain("Mul"),
    "PRelu": _chain("PRelu"),
    "Sub": _chain("Sub"),
    "Sum": _chain("Add"),
}
