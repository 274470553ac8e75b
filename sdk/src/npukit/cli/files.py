"""Writing results: everything or nothing."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from npukit.errors import UsageError

INDEX = "index.json"


def check_writable(path: str | Path) -> Path:
    """``path`` when a file can be made there. Called before long work, so that a typo costs no calibration."""
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"cannot write {target}: it is a folder")
    _check_parent(target)
    return target


def _check_parent(target: Path) -> None:
    folder = target.parent
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"cannot write {target}: the folder {folder} {what}")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from None


def write_text(path: Path, text: str) -> None:
    """Write a whole file at once: a reader sees the old content or the new one."""
    check_writable(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        _publish(name)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def check_result_folder(path: str | Path) -> Path:
    """``path`` when results may be put there: it is new, empty, or holds the results of an earlier run."""
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise UsageError(f"cannot write {target}: it is a file")
    if target.is_dir() and any(target.iterdir()) and not _is_result(target):
        raise UsageError(f"{target} holds other files", hint="name a new folder: results replace what is in theirs")
    _check_parent(target)
    return target


def _is_result(folder: Path) -> bool:
    try:
        return "npukit" in json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


@contextmanager
def result_folder(target: Path) -> Iterator[Path]:
    """A new folder to fill; it takes the place of ``target`` when the block ends well and vanishes when it does not."""
    check_result_folder(target)
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield fresh
        os.chmod(fresh, 0o777 & ~_umask())
        if target.exists():
            shutil.rmtree(target)
        os.replace(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _publish(name: str) -> None:
    # mkstemp makes files that only their owner reads; a result has the rights of any other new file.
    os.chmod(name, 0o666 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def safe_name(name: str, taken: set[str]) -> str:
    """A file name for a tensor name: letters, digits, ``_ - .`` stay, the rest is ``_``; unique among ``taken`` in any case.

    Never empty, hidden or longer than 120 characters, so that a hostile model writes inside its folder only.
    """
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "_" for c in name)
    stem = kept.lstrip(".")[:120] or "tensor"
    candidate, number = stem, 1
    while candidate.lower() in taken:
        number += 1
        candidate = f"{stem}_{number}"
    taken.add(candidate.lower())
    return candidate
