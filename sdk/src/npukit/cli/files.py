"""Writing results: everything or nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from npukit.errors import UsageError
from npukit.plugins.known import READERS

INDEX = "index.json"


def check_writable(path: str | Path) -> Path:
    """``path`` when a file can be made there. Called before long work, so that a typo costs no calibration."""
    target = _named(path)
    if target.exists() and not target.is_file():
        raise UsageError(f"cannot write {target}: it is {'a folder' if target.is_dir() else 'not a regular file'}")
    _check_parent(target)
    return target


def check_package(path: str | Path) -> Path:
    """``path`` when a package can be made there and the name is not one of a model, which it would be taken for."""
    target = Path(path)
    if target.suffix in (".onnx", *READERS):
        hint = f"-o {target.with_suffix('.dlc')}; npukit export makes ONNX of it"
        raise UsageError(f"cannot write {target}: what is written is a package (.dlc)", hint=hint)
    return check_writable(path)


def _named(path: str | Path) -> Path:
    """``path``, unless it asks for stdout, which is where the report goes."""
    if path == "-":
        raise UsageError("cannot write the result to stdout", hint="name a file; ./- is one called -")
    return Path(path)


def _check_parent(target: Path) -> None:
    from npukit.graph import part_of

    folder = target.parent
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"cannot write {target}: the folder {folder} {what}")
    try:
        part = part_of(target)
        part.touch()
        part.unlink()
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from None


def write_text(path: Path, text: str) -> None:
    """Write a whole file at once: a reader sees the old content or the new one."""
    from npukit.graph import write_atomic

    write_atomic(check_writable(path), [text.encode()])


def check_result_folder(path: str | Path) -> Path:
    """``path`` when results may be put there: it is new, empty, or holds the results of an earlier run."""
    target = _named(path)
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
    """A new folder to fill; it takes the place of ``target`` when the block ends well and vanishes when it does not.

    An operating system error without a file, such as a full disk, becomes a UsageError that names the folder.
    """
    from npukit.graph import part_of

    check_result_folder(target)
    fresh = part_of(target)
    try:
        fresh.mkdir()
        yield fresh
        if target.exists():
            shutil.rmtree(target)
        os.replace(fresh, target)
    except OSError as error:
        if error.filename and not Path(error.filename).is_relative_to(fresh):
            raise
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


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
