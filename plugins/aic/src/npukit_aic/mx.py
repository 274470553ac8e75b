"""MXFP6: blocks of 32 six-bit floats that share a power of two (OCP Microscaling Formats v1.0, sections 5.3.2 and 6.3).

The format has two kinds of elements; E2M3 is taken, the one with the smaller error on weights. Which one the card has is not
public.
"""

from __future__ import annotations

import attrs
import numpy as np

from npukit.encoding import Array
from npukit.graph import Graph, Node, Tensor

BLOCK = 32
_LARGEST, _EXPONENT, _MANTISSA = 7.5, 2, 3  # of E2M3: the largest value, its exponent, bits behind the point


def mxfp6(values: Array, axis: int) -> Array:
    """``values`` (float, any shape) rounded to MXFP6 with blocks along ``axis``, in their dtype."""
    moved = np.moveaxis(np.asarray(values, np.float32), axis, -1)
    size = moved.shape[-1]
    padded = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, -size % BLOCK)]).reshape(*moved.shape[:-1], -1, BLOCK)
    largest = np.abs(padded).max(axis=-1, keepdims=True)
    shared = np.clip(np.frexp(largest)[1] - 1 - _EXPONENT, -127, 127)
    scaled = np.ldexp(padded, -shared)
    step = np.ldexp(np.float32(1), np.maximum(np.frexp(scaled)[1] - 1, 0) - _MANTISSA)
    rounded = np.ldexp(np.clip(np.rint(scaled / step) * step, -_LARGEST, _LARGEST), shared)
    found = np.moveaxis(rounded.reshape(*moved.shape[:-1], -1)[..., :size], -1, axis)
    return np.ascontiguousarray(found, dtype=values.dtype)


def with_mxfp6(graph: Graph) -> tuple[Graph, int]:
    """The graph with the constant weights of its matrix products in MXFP6, blocks along the summed axis, and how many these are.

    A weight that other nodes read keeps its values there: the product gets one of its own.
    """
    nodes, made = [], []
    for node in graph.nodes:
        axis = _summed(graph, node)
        if axis is not None:
            weight = graph.tensor(node.inputs[1])
            assert weight.data is not None  # only constants have a summed axis here
            alone = len(graph.consumers[weight.name]) == 1 and weight.name not in graph.outputs
            name = weight.name if alone else f"{node.outputs[0]}.mxfp6"
            made.append(Tensor.constant(name, mxfp6(weight.data, axis)))
            node = attrs.evolve(node, inputs=(node.inputs[0], name, *node.inputs[2:]))
        nodes.append(node)
    return graph.with_tensors(made).evolve(nodes=tuple(nodes)), len(made)


def _summed(graph: Graph, node: Node) -> int | None:
    """The axis that a matrix product sums its constant weight over, None for other nodes."""
    if node.op not in ("MatMul", "Gemm") or node.domain or not graph.is_constant(node.inputs[1]):
        return None
    rank = len(graph.tensor(node.inputs[1]).shape or ())
    return None if rank < 2 else rank - 1 if node.get("transB", 0) else rank - 2
