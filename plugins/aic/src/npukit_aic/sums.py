"""Sums of products that are rounded to float16 after every addition: the least that an accumulator could be.

How wide the chip's accumulator is, is not public. The setting ``accumulate`` chooses between sums that are rounded once and these,
which bound what a narrow one would do. Terms are added in the order of the weight's inputs: channels, then kernel positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from npukit.backend import Call, Kernel, Result
from npukit.backend.kernels import along_channels, sliding_window
from npukit.backend.library import KERNELS
from npukit.encoding import Array


def _product(a: Array, b: Array) -> Array:
    """The matrix product of (..., M, K) and (..., K, N), float16 in and out; one step per term, each for all elements at once."""
    total = np.zeros((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), np.float16)
    for k in range(a.shape[-1]):
        total += a[..., :, k : k + 1] * b[..., k : k + 1, :]
    return total


def _half(call: Call, index: int) -> Array:
    return call.value(index).real().astype(np.float16)


def matmul(call: Call) -> Sequence[Result]:
    """ONNX MatMul."""
    a, b = _half(call, 0), _half(call, 1)
    rows, columns = a.ndim > 1, b.ndim > 1
    total = _product(a if rows else a[None], b if columns else b[:, None])
    total = total if rows else total[..., 0, :]
    return [(total if columns else total[..., 0]).astype(np.float32)]


def gemm(call: Call) -> Sequence[Result]:
    """ONNX Gemm, with alpha and beta applied in float16 as well."""
    node = call.node
    a, b = _half(call, 0), _half(call, 1)
    total = _product(a.T if node.get("transA", 0) else a, b.T if node.get("transB", 0) else b)
    total = total * np.float16(node.get("alpha", 1.0))
    if call.optional(2) is not None:
        total = total + _half(call, 2) * np.float16(node.get("beta", 1.0))
    return [total.astype(np.float32)]


def conv(call: Call) -> Sequence[Result]:
    """ONNX Conv over any number of spatial axes."""
    x, w, groups = _half(call, 0), _half(call, 1), int(call.node.get("group", 1))
    window = sliding_window(call.node, x.shape[2:], w.shape[2:])
    columns = window.columns(window.padded(x)).reshape(x.shape[0], groups, -1, int(np.prod(window.out)))
    total = _product(w.reshape(groups, w.shape[0] // groups, -1), columns).reshape(x.shape[0], w.shape[0], *window.out)
    if call.optional(2) is not None:
        total = total + along_channels(_half(call, 2), total.ndim)
    return [total.astype(np.float32)]


def _in_half(op: str, kernel: Kernel) -> Kernel:
    """``kernel`` for nodes that compute in float16, the library's for others."""
    return lambda call: kernel(call) if call.type == "float16" else KERNELS[op](call)


HALF_SUMS: Mapping[str, Kernel] = {
    op: _in_half(op, kernel) for op, kernel in {"Conv": conv, "Gemm": gemm, "MatMul": matmul}.items()
}
"""The ops with such sums."""
