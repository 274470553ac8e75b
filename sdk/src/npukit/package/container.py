"""Reading and writing .dlc files.

A .dlc is a zip of four members: manifest.json, model.onnx, weights.bin (the large constants of the model, stored uncompressed so
that they can be memory-mapped in place) and encodings.json. Equal packages give equal bytes.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from npukit.encoding import Array, Encoding
from npukit.errors import NpukitError, PackageError, UsageError
from npukit.graph import Graph, load_split, serialize_split, write_atomic

FORMAT_VERSION = 1
MANIFEST, MODEL, WEIGHTS, ENCODINGS = "manifest.json", "model.onnx", "weights.bin", "encodings.json"
_MEMBERS = (MANIFEST, MODEL, WEIGHTS, ENCODINGS)
# Everything but the weights is small; a member that claims more than this is refused before it is unpacked.
_MAX_MEMBER = 256 << 20
_MAX_RATIO = 200
# What zipfile, zlib, json and numpy raise on bytes that are not what they should be.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ArithmeticError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
_EPOCH = (1980, 1, 1, 0, 0, 0)


@attrs.frozen
class Manifest:
    """Where a package comes from: backend and SoC it was made for, options, seed, source, and the commands that made it."""

    backend: str = ""
    soc: str = ""
    options: Mapping[str, Any] = attrs.field(factory=dict)
    seed: int = 0
    source_name: str = ""
    source_hash: str = ""
    history: tuple[str, ...] = ()
    npukit_version: str = "0.1.0"
    format_version: int = FORMAT_VERSION


@attrs.frozen(eq=False)
class Package:
    """A prepared graph with float weights, the encodings of its tensors, and the manifest."""

    manifest: Manifest
    graph: Graph
    encodings: Mapping[str, Encoding]


def is_package(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a .dlc file, by its ending or its first bytes."""
    target = Path(path)
    if target.suffix == ".dlc":
        return True
    try:
        with open(target, "rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def write_package(package: Package, path: str | os.PathLike[str]) -> None:
    """Write a package; nothing is left behind when that fails. Raises UsageError when the target cannot be written."""
    model, pieces = serialize_split(package.graph, WEIGHTS)
    manifest = attrs.asdict(package.manifest) | {"origin_names": {k: list(v) for k, v in package.graph.origin_names.items()}}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        _add(archive, MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode(), zipfile.ZIP_DEFLATED)
        encodings = {name: _encoding_json(e) for name, e in package.encodings.items()}
        _add(archive, ENCODINGS, json.dumps(encodings, sort_keys=True).encode(), zipfile.ZIP_DEFLATED)
        _add(archive, MODEL, model, zipfile.ZIP_DEFLATED)
        # The weights start at a multiple of 64 bytes, so that the memory map is aligned: pad the local header's extra field.
        header = 30 + len(WEIGHTS)
        gap = -(buffer.tell() + header + 4) % 64
        extra = struct.pack("<HH", 0x6E70, gap) + bytes(gap)
        _add(archive, WEIGHTS, b"".join(pieces), zipfile.ZIP_STORED, extra)
    write_atomic(Path(path), [buffer.getvalue()])


def _add(archive: zipfile.ZipFile, name: str, data: bytes, method: int, extra: bytes = b"") -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type, info.extra, info.external_attr = method, extra, 0o644 << 16
    archive.writestr(info, data)


def read_package(path: str | os.PathLike[str]) -> Package:
    """Read a package; the weights stay memory-mapped. Raises PackageError when it is damaged, hostile or of another version."""
    target = Path(path)
    try:
        return _read(target)
    except FileNotFoundError:
        raise UsageError(f"package '{target}' does not exist") from None
    except PackageError:
        raise
    except NpukitError as error:
        raise PackageError(f"package '{target}' is damaged: {error.message}") from None
    except OSError as error:
        raise UsageError(f"cannot read package '{target}': {error.strerror or error}") from None
    except _DAMAGE as error:
        raise PackageError(f"package '{target}' is damaged: {_one_line(error)}") from None


def _read(target: Path) -> Package:
    with zipfile.ZipFile(target) as archive:
        members = _check_members(archive, target)
        manifest_json = _json(archive, MANIFEST)
        manifest = _manifest(manifest_json)
        encodings_json = _json(archive, ENCODINGS)
        model = archive.read(MODEL)
        if archive.testzip() is not None:
            raise PackageError(f"package '{target}' is damaged: a checksum does not match")
        offset = _data_offset(target, members[WEIGHTS])
    graph = load_split(model, WEIGHTS, target, offset, members[WEIGHTS].file_size)
    origins = {str(k): tuple(str(n) for n in v) for k, v in manifest_json.get("origin_names", {}).items()}
    graph = graph.evolve(origin_names=origins)
    encodings = {}
    for name, entry in encodings_json.items():
        if name not in graph.tensors:
            raise PackageError(f"encoding of tensor '{name}', which the model does not have")
        encodings[name] = _encoding(entry)
    return Package(manifest, graph, encodings)


def _check_members(archive: zipfile.ZipFile, target: Path) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    size = target.stat().st_size
    for info in archive.infolist():
        if info.filename not in _MEMBERS:
            raise PackageError(f"package '{target}' has the member '{info.filename[:80]}', which does not belong there")
        if info.filename in found:
            raise PackageError(f"package '{target}' has the member '{info.filename}' twice")
        stored = info.compress_type == zipfile.ZIP_STORED
        if info.filename == WEIGHTS:
            if not stored or info.file_size > size:
                raise PackageError(f"package '{target}' is damaged: its weights are not stored plainly")
        elif info.file_size > min(_MAX_MEMBER, max(1 << 20, _MAX_RATIO * max(info.compress_size, 1))):
            raise PackageError(
                f"package '{target}': '{info.filename}' would unpack to {info.file_size} bytes, which is not plausible"
            )
        found[info.filename] = info
    missing = [name for name in _MEMBERS if name not in found]
    if missing:
        raise PackageError(f"package '{target}' is incomplete: {', '.join(missing)} is missing")
    return found


def _data_offset(target: Path, info: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes start in the file, from its local header."""
    with open(target, "rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise PackageError(f"package '{target}' is damaged: a local header is missing")
    name, extra = struct.unpack("<HH", header[26:30])
    return int(info.header_offset) + 30 + int(name) + int(extra)


def _json(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    def refuse(text: str) -> float:
        raise PackageError(f"{name} has the number {text}")

    value = json.loads(archive.read(name), parse_constant=refuse)
    if not isinstance(value, dict):
        raise PackageError(f"{name} is not a JSON object")
    return value


def _manifest(value: Mapping[str, Any]) -> Manifest:
    version = value.get("format_version")
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        raise PackageError(
            f"package format {version!r} is not known", hint="upgrade npukit" if newer else f"known: {FORMAT_VERSION}"
        )
    fields = {f.name: f.type for f in attrs.fields(Manifest)}
    known = {k: v for k, v in value.items() if k in fields}
    wanted = {"options": dict, "seed": int, "history": list, "format_version": int}
    for key, content in known.items():
        if not isinstance(content, wanted.get(key, str)):
            raise PackageError(f"manifest.json: '{key}' is {type(content).__name__}")
    return Manifest(**{**known, "history": tuple(str(h) for h in known.get("history", ()))})


def _encoding_json(encoding: Encoding) -> dict[str, Any]:
    entry: dict[str, Any] = {"dtype": encoding.dtype, "origin": encoding.origin}
    if not encoding.is_float:
        entry |= {"scale": _nested(encoding.steps), "zero_point": _nested(encoding.zeros), "symmetric": encoding.symmetric}
    for key in ("axis", "block_size"):
        if getattr(encoding, key) is not None:
            entry[key] = getattr(encoding, key)
    if encoding.block_scale is not None:
        entry["block_scale"] = _nested(encoding.block_scale)
    return entry


def _nested(values: Array) -> Any:
    return values.astype(np.float64 if values.dtype.kind == "f" else np.int64).tolist()


def _encoding(entry: Any) -> Encoding:
    if not isinstance(entry, dict):
        raise PackageError("an encoding is not a JSON object")
    allowed = {f.name for f in attrs.fields(Encoding)}
    if not set(entry) <= allowed or not all(isinstance(entry.get(k, 0), int) for k in ("axis", "block_size")):
        raise PackageError(f"an encoding has unexpected content: {sorted(set(entry) - allowed)}")
    scale = entry.get("scale")
    if scale is not None and not math.isfinite(float(np.max(np.asarray(scale, np.float64), initial=0))):
        raise PackageError("an encoding has a scale that is not finite")
    return Encoding(**entry)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
