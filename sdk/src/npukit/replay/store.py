"""Activations of many samples in bounded memory: what does not fit waits in temporary files."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import overload

import attrs
import numpy as np

from npukit.encoding import Array
from npukit.errors import UsageError

BUDGET = 256 << 20
"""Bytes of activations kept in memory."""


class Store:
    """One array per sample for every tensor, in the order of the samples; a context manager.

    Up to ``budget`` bytes stay in memory, the rest goes to unnamed temporary files, one per tensor. Any number of threads may read,
    and write, at a time: a reader sees the arrays that were there when it began, even when they are dropped meanwhile. Arrays have
    any shape and dtype; those of objects (strings) always stay in memory.
    """

    def __init__(self, budget: int | None = None) -> None:
        self._budget, self._used = BUDGET if budget is None else budget, 0
        self._arrays: dict[str, list[Array | _Spilled]] = {}
        self._files: dict[str, _File] = {}
        self._changing = threading.Lock()

    def append(self, name: str, array: Array) -> None:
        """Add the array of the next sample."""
        with self._changing:
            arrays = self._arrays.setdefault(name, [])
            if array.dtype.hasobject:  # strings are no bytes that could be written
                arrays.append(array)
            elif self._used + array.nbytes <= self._budget:
                self._used += array.nbytes
                arrays.append(array)
            else:
                if name not in self._files:
                    self._files[name] = _File()
                arrays.append(self._files[name].write(array))

    def read(self, name: str) -> Iterator[Array]:
        """The arrays of all samples."""
        with self._changing:
            known = tuple(self._arrays[name])
        return (_loaded(array) for array in known)

    def rows(self, names: Iterable[str], count: int) -> Rows:
        """The arrays of ``count`` samples by name, sample after sample. Raises KeyError for a tensor that is not there."""
        with self._changing:
            return Rows({name: tuple(self._arrays[name]) for name in names}, count)

    def drop(self, name: str) -> None:
        """Forget a tensor."""
        with self._changing:
            for array in self._arrays.pop(name, ()):
                if not isinstance(array, _Spilled) and not array.dtype.hasobject:
                    self._used -= array.nbytes
            self._files.pop(name, None)

    def clear(self) -> None:
        """Forget all tensors."""
        for name in list(self._arrays):
            self.drop(name)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.clear()


class Rows(Sequence[dict[str, Array]]):
    """The tensors of sample after sample, by name; what lies in a file is read when a sample is asked for."""

    def __init__(self, columns: Mapping[str, tuple[Array | _Spilled, ...]], count: int) -> None:
        self._columns, self._count = columns, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> dict[str, Array]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Array]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Array] | list[dict[str, Array]]:
        if isinstance(index, slice):
            return [self[i] for i in range(self._count)[index]]
        place = range(self._count)[index]
        return {name: _loaded(arrays[place]) for name, arrays in self._columns.items()}


class _File:
    """A temporary file that grows at its end, without a position that readers would share; closed when nobody refers to it."""

    def __init__(self) -> None:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  closed by the finalizer
        self.number, self._size = file.fileno(), 0
        weakref.finalize(self, file.close)

    def write(self, array: Array) -> _Spilled:
        """Add an array; it can be read once this returns."""
        place = _Spilled(self, self._size, array.dtype, array.shape)
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        done = 0
        try:
            while done < len(data):  # the system may take less than all at once
                done += os.pwrite(self.number, data[done:], self._size + done)
        except OSError as error:
            where = f"temporary files in {tempfile.gettempdir()}"
            raise UsageError(f"cannot write {where}: {error.strerror}", hint="TMPDIR names another folder") from None
        self._size += done
        return place


@attrs.frozen(eq=False)
class _Spilled:
    """Where an array lies in a file."""

    file: _File
    start: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]

    def read(self) -> Array:
        array = np.empty(self.shape, self.dtype)
        data = array.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(data):
            count = os.preadv(self.file.number, [data[done:]], self.start + done)
            if not count:
                raise EOFError("a temporary file of activations is shorter than what was written to it")
            done += count
        return array


def _loaded(array: Array | _Spilled) -> Array:
    return array.read() if isinstance(array, _Spilled) else array
