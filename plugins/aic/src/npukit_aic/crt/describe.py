"""Descriptions of bindings as bytes, between ``Qpc.getIoDescriptor`` and ``QAicApi_pb2.IoDesc``.

The bytes are JSON and a matter of these two alone: nothing else reads them.
"""

# ruff: noqa: N802  the names are those of the API

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from npukit.encoding import Encoding
from npukit_aic.crt.status import CallError, QStatus
from npukit_aic.qpc import Binding

BUFFER_IO_TYPE_INVALID, BUFFER_IO_TYPE_INPUT, BUFFER_IO_TYPE_OUTPUT = 0, 1, 2
FLOAT_TYPE, FLOAT_16_TYPE, INT8_Q_TYPE, UINT8_Q_TYPE, INT16_Q_TYPE, INT32_Q_TYPE = 0, 1, 2, 3, 4, 5
INT32_I_TYPE, INT64_I_TYPE, INT8_TYPE, BFLOAT16_TYPE = 6, 7, 8, 11
TYPES = {
    "float32": FLOAT_TYPE,
    "float16": FLOAT_16_TYPE,
    "int8": INT8_Q_TYPE,
    "uint8": UINT8_Q_TYPE,
    "int16": INT16_Q_TYPE,
    "int32": INT32_I_TYPE,
    "int64": INT64_I_TYPE,
    "bool": INT8_TYPE,
    "bfloat16": BFLOAT16_TYPE,
}
"""The types of buffers by their names in numpy."""


@attrs.define
class IoShape:
    """A binding in one specialization."""

    type: int
    dims: list[int]


@attrs.define
class IoShapes:
    """All bindings in one specialization, by index."""

    shapes: list[IoShape]


@attrs.define
class IoBinding:
    """A binding; ``size`` in bytes and ``dims`` are those of the first specialization. Real values are
    ``quant_scale * (q - quant_offset)`` where a buffer holds codes."""

    name: str
    index: int
    type: int
    dir: int
    size: int
    dims: list[int]
    quant_scale: float
    quant_offset: int
    is_partial_buf_allowed: bool


@attrs.define
class IoSet:
    """Bindings by index."""

    bindings: list[IoBinding] = attrs.field(factory=list)


@attrs.define
class IoDesc:
    """What a compiled model takes and gives: the specializations it has, and the bindings as they are in the first one."""

    allowed_shapes: list[IoShapes] = attrs.field(factory=list)
    selected_set: IoSet = attrs.field(factory=IoSet)

    def ParseFromString(self, serialized: bytes) -> int:
        """Become what ``Qpc.getIoDescriptor`` gave; returns the number of bytes. Raises ValueError for anything else."""
        try:
            found = json.loads(bytes(serialized))
            shapes = [IoShapes([IoShape(**shape) for shape in row["shapes"]]) for row in found["allowed_shapes"]]
            bindings = [IoBinding(**binding) for binding in found["bindings"]]
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
            raise ValueError("these bytes are no description of bindings: Qpc.getIoDescriptor gives one") from None
        self.allowed_shapes, self.selected_set = shapes, IoSet(bindings)
        return len(serialized)


def dims(shape: Sequence[int]) -> list[int]:
    """The dimensions of a buffer: a scalar has one value along one dimension."""
    return list(shape) or [1]


def described(bindings: Sequence[Binding], encodings: Mapping[str, Encoding], skippable: Collection[int]) -> bytes:
    """Bindings as IoDesc reads them. ``skippable`` are the indices of those that a caller may leave out.

    Raises CallError for a binding of a type that no buffer has.
    """
    count = len(bindings[0].shapes) if bindings else 0
    shapes = [{"shapes": [_shape(binding, k) for binding in bindings]} for k in range(count)]
    rows = [{**_row(b, encodings.get(b.name)), "is_partial_buf_allowed": b.index in skippable} for b in bindings]
    return json.dumps({"allowed_shapes": shapes, "bindings": rows}).encode()


def type_of(binding: Binding) -> int:
    """The type of a binding's buffer. Raises CallError when there is none for it."""
    name = str(binding.dtype)
    if name not in TYPES:
        raise CallError(f"'{binding.name}' is {name}, which no buffer can be", QStatus.QS_UNSUPPORTED, hint=", ".join(TYPES))
    return TYPES[name]


def _shape(binding: Binding, specialization: int) -> dict[str, Any]:
    return {"type": type_of(binding), "dims": dims(binding.shapes[specialization])}


def _row(binding: Binding, encoding: Encoding | None) -> dict[str, Any]:
    row = {**_shape(binding, 0), "name": binding.name, "index": binding.index, "quant_scale": 1.0, "quant_offset": 0}
    row["dir"] = BUFFER_IO_TYPE_INPUT if binding.is_input else BUFFER_IO_TYPE_OUTPUT
    row["size"] = int(np.prod(binding.shapes[0], dtype=np.int64)) * binding.dtype.itemsize
    if encoding is not None and encoding.dtype == str(binding.dtype) and encoding.granularity == "tensor":  # it holds codes
        row |= {"quant_scale": float(encoding.steps), "quant_offset": int(encoding.zeros)}
    return row
