"""Results that survive a run that was interrupted or killed, each in a file of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from npukit.encoding import Array
from npukit.graph import open_atomic


def fingerprint(*parts: object) -> str:
    """The SHA-256 of arrays and of the ``repr`` of everything else, in hex."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(repr((part.dtype.str, part.shape)).encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


class Kept:
    """Arrays by the fingerprint of all that they follow from; without a folder nothing is kept.

    A file is written whole or not at all, so what is there is right. One that cannot be read counts as absent.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, key: str, names: Iterable[str]) -> dict[str, Array] | None:
        """The arrays of that key, None when they are not known."""
        if self._folder is None:
            return None
        try:
            with open(self._folder / f"{key}.npz", "rb") as file, np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in names}
        except Exception:  # absent, or damaged in any of the ways that numpy and zipfile know
            return None

    def put(self, key: str, arrays: Mapping[str, Array]) -> None:
        """Keep arrays, on disk when this returns. Raises UsageError when the folder cannot be written."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with open_atomic(self._folder / f"{key}.npz") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
