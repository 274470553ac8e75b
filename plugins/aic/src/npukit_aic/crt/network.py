"""What one inference is: which specialization fits the buffers of a caller, what inputs get, and where outputs go."""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping, Sequence
from typing import Any, TypeAlias

import attrs
import numpy as np

from npukit.encoding import Array
from npukit.errors import UsageError
from npukit_aic.crt.describe import dims
from npukit_aic.crt.status import CallError, QStatus
from npukit_aic.crt.values import QBuffer
from npukit_aic.loaded import Loaded
from npukit_aic.qpc import Binding, Qpc
from npukit_aic.retained import SUFFIXES, input_of, state_of

State: TypeAlias = MutableMapping[int, Array]
"""What stays on the card between two inferences, by the index of the input that it is for."""


@attrs.frozen(eq=False)
class Handed:
    """Memory of a caller for one binding. ``item_size`` and ``dims`` are None when the caller gives bytes and says no more.
    With ``offsets`` the binding is the part of a larger array that begins there."""

    memory: QBuffer | Array
    item_size: int | None = None
    dims: tuple[int, ...] | None = None
    offsets: tuple[int, ...] | None = None

    @classmethod
    def of(cls, memory: Any, offsets: tuple[int, ...] | None = None) -> Handed:
        """Of an array, with its own dimensions, or of anything that has bytes."""
        if isinstance(memory, np.ndarray):
            return cls(memory, memory.itemsize, tuple(dims(memory.shape)), offsets)
        return cls(memory if isinstance(memory, QBuffer) else QBuffer(memory))

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.memory.nbytes if isinstance(self.memory, np.ndarray) else len(self.memory)

    @property
    def is_empty(self) -> bool:
        """Whether this is a caller's way to skip the binding."""
        return not self.size or (self.dims is not None and not self.dims[0])

    def fits(self, binding: Binding, specialization: int) -> bool:
        """Whether this is as large as the binding, or has room for it at ``offsets``."""
        shape = tuple(dims(binding.shapes[specialization]))
        if self.dims is None:
            return self.size == int(np.prod(shape)) * binding.dtype.itemsize
        if self.item_size != binding.dtype.itemsize or len(self.dims) != len(shape):
            return False
        if self.offsets is None:
            return self.dims == shape
        return all(begin + size <= there for begin, size, there in zip(self.offsets, shape, self.dims, strict=True))

    def read(self, binding: Binding, specialization: int) -> Array:
        """A copy of the values, in the type and shape of the binding."""
        shape = binding.shapes[specialization]
        content = self._part(shape).tobytes() if isinstance(self.memory, np.ndarray) else bytes(self.memory)
        return np.frombuffer(content, binding.dtype).reshape(shape)

    def write(self, value: Array) -> None:
        """Put a result into the caller's memory; a QBuffer takes its size."""
        if isinstance(self.memory, np.ndarray):
            part = self._part(value.shape)
            part[...] = value.view(part.dtype).reshape(part.shape)
        else:
            self.memory[:] = value.tobytes()

    def _part(self, shape: Sequence[int]) -> Array:
        memory = np.asarray(self.memory)
        if self.offsets is None:
            return memory
        return memory[tuple(slice(begin, begin + size) for begin, size in zip(self.offsets, dims(shape), strict=True))]


@attrs.frozen(eq=False)
class Inference:
    """An inference that can be run, by binding index: the values of inputs that are not skipped, the memory for outputs, and which
    outputs ``Network.run`` is to return."""

    specialization: int
    values: Mapping[int, Array]
    sinks: Mapping[int, Handed]
    wanted: Collection[int]


