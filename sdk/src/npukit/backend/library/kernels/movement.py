"""Ops that only move elements: codes stay as they are when the grid does, else the values are rounded to the new grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from npukit.backend import Call, Kernel, Result, Value
from npukit.backend.kernels import move, place, requantized, same_grid
from npukit.encoding import Array


def _ints(value: Value | None) -> list[int] | None:
    return None if value is None else [int(v) for v in np.ravel(value.data)]


def identity(call: Call) -> Sequence[Result]:
    return move(call, lambda x: x)[:1]


def reshape(call: Call) -> Sequence[Result]:
    """ONNX Reshape: 0 keeps a dimension unless allowzero, -1 is inferred."""
    shape, source = _ints(call.value(1)) or [], call.value(0).data.shape
    if not call.node.get("allowzero", 0):
        shape = [source[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return move(call, lambda x: x.reshape(shape))


def flatten(call: Call) -> Sequence[Result]:
    """ONNX Flatten to two dimensions before and from ``axis``."""
    shape = call.value(0).data.shape
    axis = int(call.node.get("axis", 1))
    axis += len(shape) if axis < 0 else 0
    rows = int(np.prod(shape[:axis], dtype=np.int64))
    return move(call, lambda x: x.reshape(rows, -1) if x.size else x.reshape(rows, int(np.prod(shape[axis:]))))


def squeeze(call: Call) -> Sequence[Result]:
    axes = _ints(call.optional(1))
    return move(call, lambda x: np.squeeze(x, None if axes is None else tuple(axes)))


def unsqueeze(call: Call) -> Sequence[Result]:
    axes = tuple(_ints(call.value(1)) or ())
    return move(call, lambda x: np.expand_dims(x, axes))


def transpose(call: Call) -> Sequence[Result]:
    permutation = call.node.get("perm")
    return move(call, lambda x: np.ascontiguousarray(np.transpose(x, permutation)))


def expand(call: Call) -> Sequence[Result]:
    """ONNX Expand: two-way broadcasting with the shape input."""
    shape = np.broadcast_shapes(call.value(0).data.shape, tuple(_ints(call.value(1)) or ()))
    return move(call, lambda x: np.broadcast_to(x, shape))


def tile(call: Call) -> Sequence[Result]:
    repeats = _ints(call.value(1)) or []
    return move(call, lambda x: np.tile(x, repeats))


def concat(call: Call) -> Sequence[Result]:
    """ONNX Concat; inputs on another grid than the output are requantized one by one."""
    out, axis = call.outputs[0], int(call.node.get("axis", 0))
    values = [v for v in call.inputs if v is not None]
    if all(same_grid(v.encoding, out) for v in values):
        return [Value(np.concatenate([v.data for v in values], axis), out)]
    if out is None or out.is_float:
        return [np.concatenate([v.real() for v in values], axis)]
    return [Value(np.concatenate([requantized(v, out).data for v in values], axis), out)]


def split(call: Call) -> Sequence[Result]:
    """ONNX Split: sizes from the input, or equal parts of which the last may be smaller."""
    value, axis, sizes = call.value(0), int(call.node.get("axis", 0)), _ints(call.optional(1))
    length, parts = value.data.shape[axis], len(call.outputs)
    if sizes is None:
        step = -(-length // parts)
        sizes = [max(0, min(step, length - index * step)) for index in range(parts)]
    edges = [0, *np.cumsum(sizes)]
    lead = (slice(None),) * (axis % value.data.ndim)

    def piece(index: int) -> tuple[slice, ...]:
        return (*lead, slice(edges[index], edges[index + 1]))

    return [place(value, lambda x, index=index: x[piece(index)], out) for index, out in enumerate(call.outputs)]  # type: ignore[misc]


def slice_(call: Call) -> Sequence[Result]:
    """ONNX Slice with its clamping of starts and ends."""
    shape = call.value(0).data.shape
    starts, ends = _ints(call.value(1)) or [], _ints(call.value(2)) or []
    axes = _ints(call.optional(3)) or list(range(len(starts)))
    steps = _ints(call.optional(4)) or [1] * len(starts)
    index: list[slice] = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = shape[axis]
        # A negative end past the first element means "to the beginning", which Python writes as None.
        stop = None if step < 0 and end < -size else end
        index[axis] = slice(start, stop, step)
    return move(call, lambda x: x[tuple(index)])


def gather(call: Call) -> Sequence[Result]:
    axis, indices = int(call.node.get("axis", 0)), call.value(1).data
    return move(call, lambda x: np.take(x, np.where(indices < 0, indices + x.shape[axis], indices), axis))


def gather_elements(call: Call) -> Sequence[Result]:
    axis, indices = int(call.node.get("axis", 0)), call.value(1).data
    return move(call, lambda x: np.take_along_axis(x, np.where(indices < 0, indices + x.shape[axis], indices), axis))


def gather_nd(call: Call) -> Sequence[Result]:
    """ONNX GatherND with batch_dims."""
    batch, indices = int(call.node.get("batch_dims", 0)), call.value(1).data

    def pick(x: Array) -> Array:
        lead = np.ogrid[tuple(slice(n) for n in x.shape[:batch])] if batch else []
        inner = indices.ndim - 1 - batch
        lead = [axis.reshape(*axis.shape, *[1] * inner) for axis in lead]
        return np.asarray(x[(*lead, *np.moveaxis(indices, -1, 0))])

    return move(call, pick)


def depth_to_space(call: Call) -> Sequence[Result]:
    """ONNX DepthToSpace in its DCR and CRD orders."""
    block, crd = int(call.node.get("blocksize", 1)), call.node.get("mode", "DCR") == "CRD"

    def spread(x: Array) -> Array:
        n, c, h, w = x.shape
        depth = c // (block * block)
        if crd:
            parts = x.reshape(n, depth, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
        else:
            parts = x.reshape(n, block, block, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
        return parts.reshape(n, depth, h * block, w * block)

    return move(call, spread)


def space_to_depth(call: Call) -> Sequence[Result]:
    block = int(call.node.get("blocksize", 1))

    def fold(x: Array) -> Array:
        n, c, h, w = x.shape
        parts = x.reshape(n, c, h // block, block, w // block, block).transpose(0, 3, 5, 1, 2, 4)
        return parts.reshape(n, c * block * block, h // block, w // block)

    return move(call, fold)


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def pad(call: Call) -> Sequence[Result]:
    """ONNX Pad: constant, reflect, edge or wrap; negative pads crop. The constant is rounded to the grid."""
    value, out = call.value(0), call.outputs[0]
    rank = value.data.ndim
    amounts, axes = _ints(call.value(1)) or [], _ints(call.optional(3)) or list(range(rank))
    widths = [(0, 0)] * rank
    for index, axis in enumerate(axes):
        widths[axis] = (amounts[index], amounts[index + len(axes)])
    fill = call.optional(2)
    constant = np.float32(0) if fill is None else np.ravel(fill.real())[0]

    def extend(x: Array) -> Array:
        x = x[tuple(slice(max(0, -begin), n - max(0, -end)) for n, (begin, end) in zip(x.shape, widths, strict=True))]
        grow = [(max(0, begin), max(0, end)) for begin, end in widths]
        mode: Any = _PAD_MODES[call.node.get("mode", "constant")]
        if mode != "constant":
            return np.pad(x, grow, mode=mode)
        codes = value.encoding is not None and not value.encoding.is_float and x.dtype == value.data.dtype
        return np.pad(x, grow, constant_values=_code(constant, value) if codes else constant)

    return [place(value, extend, out)]


def _code(constant: Any, value: Value) -> int:
    assert value.encoding is not None
    encoding = value.encoding
    code = np.rint(float(constant) / float(encoding.steps)) + int(encoding.zeros)
    return int(np.clip(code, encoding.qmin, encoding.qmax))


def cast(call: Call) -> Sequence[Result]:
    """ONNX Cast between the types of ``to``; a float output is then rounded to its grid, if it has one."""
    kinds = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
             11: "float64", 12: "uint32", 13: "uint64"}  # fmt: skip
    target = kinds.get(int(call.node.get("to", 1)), "float32")
    return [call.value(0).real().astype(target)]


def shape(call: Call) -> Sequence[Result]:
    """ONNX Shape with start and end."""
    sizes = call.value(0).data.shape
    start, end = call.node.get("start", 0), call.node.get("end")
    return [np.array(sizes[slice(start, end)], np.int64)]


def constant_of_shape(call: Call) -> Sequence[Result]:
    fill = call.node.get("value")
    fill = np.zeros(1, np.float32) if fill is None else np.ravel(fill)
    return [np.full(_ints(call.value(0)) or (), fill[0], fill.dtype)]


MOVEMENT: Mapping[str, Kernel] = {
    "Cast": cast,
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "DepthToSpace": depth_to_space,
    "Dropout": identity,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Identity": identity,
    "Pad": pad,
    "Reshape": reshape,
    "Shape": shape,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
