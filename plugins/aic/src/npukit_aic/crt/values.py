"""Plain values: buffers, their dimensions, lists of ids, properties."""

# ruff: noqa: N802, N815  the names are those of the API

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any

import attrs
import numpy as np

from npukit_aic.crt import describe


class BufferIoTypeEnum(IntEnum):
    """Whether a binding is an input or an output."""

    BUFFER_IO_TYPE_INVALID = describe.BUFFER_IO_TYPE_INVALID
    BUFFER_IO_TYPE_INPUT = describe.BUFFER_IO_TYPE_INPUT
    BUFFER_IO_TYPE_OUTPUT = describe.BUFFER_IO_TYPE_OUTPUT


class QIDList(list[int]):
    """Ids of cards."""


class QBuffer(bytearray):
    """A copy of the bytes of an array, or of anything else that has bytes, in C order."""

    def __init__(self, data: Any) -> None:
        super().__init__((data if isinstance(data, np.ndarray) else memoryview(data)).tobytes())

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self)


class BufferDimensionsVecRef(list[tuple[int, Sequence[int]]]):
    """For every binding the bytes of one item and the dimensions; a first dimension of 0 skips the binding."""


@attrs.frozen
class BufferMapping:
    """A binding of a QPC; ``size`` in bytes is that of a buffer which every specialization fits into."""

    index: int
    bufferName: str
    size: int
    ioType: BufferIoTypeEnum
    dataType: int


class InferenceVector:
    """The buffers of one inference, by binding index: those of outputs have their size already, those of inputs are to be set."""

    def __init__(self, mappings: Iterable[BufferMapping]) -> None:
        outputs = BufferIoTypeEnum.BUFFER_IO_TYPE_OUTPUT
        self._buffers = [QBuffer(bytes(m.size if m.ioType == outputs else 0)) for m in mappings]

    def getVector(self) -> list[QBuffer]:
        """The buffers themselves, to be read and replaced."""
        return self._buffers


class QAicQueueProperties:
    """Of a queue; the emulated one has nothing to choose."""


@attrs.define(slots=False)
class QAicProgramProperties:
    """Of a program. ``devMapping`` "0:1" names the cards that it runs on together; the times limit nothing on an emulated card."""

    SubmitRetryTimeoutMs: int = 0
    dataPathTimeoutMs: int = 0
    devMapping: str = ""
