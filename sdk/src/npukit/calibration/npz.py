"""Arrays in .npz files that may be damaged or hostile: nothing is unpickled, and no array takes more room than its bytes."""

from __future__ import annotations

import math
import zipfile
from types import TracebackType
from typing import IO

from numpy.lib import format as npy

from npukit.graph import Array

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_PLAUSIBLE, _RATIO = 1 << 30, 200


class NpzReader:
    """The arrays of an open .npz file by name, each read when it is asked for.

    Raises ValueError, or what zipfile and zlib raise, for a damaged file, and ValueError for one that would unpack to far more
    bytes than it has: 200 times is beyond any real data.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._archive = zipfile.ZipFile(file)
        self._members = {info.filename.removesuffix(".npy"): info for info in self._archive.infolist()}
        total, limit = sum(info.file_size for info in self._members.values()), max(_PLAUSIBLE, _RATIO * size)
        if total > limit:
            raise ValueError(f"it would unpack to {total} bytes, more than the {limit} that are plausible")

    def __enter__(self) -> NpzReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._archive.close()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._members)

    def __getitem__(self, name: str) -> Array:
        info = self._members[name]
        with self._archive.open(info) as member:
            version = npy.read_magic(member)
            if version not in _HEADERS:
                raise ValueError(f"'{name}' is of version {version[0]}.{version[1]} of .npy, which holds no numbers")
            shape, _, dtype = _HEADERS[version](member)
            # numpy makes room for what the header says before it reads.
            need, found = math.prod(shape) * dtype.itemsize, info.file_size - member.tell()
            if min(shape, default=0) < 0 or need > found:
                raise ValueError(f"'{name}' is {dtype} {list(shape)}, which takes {need} bytes, found {found}")
        with self._archive.open(info) as member:
            values: Array = npy.read_array(member, allow_pickle=False)
            return values
