"""Reading and writing .dlc files.

A .dlc is a zip of five members: manifest.json, encodings.json, contract.json, model.onnx and weights.bin (the large constants of
the model). Nothing is compressed: the weights can be memory-mapped in place, equal packages give equal bytes whatever the zlib, and
a member can never unpack to more than the file holds.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from npukit.backend import Edge
from npukit.encoding import Encoding
from npukit.errors import NpukitError, PackageError, UsageError
from npukit.graph import Graph, check_graph, load_split, open_atomic, serialize_split
from npukit.package.codec import dump_json, encodings_from_json, encodings_to_json, parse_json
from npukit.package.contract import contract_from_json, contract_to_json
from npukit.package.manifest import Manifest, manifest_from_json, manifest_to_json

MANIFEST, ENCODINGS, CONTRACT, MODEL, WEIGHTS = "manifest.json", "encodings.json", "contract.json", "model.onnx", "weights.bin"
# The most bytes a member may have: JSON grows about tenfold in memory, protobuf ends at 2 GB.
_LIMITS: Mapping[str, float] = {MANIFEST: 16 << 20, ENCODINGS: 256 << 20, CONTRACT: 64 << 20, MODEL: 2 << 30, WEIGHTS: float("inf")}
# What zipfile and numpy raise on bytes that are not what they should be.
_DAMAGE = (zipfile.BadZipFile, struct.error, ArithmeticError, EOFError, LookupError, RuntimeError, TypeError, ValueError)
_EPOCH = (1980, 1, 1, 0, 0, 0)
_ALIGNMENT = 64
_CHUNK = 1 << 20


@attrs.frozen(eq=False)
class Package:
    """A prepared graph with float weights, the encodings of its tensors, and the manifest.

    ``types`` is what each node computes in ("int", "float16", "float32"), by name; ``edges`` is what callers hand over and get at
    graph inputs and outputs; ``bindings`` are the sizes of its symbols that a symbolic graph is to run with.
    """

    manifest: Manifest
    graph: Graph
    encodings: Mapping[str, Encoding]
    types: Mapping[str, str] = attrs.field(factory=dict)
    edges: Mapping[str, Edge] = attrs.field(factory=dict)
    bindings: tuple[Mapping[str, int], ...] = ()


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
    """Write a package; nothing is left behind when that fails.

    Raises UsageError when the target cannot be written, EncodingError when an encoding does not fit its tensor.
    """
    encodings = encodings_to_json(package.encodings, package.graph)
    manifest = manifest_to_json(package.manifest, package.graph.origin_names)
    model, weights = serialize_split(package.graph, WEIGHTS)
    contract = dump_json(contract_to_json(package.types, package.edges, package.bindings))
    members = {
        MANIFEST: [dump_json(manifest)],
        ENCODINGS: [dump_json(encodings)],
        CONTRACT: [contract],
        MODEL: [model],
        WEIGHTS: weights,
    }
    with open_atomic(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        for name, pieces in members.items():
            _add(archive, name, pieces, file.tell())


def _add(archive: zipfile.ZipFile, name: str, pieces: Sequence[bytes], position: int) -> None:
    """Store a member whose bytes start at a multiple of 64, for which the local header gets an extra field of zeros."""
    # 30 bytes of header, 20 of sizes beyond 4 GB (always there, so that the gap is known), 4 that start the extra field.
    gap = -(position + 30 + len(name) + 20 + 4) % _ALIGNMENT
    info = zipfile.ZipInfo(name, _EPOCH)
    info.extra, info.external_attr = struct.pack("<HH", 0x6E70, gap) + bytes(gap), 0o644 << 16
    with archive.open(info, "w", force_zip64=True) as member:
        for piece in pieces:
            member.write(piece)


def read_package(path: str | os.PathLike[str]) -> Package:
    """Read a package; the weights stay memory-mapped. Raises PackageError when it is damaged, hostile or of another version."""
    target = Path(path)
    try:
        return _read(target)
    except FileNotFoundError:
        raise UsageError(f"package '{target}' does not exist") from None
    except NpukitError as error:
        raise PackageError(f"package '{target}': {error.message}", hint=error.hint, code=_code(error)) from None
    except OSError as error:
        raise UsageError(f"cannot read package '{target}': {error.strerror or error}") from None
    except _DAMAGE as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise PackageError(f"package '{target}' is damaged: {text}") from None


def _code(error: NpukitError) -> str:
    return error.code if isinstance(error, PackageError) else ""


def _read(target: Path) -> Package:
    with zipfile.ZipFile(target) as archive:
        members = _check_members(archive, target.stat().st_size)
        manifest, origins = manifest_from_json(parse_json(MANIFEST, archive.read(MANIFEST)))
        encodings = parse_json(ENCODINGS, archive.read(ENCODINGS))
        contract = parse_json(CONTRACT, archive.read(CONTRACT))
        model = archive.read(MODEL)
        with archive.open(WEIGHTS) as weights:  # to its end: that is where zipfile compares the checksum
            while weights.read(_CHUNK):
                pass
    offset = _data_offset(target, members[WEIGHTS])
    graph = load_split(model, WEIGHTS, target, offset, members[WEIGHTS].file_size)
    _check_text(graph)
    check_graph(graph)
    graph = graph.evolve(origin_names=origins)
    return Package(manifest, graph, encodings_from_json(encodings, graph), *contract_from_json(contract, graph))


def _check_members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members by name. Raises PackageError unless they are the five, each once, plainly stored, and fit into the file."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename
        if name not in _LIMITS:
            raise PackageError(f"it has the member '{name[:80]}', which does not belong there")
        if name in found:
            raise PackageError(f"it has the member '{name}' twice")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
            raise PackageError(f"'{name}' is not stored plainly", hint="members of a .dlc are neither compressed nor encrypted")
        if info.file_size > _LIMITS[name]:
            raise PackageError(f"'{name}' has {info.file_size} bytes, at most {_LIMITS[name]} are read")
        found[name] = info
    missing = [name for name in _LIMITS if name not in found]
    if missing:
        raise PackageError(f"it is incomplete: {', '.join(missing)} is missing")
    if sum(info.file_size for info in found.values()) > size:
        raise PackageError("it is damaged: its members claim more bytes than the file has")
    return found


def _check_text(graph: Graph) -> None:
    """Raise PackageError unless all names are text: protobuf hands out bytes where a name is not UTF-8."""
    names = [graph.name, *graph.tensors, *graph.inputs, *graph.outputs]
    for node in graph.nodes:
        names += [node.op, node.name, node.domain, *node.inputs, *node.outputs, *node.attributes]
    if not all(isinstance(name, str) for name in names):
        raise PackageError("model.onnx is damaged: a name in it is not UTF-8")


def _data_offset(target: Path, info: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes start in the file, from its local header, which zipfile has checked."""
    with open(target, "rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return int(info.header_offset) + 30 + int(name) + int(extra)
