"""The kernels and their fast forms: those of the library, but for products of two activations of 16 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from npukit.backend import Call, FastCall, Kernel, Lowering, Result, Value, library
from npukit.backend.kernels import centered
from npukit.backend.library import Requantizer, einsum, is_matmul, lowerings_of, matmul
from npukit.encoding import Encoding

# How many steps of uint16 are one of uint8 over the same range.
_RATIO = 257


def product(call: Call) -> Sequence[Result]:
    """MatMul with its right operand as the chip takes it."""
    return matmul(attrs.evolve(call, inputs=(call.value(0), as_bytes(call.value(1)))))


def einstein(call: Call) -> Sequence[Result]:
    """Einsum: one that is a MatMul as such (onnxruntime-qnn, MIT, builder/opbuilder does the same)."""
    return product(call) if is_matmul(str(call.node.get("equation"))) else einsum(call)


def as_bytes(b: Value) -> Value:
    """The right operand as the product takes it: one of uint16 that is no constant is converted to uint8 over the same range.

    So does the execution provider: builder/opbuilder/matmul_op_builder.cc of onnxruntime (MIT), with the range of utils.cc,
    GetQuantParams: 257 times the scale, the zero point rounded. (A later version converts to symmetric 16 bits instead.)
    """
    narrow = None if b.is_constant else _narrow(b.encoding)
    if narrow is None:
        return b
    codes = np.rint(centered(b).astype(np.float64) / _RATIO) + narrow.zeros
    return Value(np.clip(codes, 0, 255).astype(np.uint8), narrow)


def _narrow(encoding: Encoding | None) -> Encoding | None:
    """The grid of uint8 that a right operand of uint16 gets."""
    if encoding is None or encoding.dtype != "uint16" or encoding.granularity != "tensor":
        return None
    return Encoding("uint8", encoding.steps * np.float32(_RATIO), np.rint(encoding.zeros / _RATIO).astype(np.int64))


def lowerings(requantizer: Requantizer) -> Mapping[str, Lowering]:
    """The library's fast forms, with ``product`` for MatMul.

    In float32 the quotient of a right operand rounds to the code that it has in float64: an integer over 257 is 1/514 or more from
    the middle between two.
    """
    found = lowerings_of(requantizer)

    def lowered(call: FastCall) -> bool:
        narrow = None if call.constant(1) is not None else _narrow(call.encoding(1))
        if narrow is None or call.constant(0) is not None:
            return found["MatMul"](call)
        codes = call.rounded(call.write("Div", call.integers(1), call.literal(np.float32(_RATIO))), narrow)
        right = call.write("DequantizeLinear", codes, call.literal(np.float32(1)), call.zero(narrow))
        return library.product(call, requantizer, right, narrow)

    return {**found, "MatMul": lowered}


KERNELS: Mapping[str, Kernel] = {**library.KERNELS, "Einsum": einstein, "MatMul": product}
"""Every op that has a kernel; those outside the default ONNX domain with the domain in front."""
