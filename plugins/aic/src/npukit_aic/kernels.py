"""The kernels: those of the library, and what is different on the chip; float32 on ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from npukit.backend import Call, FastCall, Kernel, Lowering, Result
from npukit.backend.kernels import tabulate
from npukit.backend.library import KERNELS as LIBRARY
from npukit.encoding import Array, Encoding, dequantize, quantize
from npukit_aic.glow.params import choose

# The ranges of the 256 entries that Glow's tables of these functions have, in and out (pytorch/glow, Apache-2.0).
_TABLES: Mapping[str, tuple[Callable[[Array], Array], tuple[float, float], tuple[float, float]]] = {
    "Tanh": (np.tanh, (-3.0, 3.0), (-1.0, 1.0)),
    "Sigmoid": (lambda x: 0.5 * (np.tanh(0.5 * x) + 1), (-6.0, 6.0), (0.0, 1.0)),
}


def _tabled(op: str) -> Kernel:
    """A function by way of its table: on codes the input is put on the table's grid, and the result on the output's."""
    function, taken, given = _TABLES[op]

    def run(call: Call) -> Sequence[Result]:
        if call.type != "int":
            return LIBRARY[op](call)
        return tabulate(call, lambda x: _on_grid(function(_on_grid(x, taken)), given))

    return run


def _on_grid(values: Array, span: tuple[float, float]) -> Array:
    """Real values as an int8 grid over ``span`` holds them."""
    params = choose(*span, "asymmetric")
    grid = Encoding("int8", params.scale, params.offset)
    return dequantize(quantize(values.astype(np.float32), grid), grid).astype(np.float64)


def erf(call: Call) -> Sequence[Result]:
    """The error function; in float16 by a table of all 65,536 values."""
    x = call.value(0).real()
    if call.type == "float16":
        return [_erf_of_halves()[x.astype(np.float16).view(np.uint16)]]
    return [np.vectorize(math.erf, otypes=[np.float32])(x)]


@lru_cache(maxsize=1)
def _erf_of_halves() -> Array:
    """erf of every float16, by its bits."""
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    found: Array = np.vectorize(math.erf, otypes=[np.float32])(values)
    return found


KERNELS: Mapping[str, Kernel] = {**LIBRARY, **{op: _tabled(op) for op in _TABLES}, "Erf": erf}
"""Every op that has a kernel; what computes in float may have none."""


def _as_it_is(call: FastCall) -> bool:
    """A node of a float32 model as ONNX Runtime computes it: nothing of the chip is to be seen there, and sums have no order."""
    if not call.is_float32:
        return False
    inputs = [call.real(i) if call.has_real(i) else call.plain(i) for i in range(len(call.node.inputs))]
    made = call.write_many(call.node.op, *inputs, outputs=len(call.node.outputs), **call.node.attributes)
    return all(call.give_real(name, index) for index, name in enumerate(made) if call.node.outputs[index])


# They came with opset 23, and segments have 21.
_NEWER = {"RMSNormalization", "RotaryEmbedding", "SimplifiedLayerNormalization"}
FLOAT32: Mapping[str, Lowering] = dict.fromkeys((op for op in (*LIBRARY, "Erf") if "." not in op and op not in _NEWER), _as_it_is)
"""Every op that runs on ONNX Runtime in a float32 model."""
