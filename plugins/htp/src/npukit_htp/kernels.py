"""The kernels: those of the library, but for products of two activations of 16 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from npukit.backend import Call, Kernel, Result, Value, library
from npukit.backend.kernels import centered
from npukit.backend.library import einsum, is_matmul, matmul
from npukit.encoding import Encoding


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
    encoding = b.encoding
    if encoding is None or b.is_constant or encoding.dtype != "uint16" or encoding.granularity != "tensor":
        return b
    narrow = Encoding("uint8", encoding.steps * np.float32(257), np.rint(encoding.zeros / 257).astype(np.int64))
    codes = np.rint(centered(b).astype(np.float64) / 257) + narrow.zeros
    return Value(np.clip(codes, 0, 255).astype(np.uint8), narrow)


KERNELS: Mapping[str, Kernel] = {**library.KERNELS, "Einsum": einstein, "MatMul": product}
"""Every op that has a kernel; those outside the default ONNX domain with the domain in front."""
