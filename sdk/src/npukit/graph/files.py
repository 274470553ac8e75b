"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from npukit.errors import UsageError

_STALE = 30 * 60  # seconds


def source_hash(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomic(target: Path, pieces: Iterable[bytes]) -> None:
    """Write ``pieces`` to a temporary file beside ``target`` and rename it. Raises UsageError when that is not possible."""
    with open_atomic(target) as file:
        for piece in pieces:
            file.write(piece)


def part_of(target: Path) -> Path:
    """A new name beside ``target`` for what is to become it.

    What runs that were killed left in that folder under such names is removed once nobody has touched it for half an hour.
    """
    for old in target.parent.glob(".*." + "[0-9a-f]" * 8 + ".npukit"):
        with suppress(OSError):
            if time.time() - old.lstat().st_mtime > _STALE:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.npukit")


@contextmanager
def open_atomic(target: Path) -> Iterator[BinaryIO]:
    """A new file that becomes ``target`` when the block ends well, and vanishes otherwise.

    Raises UsageError when it cannot be written, and for a target that is there and is no regular file (a folder, a device).
    """
    if target.exists() and not target.is_file():
        raise UsageError(f"cannot write {target}: it is not a regular file")
    part = part_of(target)
    try:
        with open(part, "xb") as file:
            yield file
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from None
    except BaseException:
        part.unlink(missing_ok=True)
        raise