class Network:
    """A QPC that is loaded, with its bindings by index."""

    def __init__(self, qpc: Qpc) -> None:
        self.bindings = qpc.bindings
        self.retained = retained(qpc)
        self._loaded = Loaded(qpc)

    def inference(self, handed: Mapping[int, Handed], wanted: Collection[int] = ()) -> Inference:
        """What buffers by binding index ask for; those of outputs are written into, but for outputs in ``wanted``, which ``run``
        returns.

        Raises CallError when no specialization has inputs of these dimensions, an input is missing that is not retained, or memory
        for an output is of another size.
        """
        inputs = {b.index: handed[b.index] for b in self.bindings if b.is_input and b.index in handed}
        number = self._specialization(inputs)
        for binding in self.bindings:
            if binding.is_input and binding.index not in inputs and binding.index not in self.retained.values():
                raise CallError(f"input '{binding.name}' is skipped, and no output retains it")
        sinks = {i: h for i, h in handed.items() if not self.bindings[i].is_input and i not in wanted}
        for index, sink in sinks.items():
            if isinstance(sink.memory, np.ndarray) and not sink.fits(self.bindings[index], number):
                raise CallError(_misfit(self.bindings[index], sink, [number]))
        values = {index: h.read(self.bindings[index], number) for index, h in inputs.items()}
        return Inference(number, values, sinks, wanted)

    def run(self, inference: Inference, state: State) -> dict[int, Array]:
        """Run once, change ``state``, write into the callers' memory. Returns the outputs that are wanted, by index."""
        feeds = {b.name: self._value(b, inference, state) for b in self.bindings if b.is_input}
        results = self._loaded.run(feeds)
        outputs = {b.index: results[b.name] for b in self.bindings if not b.is_input}
        for index, target in self.retained.items():
            state[target] = outputs[index].astype(self.bindings[target].dtype, copy=False)
        for index, sink in inference.sinks.items():
            sink.write(outputs[index])
        return {index: outputs[index] for index in inference.wanted}

    def _specialization(self, inputs: Mapping[int, Handed]) -> int:
        """The first one with inputs of these dimensions."""
        every = range(len(self.bindings[0].shapes))
        for number in every:
            if all(handed.fits(self.bindings[index], number) for index, handed in inputs.items()):
                return number
        wrong = {i: h for i, h in inputs.items() if not any(h.fits(self.bindings[i], number) for number in every)}
        texts = [_misfit(self.bindings[index], handed, every) for index, handed in (wrong or inputs).items()]
        raise CallError(f"No matching dimension found: {'; '.join(texts)}", QStatus.QS_ERROR)

    def _value(self, binding: Binding, inference: Inference, state: State) -> Array:
        """What an input gets: what the caller handed over, else what was retained, which is zeros at first."""
        shape = binding.shapes[inference.specialization]
        given = inference.values.get(binding.index)
        value = state.get(binding.index) if given is None else given
        if value is None:
            return np.zeros(shape, binding.dtype)
        if value.shape != shape:
            raise CallError(f"what is retained for '{binding.name}' has shape {list(value.shape)}, this run takes {list(shape)}")
        return value


def retained(qpc: Qpc) -> dict[int, int]:
    """The index of the input that an output is kept for, by the index of the output. Raises UsageError when what callers get of one
    is not what they hand over for the other."""
    inputs = {b.name: b for b in qpc.inputs}
    # Of several for one input the one of exactly its name counts, then the one with the first suffix.
    outputs = sorted(qpc.outputs, key=lambda o: (state_of(o.name) not in inputs, not o.name.endswith(SUFFIXES[0])))
    found: dict[int, int] = {}
    for output in outputs:
        name = input_of(output.name, inputs)
        if name is None or inputs[name].index in found.values():
            continue
        if not _same_grid(qpc, output, inputs[name]):
            hint = "give both the same Precision, Scale and Offset in the custom IO list"
            raise UsageError(f"'{output.name}' is not handed over on the grid of '{name}'", hint=hint)
        found[output.index] = inputs[name].index
    return found


def _same_grid(qpc: Qpc, output: Binding, target: Binding) -> bool:
    """Whether buffers of both hold codes of one grid, or no codes."""
    encodings = [qpc.package.encodings.get(b.name) if b.dtype.kind in "iu" else None for b in (output, target)]
    if encodings[0] is None or encodings[1] is None:
        return encodings[0] is encodings[1]
    return encodings[0].same_grid(encodings[1])


def _misfit(binding: Binding, handed: Handed, specializations: Sequence[int] | range) -> str:
    allowed = [dims(binding.shapes[number]) for number in specializations]
    known = " or ".join(str(shape) for shape in dict.fromkeys(map(tuple, allowed)))
    if handed.dims is None:
        return f"'{binding.name}' has {handed.size} bytes, known are {known} of {binding.dtype.itemsize} bytes"
    at = f" at {list(handed.offsets)}" if handed.offsets is not None else ""
    found = f"{list(handed.dims)} of {handed.item_size} bytes{at}"
    return f"'{binding.name}' is {found}, known are {known} of {binding.dtype.itemsize} bytes"
