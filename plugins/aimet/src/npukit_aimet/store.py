"""Activations of many samples in bounded memory: what does not fit waits in temporary files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import IO

import numpy as np

from npukit.encoding import Array

BUDGET = 256 << 20
"""Bytes of activations kept in memory."""


class Store:
    """One array per sample for every tensor, written and read in the order of the samples; a context manager.

    Up to ``budget`` bytes stay in memory, the rest goes to unnamed temporary files, one per tensor.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget, self._used = budget, 0
        self._kept: dict[str, list[Array]] = {}
        self._files: dict[str, IO[bytes]] = {}

    def append(self, name: str, array: Array) -> None:
        """Add the array of the next sample."""
        kept = self._kept.setdefault(name, [])
        if name not in self._files and self._used + array.nbytes <= self._budget:
            self._used += array.nbytes
            kept.append(array)
            return
        if name not in self._files:
            self._files[name] = tempfile.TemporaryFile()  # noqa: SIM115  closed by drop
        np.lib.format.write_array(self._files[name], np.ascontiguousarray(array), allow_pickle=False)

    def read(self, name: str) -> Iterator[Array]:
        """The arrays of all samples."""
        yield from self._kept[name]
        file = self._files.get(name)
        if file is None:
            return
        end = file.tell()
        place = 0
        while place < end:
            file.seek(place)
            array = np.lib.format.read_array(file, allow_pickle=False)
            place = file.tell()
            file.seek(end)
            yield array

    def drop(self, name: str) -> None:
        """Forget a tensor."""
        self._used -= sum(array.nbytes for array in self._kept.pop(name, ()))
        file = self._files.pop(name, None)
        if file is not None:
            file.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name in list(self._kept):
            self.drop(name)
