"""Ops that only move elements, on codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from npukit.backend import FastCall, Lowering, Operand, Value
from npukit.backend.library.kernels.movement import _code
from npukit.encoding import container


def _stays(call: FastCall) -> bool:
    """Whether all outputs have the grid of the first input, and all other inputs are constant."""
    x, outputs = call.encoding(0), [call.wanted(i) for i in range(len(call.node.outputs))]
    if x is None or any(out is None or not out.same_grid(x) for out in outputs):
        return False
    return not any(call.has(i) and call.constant(i) is None for i in range(1, len(call.node.inputs)))


def identity(call: FastCall) -> bool:
    """The codes themselves."""
    return _stays(call) and call.give(call.codes(0))


def moved(call: FastCall) -> bool:
    """The op itself on codes."""
    if not _stays(call):
        return False
    inputs = (call.codes(0), *(call.plain(i) for i in range(1, len(call.node.inputs))))
    made = call.write_many(call.node.op, *inputs, outputs=len(call.node.outputs), **call.node.attributes)
    return all(call.give(name, index) for index, name in enumerate(made))


def concat(call: FastCall) -> bool:
    """Concat of pieces that are brought to the grid of the output one by one."""
    out, pieces = call.wanted(), []
    for index in range(len(call.node.inputs)):
        encoding = call.encoding(index)
        if encoding is None or out is None:
            return False
        pieces.append(call.codes(index) if encoding.same_grid(out) else call.quantized(call.real(index), out))
    return call.give(call.write("Concat", *pieces, **call.node.attributes))


def narrow(call: FastCall, op: str, *others: Operand | str, **attributes: Any) -> bool:
    """An op on the first input that ONNX Runtime has for uint8, but for no integers of 16 bits: these go through float32."""
    out = call.wanted()
    if out is None or out.bits == 8:
        return call.give(call.write(op, call.codes(0), *others, **attributes))
    return call.give(call.rounded(call.write(op, call.integers(0), *others, **attributes), out))


def blocks(call: FastCall) -> bool:
    """DepthToSpace and SpaceToDepth."""
    return _stays(call) and narrow(call, call.node.op, **call.node.attributes)


def pad(call: FastCall) -> bool:
    """Pad; the constant is the code that the kernel rounds it to."""
    x, given = call.encoding(0), call.constant(2)
    if x is None or not _stays(call):
        return False
    fill = _code(np.float32(0) if given is None else np.ravel(given.real())[0], Value(np.zeros(0), x))
    constant = call.code(fill, x) if x.bits == 8 else call.literal(fill - int(x.zeros), np.float32)
    return narrow(call, "Pad", call.plain(1), constant, call.plain(3), **call.node.attributes)


def resize(call: FastCall) -> bool:
    """Resize that repeats elements a whole number of times along every axis, which the kernel is asked."""
    x, shape = call.encoding(0), call.shape(0) or ()
    sizes = [d for d in shape if isinstance(d, int)]
    if x is None or len(sizes) != len(shape) or not _stays(call):
        return False
    codes = np.random.default_rng(0).integers(x.qmin, x.qmax + 1, sizes).astype(container(x))
    found = call.compute(Value(codes, x), *(call.constant(i) for i in range(1, len(call.node.inputs)))).data
    factors = [after // before for after, before in zip(found.shape, sizes, strict=True)]
    for axis, factor in enumerate(factors):
        codes = codes.repeat(factor, axis)
    if not np.array_equal(codes, found):
        return False
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return narrow(call, "Resize", "", call.literal(factors, np.float32), **attributes)


MOVEMENT: Mapping[str, Lowering] = {
    **dict.fromkeys(
        (
            "Expand",
            "Flatten",
            "Gather",
            "Reshape",
            "Slice",
            "Split",
            "Squeeze",
            "Tile",
            "Transpose",
            "Unsqueeze",
        ),
        moved,
    ),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), blocks),
    "Concat": concat,
    "Dropout": identity,
    "Identity": identity,
    "Pad": pad,
    "Resize": resize,
}
