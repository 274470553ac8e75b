"""QPCs that qaic.Session compiled, kept by what they were made of."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

import npukit
from npukit.errors import UsageError
from npukit.graph import open_atomic, source_hash
from npukit_aic.options import ROWS
from npukit_aic.qpc import FILE, Qpc, read_qpc, write_qpc

# Files that the result depends on, or that are written beside it; where options and QPC are is neither.
_FILES = tuple(row.name for row in ROWS if row.kind == "path" and row.name not in ("options_path", "output_dir"))
_IDLE = {row.name: row.default for row in ROWS if row.at == "run" or row.name == "output_dir"}


def compiled(model: Path, options: Mapping[str, Any], card: str) -> Qpc:
    """The QPC of an ONNX model for ``options`` as ``options.read`` gives them, in "output_dir" or in a cache folder.

    A model that was compiled before with the same options is not compiled again, unless an option names a file. Raises what
    ``compile_model`` raises.
    """
    given = {**options, **_IDLE}
    folder = _root() / _key(model, given, card)
    if not (folder / FILE).is_file() or any(options[name] for name in _FILES):
        from npukit_aic.compiler import compile_model

        made = Qpc.of(compile_model(model, given, card=card))  # what cannot be read again is not written
        write_qpc(made.package, folder)
    if options["output_dir"]:
        folder = _copied(folder, Path(options["output_dir"]))
    return read_qpc(folder)


def _copied(folder: Path, target: Path) -> Path:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make output_dir '{target}': {error.strerror}") from None
    with open(folder / FILE, "rb") as source, open_atomic(target / FILE) as file:
        shutil.copyfileobj(source, file, 1 << 20)
    return target


def _root() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "npukit-aic"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "XDG_CACHE_HOME names another place"
        raise UsageError(f"cannot make the cache folder '{root}': {error.strerror}", hint=hint) from None
    return root


def _key(model: Path, options: Mapping[str, Any], card: str) -> str:
    """A name for all that a QPC follows from: the model, the options of the compiler, the card, and this code."""
    try:
        parts = [source_hash(model), *_external(model)]
    except OSError as error:
        raise UsageError(f"cannot read model '{model}': {error.strerror}") from None
    made_by = max(p.stat().st_mtime_ns for home in (npukit.__file__, __file__) for p in Path(home).parent.rglob("*.py"))
    text = json.dumps([*parts, options, card, made_by], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _external(model: Path) -> Iterator[str]:
    """The state of the files beside the model that hold its weights; of what is no model the compiler says so."""
    import onnx

    with suppress(DecodeError):
        tensors = onnx.load(model, load_external_data=False).graph.initializer
        for name in sorted({e.value for tensor in tensors for e in tensor.external_data if e.key == "location"}):
            file = model.parent / name
            if file.is_file():
                yield f"{name} {file.stat().st_size} {file.stat().st_mtime_ns}"
