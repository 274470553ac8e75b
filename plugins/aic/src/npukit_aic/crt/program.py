"""Programs, their inferences, and queues."""

# ruff: noqa: N802, N803  the names are those of the API

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from npukit.encoding import Array
from npukit_aic.crt import describe
from npukit_aic.crt.activation import Activation, activate, place
from npukit_aic.crt.context import Context
from npukit_aic.crt.network import Handed, Network, retained
from npukit_aic.crt.slices import SlicingSpec
from npukit_aic.crt.status import CallError, QStatus, reported, status_and_value, status_of, status_only
from npukit_aic.crt.values import BufferIoTypeEnum, BufferMapping, QAicProgramProperties, QAicQueueProperties, QBuffer
from npukit_aic.qpc import read_qpc


class Qpc:
    """A compiled model: a folder with ``programqpc.bin``, or that file. Raises UsageError when there is none, PackageError for one
    that this emulator did not make."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.content = read_qpc(path)

    @status_and_value
    def getIoDescriptor(self) -> QBuffer:
        """The bindings, for ``QAicApi_pb2.IoDesc``."""
        kept = retained(self.content)
        skippable = {b.index for b in self.content.outputs} | set(kept.values())
        return QBuffer(describe.described(self.content.bindings, self.content.package.encodings, skippable))

    def getBufferMappings(self) -> list[BufferMapping]:
        """The bindings by index: inputs, then outputs."""
        kinds = {True: BufferIoTypeEnum.BUFFER_IO_TYPE_INPUT, False: BufferIoTypeEnum.BUFFER_IO_TYPE_OUTPUT}
        bindings = self.content.bindings
        return [BufferMapping(b.index, b.name, b.size, kinds[b.is_input], describe.type_of(b)) for b in bindings]


class Program:
    """A QPC on the card ``dev``, on those of ``properties.devMapping`` together, or on the first of the context with room."""

    def __init__(self, context: Context, dev: int | None, qpcObj: Qpc, properties: QAicProgramProperties | None = None) -> None:
        self._context, self._qpc = context, qpcObj.content
        self._devices = place(context, dev, properties or QAicProgramProperties())
        self._network: Network | None = None
        self.activation: Activation | None = None
        self.bindings = self._qpc.bindings

    @status_only
    def load(self) -> None:
        """Get the network ready; doing so again does nothing."""
        if self._network is None:
            self._network = Network(self._qpc)

    @status_only
    def activate(self) -> None:
        """Take the cores, with zeros for all that is retained; doing so again does nothing."""
        if self._network is None:
            self._network = Network(self._qpc)
        if self.activation is None:
            self.activation = activate(self._network, self._qpc, self._context, self._devices)

    @status_only
    def deactivate(self) -> None:
        """Finish what is queued, give the cores back, and forget what is retained; doing so again does nothing."""
        if self.activation is not None:
            self.activation.close()
            self.activation = None

    @status_and_value
    def createSlicingSpecHandle(self, spec: str) -> SlicingSpec:
        """What ``ExecObj.setDataWithSlices`` needs, of a JSON text."""
        return SlicingSpec(spec)


class ExecObj:
    """An inference of a program, which can be run again and again, one run at a time."""

    def __init__(self, context: Context, program: Program) -> None:
        self._program = program
        self._handed: dict[int, Handed] = {}
        self._sliced: dict[int, Handed] = {}
        self._buffers: dict[int, QBuffer] = {}
        self._future: Future[dict[int, Array]] | None = None

    @status_only
    def setData(self, buffers: Sequence[Any], dimensions: Sequence[tuple[int, Sequence[int]]] | None = None) -> None:
        """What the next runs take and give: QBuffers by binding index, with dimensions where several sizes are possible, or pairs
        of binding index and array.

        Outputs of pairs are written into the arrays; of QBuffers those with a size are wanted from ``getData``. Empty ones, and
        bindings that pairs do not name, are skipped: inputs get what is retained, outputs go nowhere. Inputs are read when the run
        is queued.
        """
        self._check_idle()
        if dimensions is None and all(isinstance(buffer, tuple) for buffer in buffers):
            self._buffers = {}
            found = {index: self._named(index, Handed.of(memory)) for index, memory in buffers}
        else:
            found = self._listed(buffers, dimensions)
            self._buffers = dict(enumerate(buffers))
        self._handed = {index: handed for index, handed in found.items() if not handed.is_empty}

    @status_and_value
    def setDataWithSlices(
        self, pairs: Iterable[tuple[int, Array]], handle: SlicingSpec, offsets: Iterable[tuple[str, int]]
    ) -> None:
        """For the next run alone: bindings, by index, that are parts of larger arrays. ``handle`` says which, by symbols, of which
        ``offsets`` are the values."""
        self._check_idle()
        symbols = dict(offsets)
        whole = {index: self._named(index, Handed.of(memory)).memory for index, memory in pairs}
        self._sliced = {i: handle.handed(self._program.bindings[i], np.asarray(memory), symbols) for i, memory in whole.items()}

    def run(self, buffers: Sequence[Any], dimensions: Sequence[tuple[int, Sequence[int]]] | None = None) -> QStatus:
        """``setData``, and one run to its end."""
        status = self.setData(buffers, dimensions)
        if status == QStatus.QS_SUCCESS:
            status = self.start()
        return self.waitForCompletion() if status == QStatus.QS_SUCCESS else status

    @status_only
    def start(self) -> None:
        """Queue a run. What is wrong with its data is the status of ``waitForCompletion``."""
        self._check_idle()
        sliced, self._sliced = self._sliced, {}
        activation = self._program.activation
        if activation is None:
            raise CallError("the program is not activated")
        outputs = [b.index for b in self._program.bindings if not b.is_input]
        wanted = [i for i in outputs if i in self._buffers and i in self._handed and i not in sliced]
        self._future = activation.start(self._handed | sliced, wanted)

    def waitForCompletion(self) -> QStatus:
        """Block until the run has ended; how it did."""
        if self._future is None:
            return reported(CallError("no run was queued"))
        return status_of(self._future)

    def getData(self) -> tuple[QStatus, list[QBuffer]]:
        """The QBuffers by binding index: of inputs those that were set, of outputs the results; empty for all that was skipped, and
        for what was written into arrays."""
        if self._future is None or not self._future.done():
            return reported(CallError("no run has ended", QStatus.QS_BUSY)), []
        if self._future.exception() is not None:
            return QStatus.QS_ERROR, []
        found = {index: buffer for index, buffer in self._buffers.items() if index in self._handed}
        found |= {index: QBuffer(value) for index, value in self._future.result().items()}
        return QStatus.QS_SUCCESS, [found.get(b.index, QBuffer(b"")) for b in self._program.bindings]

    def _check_idle(self) -> None:
        if self._future is not None and not self._future.done():
            raise CallError("a run is queued", QStatus.QS_BUSY, hint="waitForCompletion waits for its end")

    def _named(self, index: int, handed: Handed) -> Handed:
        """What is handed over for a binding. Raises CallError for an unknown index, and for a read-only array of an output."""
        bindings, memory = self._program.bindings, handed.memory
        if not 0 <= index < len(bindings):
            raise CallError(f"there is no binding {index}", hint=f"they are 0 to {len(bindings) - 1}")
        if not bindings[index].is_input and isinstance(memory, np.ndarray) and not memory.flags.writeable:
            raise CallError(f"the array for output '{bindings[index].name}' cannot be written to")
        return handed

    def _listed(self, buffers: Sequence[QBuffer], dimensions: Sequence[tuple[int, Sequence[int]]] | None) -> dict[int, Handed]:
        """QBuffers by binding index. Raises CallError when they are too few or too many, or dimensions do not fit them."""
        bindings = self._program.bindings
        for what, count in (("buffers", len(buffers)), ("dimensions", len(bindings if dimensions is None else dimensions))):
            if count != len(bindings):
                raise CallError(f"the program has {len(bindings)} bindings, found {count} {what}")
        if dimensions is None:
            return {index: Handed.of(buffer) for index, buffer in enumerate(buffers)}
        found = {}
        for binding, buffer, (item_size, shape) in zip(bindings, buffers, dimensions, strict=True):
            found[binding.index] = handed = Handed(buffer, item_size, tuple(describe.dims(shape)))
            if not handed.is_empty and int(np.prod(shape)) * item_size != handed.size:
                raise CallError(f"'{binding.name}' has {handed.size} bytes, its dimensions are {list(shape)} of {item_size} bytes")
        return found


class Queue:
    """Where runs are queued. Raises UsageError for a card that the context has not."""

    def __init__(self, context: Context, dev: int) -> None:
        context.checked(dev)

    def initProperties(self, properties: QAicQueueProperties) -> QStatus:
        """There is nothing to choose."""
        return QStatus.QS_SUCCESS

    def enqueue(self, execObj: ExecObj) -> QStatus:
        """Start a run, and do not wait for it."""
        return execObj.start()
