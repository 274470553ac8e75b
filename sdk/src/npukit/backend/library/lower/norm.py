"""Softmax and the normalizations: the steps of the kernels in float64, on codes and for nodes that compute in float16.

On codes all sums are exact, and what follows them is one operation of IEEE 754 at a time. Real values are float16 numbers here,
whose results are rounded to 11 bits: what sums, exponentials and logarithms of float64 differ by is lost there, as in
``npukit.backend.library.lower.real``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from npukit.backend import FastCall, Lowering, Operand
from npukit.backend.kernels import EXACT_FLOAT64, along_channels, largest
from npukit.backend.library.kernels.norm import epsilon_on, powers_below
from npukit.backend.library.lower.tables import lookup
from npukit.encoding import Encoding

_FLOAT, _INT32, _DOUBLE = 1, 6, 11  # TensorProto
_MOST_POWERS = 2**23


def _is_exact(call: FastCall) -> bool:
    """Whether the node computes in codes, or in float16 on real values."""
    return call.encoding(0) is not None if call.type == "int" else call.type == "float16" and call.has_real(0)


def _grid(call: FastCall) -> Encoding | None:
    """The grid of the codes that the node computes in; None when these are real values."""
    return call.encoding(0) if call.type == "int" else None


def _count(call: FastCall, axes: tuple[int, ...]) -> int | None:
    """How many elements there are along ``axes``, when it is known."""
    sizes = [size for axis, size in enumerate(call.shape(0) or ()) if axis in axes and isinstance(size, int)]
    return math.prod(sizes) if len(sizes) == len(axes) else None


def _double(call: FastCall, value: float) -> str:
    return call.literal(value, np.float64)


def _wide(call: FastCall, values: Operand | str) -> str:
    return call.write("Cast", values, to=_DOUBLE)


def _give(call: FastCall, values: str) -> bool:
    return call.give_real(call.write("Cast", values, to=_FLOAT))


# ---------------------------------------------------------------------------------------------------------------- powers


def _along_axis(function: Callable[[FastCall, str, str], str]) -> Lowering:
    """``function(call, d, axes)``; d is how far below the maximum of the axis the input is, in int32 codes or float64."""

    def run(call: FastCall) -> bool:
        rank = len(call.shape(0) or ())
        if not rank or not _is_exact(call):
            return False
        axis = int(call.node.get("axis", -1)) % rank
        if (_count(call, (axis,)) or _MOST_POWERS + 1) > _MOST_POWERS:
            return False
        axes = call.literal([axis], np.int64)
        x = _wide(call, call.real(0)) if _grid(call) is None else call.write("Cast", call.codes(0), to=_INT32)
        return _give(call, function(call, call.write("Sub", call.write("ReduceMax", x, axes), x), axes))

    return run


def _powers(call: FastCall, below: str) -> str:
    grid = _grid(call)
    return call.write("Exp", call.write("Neg", below)) if grid is None else lookup(call, call.literal(powers_below(grid)), below)


def _softmax(call: FastCall, below: str, axes: str) -> str:
    powers = _powers(call, below)
    total = call.write("ReduceSum", _wide(call, powers), axes)
    return call.write("Div", powers, total if _grid(call) is None else call.write("Cast", total, to=_FLOAT))


def _log_softmax(call: FastCall, below: str, axes: str) -> str:
    grid = _grid(call)
    shifted = call.write("Mul", _wide(call, below), _double(call, -1.0 if grid is None else -float(grid.steps)))
    return call.write("Sub", shifted, call.write("Log", call.write("ReduceSum", _wide(call, _powers(call, below)), axes)))


# ---------------------------------------------------------------------------------------------------------------- deviations


def _summable(call: FastCall, axes: tuple[int, ...]) -> int | None:
    """How many elements there are along ``axes`` when sums of their squares are exact."""
    grid, count = _grid(call), _count(call, axes)
    if count is None or not _is_exact(call):
        return None
    return count if grid is None or count * largest(grid) ** 2 <= EXACT_FLOAT64 else None


def _elements(call: FastCall) -> str:
    """The input as float64: integers or real values."""
    return _wide(call, call.real(0) if _grid(call) is None else call.integers(0))


def _epsilon(call: FastCall) -> str:
    epsilon, grid = float(call.node.get("epsilon", 1e-5)), _grid(call)
    return _double(call, epsilon if grid is None else epsilon_on(grid, epsilon))


def _standardized(call: FastCall, axes: tuple[int, ...], count: int) -> str:
    """The input less its mean, over its standard deviation."""
    x, over, n = _elements(call), call.literal(axes, np.int64), _double(call, count)
    total = call.write("ReduceSum", x, over)
    apart = call.write("Sub", x, call.write("Div", total, n))
    if _grid(call) is None:
        variance = call.write("Div", call.write("ReduceSum", call.write("Mul", apart, apart), over), n)
    else:
        squares = call.write("ReduceSum", call.write("Mul", x, x), over)
        spread = call.write("Sub", call.write("Mul", squares, n), call.write("Mul", total, total))
        variance = call.write("Div", call.write("Max", spread, _double(call, 0)), _double(call, count * count))
    return call.write("Div", apart, call.write("Sqrt", call.write("Add", variance, _epsilon(call))))


def _last_axes(call: FastCall) -> tuple[int, ...]:
    rank = len(call.shape(0) or ())
    return tuple(range(int(call.node.get("axis", -1)) % rank, rank)) if rank else ()


def _scaled(call: FastCall, values: str) -> bool:
    """Times input 1, plus input 2 when there is one."""
    values = call.write("Mul", values, _wide(call, call.real(1)))
    return _give(call, call.write("Add", values, _wide(call, call.real(2))) if call.has(2) else values)


def layer_normalization(call: FastCall) -> bool:
    """LayerNormalization without its optional outputs."""
    axes = _last_axes(call)
    count = _summable(call, axes) if axes and len(call.node.outputs) == 1 else None
    if count is None or not all(call.has_real(i) for i in (1, 2) if call.has(i)):
        return False
    return _scaled(call, _standardized(call, axes, count))


def rms_normalization(call: FastCall) -> bool:
    """RMSNormalization and SimplifiedLayerNormalization."""
    axes = _last_axes(call)
    count = _summable(call, axes) if axes and len(call.node.outputs) == 1 and not call.has(2) else None
    if count is None or not call.has_real(1):
        return False
    x = _elements(call)
    squares = call.write("ReduceSum", call.write("Mul", x, x), call.literal(axes, np.int64))
    mean = call.write("Div", squares, _double(call, count))
    return _scaled(call, call.write("Div", x, call.write("Sqrt", call.write("Add", mean, _epsilon(call)))))


def instance_normalization(call: FastCall) -> bool:
    """InstanceNormalization with a constant scale and bias."""
    rank = len(call.shape(0) or ())
    scale, bias = call.real_constant(1), call.real_constant(2)
    count = _summable(call, tuple(range(2, rank)))
    if count is None or scale is None or bias is None:
        return False
    normal = _standardized(call, tuple(range(2, rank)), count)
    factor, shift = (call.literal(along_channels(v, rank), np.float64) for v in (scale, bias))
    return _give(call, call.write("Add", call.write("Mul", normal, factor), shift))


NORM: Mapping[str, Lowering] = {
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "LogSoftmax": _along_axis(_log_softmax),
    "RMSNormalization": rms_normalization,
    "SimplifiedLayerNormalization": rms_normalization,
    "Softmax": _along_axis(_softmax),
}
"""Lowerings for nodes that compute in codes and for those that compute in float16."""
