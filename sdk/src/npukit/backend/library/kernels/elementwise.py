"""Functions of several values, element by element with broadcasting: float32 between the grids, integers as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import TypeAlias

import numpy as np

from npukit.backend import Call, Kernel, Result, Value
from npukit.backend.kernels import same_grid
from npukit.encoding import Array

_Binary: TypeAlias = Callable[[Array, Array], Array]


def _divide(a: Array, b: Array) -> Array:
    """Division; integers truncate toward zero as in ONNX Div."""
    if a.dtype.kind == "f":
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(a / b)
    quotient = a // b
    return np.asarray(quotient + ((a % b != 0) & ((a < 0) != (b < 0))).astype(quotient.dtype))


def _power(a: Array, b: Array) -> Array:
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        return np.asarray(np.power(a, b), a.dtype)


def _binary(function: _Binary) -> Kernel:
    def run(call: Call) -> Sequence[Result]:
        return [function(call.value(0).real(), call.value(1).real())]

    return run


def _variadic(function: _Binary) -> Kernel:
    def run(call: Call) -> Sequence[Result]:
        return [reduce(function, (v.real() for v in call.inputs if v is not None))]

    return run


def total(call: Call) -> Sequence[Result]:
    """ONNX Sum; in float16 every addition is rounded."""
    return [_added(call)]


def mean(call: Call) -> Sequence[Result]:
    """ONNX Mean over its inputs; in float16 their sum times the reciprocal of their number, as the vendor's simulator has it."""
    count = len([v for v in call.inputs if v is not None])
    if call.type == "float16":
        return [_added(call) * np.float32(np.float16(1 / count))]
    return [_added(call) / np.float32(count)]


def _added(call: Call) -> Array:
    values = (v.real() for v in call.inputs if v is not None)
    if call.type != "float16":
        return reduce(np.add, values)
    return reduce(lambda a, b: np.asarray((a + b).astype(np.float16), np.float32), values)


def mod(call: Call) -> Sequence[Result]:
    """ONNX Mod: the sign of the divisor, or of the dividend with fmod=1."""
    function = np.fmod if call.node.get("fmod", 0) else np.mod
    return [function(call.value(0).real(), call.value(1).real())]


def prelu(call: Call) -> Sequence[Result]:
    """x where x >= 0, slope * x elsewhere."""
    x, slope = call.value(0).real(), call.value(1).real()
    return [np.where(x < 0, x * slope, x)]


def where(call: Call) -> Sequence[Result]:
    """Choose by a condition; codes are chosen directly when all grids are equal."""
    condition, a, b, out = call.value(0).data, call.value(1), call.value(2), call.outputs[0]
    if same_grid(a.encoding, b.encoding) and same_grid(a.encoding, out):
        return [Value(np.where(condition, a.data, b.data), out)]
    return [np.where(condition, a.real(), b.real())]


def logical_not(call: Call) -> Sequence[Result]:
    """ONNX Not."""
    return [np.logical_not(call.value(0).data)]


def is_nan(call: Call) -> Sequence[Result]:
    """ONNX IsNaN; a grid has no NaN."""
    return [np.isnan(call.value(0).real())]


def is_inf(call: Call) -> Sequence[Result]:
    """ONNX IsInf with its detect_negative and detect_positive."""
    x = call.value(0).real()
    found = np.zeros(x.shape, bool)
    if call.node.get("detect_positive", 1):
        found |= np.isposinf(x)
    if call.node.get("detect_negative", 1):
        found |= np.isneginf(x)
    return [found]


ELEMENTWISE: Mapping[str, Kernel] = {
    "Add": _binary(np.add),
    "And": _binary(np.logical_and),
    "Div": _binary(_divide),
    "Equal": _binary(np.equal),
    "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal),
    "IsInf": is_inf,
    "IsNaN": is_nan,
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "Max": _variadic(np.maximum),
    "Mean": mean,
    "Min": _variadic(np.minimum),
    "Mod": mod,
    "Mul": _binary(np.multiply),
    "Not": logical_not,
    "Or": _binary(np.logical_or),
    "PRelu": prelu,
    "Pow": _binary(_power),
    "Sub": _binary(np.subtract),
    "Sum": total,
    "Where": where,
    "Xor": _binary(np.logical_xor),
}
