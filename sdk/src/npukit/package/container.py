"""Reading and writing .dlc files.

A .dlc is a zip of five members: manifest.json, encodings.json, contract.json, model.onnx and weights.bin (the large constants of
the model, and all that are stored as codes). Nothing is compressed: the weights can be memory-mapped in place, equal packages give
equal bytes whatever the zlib, and a member can never unpack to more than the file holds.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path

import attrs

from npukit.backend import Edge
from npukit.encoding import Array, Codes, Encoding, has_original_weights, packed_pieces, packed_size, packs
from npukit.errors import NpukitError, PackageError, UsageError
from npukit.graph import Blob, Graph, Tensor, check_graph, load_split, open_atomic, serialize_split
from npukit.package.codec import check_encodings, check_fit, dump_json, encodings_from_json, encodings_to_json, parse_json
from npukit.package.contract import NO_CONTRACT, contract_from_json, contract_to_json
from npukit.package.manifest import FORMAT_VERSION, Manifest, manifest_from_json, manifest_to_json

MANIFEST, ENCODINGS, CONTRACT, MODEL, WEIGHTS = "manifest.json", "encodings.json", "contract.json", "model.onnx", "weights.bin"
# The most bytes a member may have: JSON grows about tenfold in memory, protobuf ends at 2 GB.
_LIMITS: Mapping[str, float] = {MANIFEST: 16 << 20, ENCODINGS: 256 << 20, CONTRACT: 64 << 20, MODEL: 2 << 30, WEIGHTS: float("inf")}
# What zipfile and numpy raise on bytes that are not what they should be.
_DAMAGE = (zipfile.BadZipFile, struct.error, ArithmeticError, EOFError, LookupError, RuntimeError, TypeError, ValueError)
_EPOCH = (1980, 1, 1, 0, 0, 0)
_ALIGNMENT = 64
_CHUNK = 1 << 20
# How model.onnx marks a constant whose bytes in weights.bin are the codes of its encoding.
_CODES = "codes"


@attrs.frozen(eq=False)
class Package:
    """A prepared graph, the encodings of its tensors, and the manifest.

    A package that was read may hold weights as the codes of their encodings: their values are then those that the codes stand for.
    ``types`` is what each node computes in ("int", "float16", "float32"), by name; ``edges`` is what callers hand over and get at
    graph inputs and outputs; ``bindings`` are the sizes of its symbols that a symbolic graph is to run with.
    """

    manifest: Manifest
    graph: Graph
    encodings: Mapping[str, Encoding]
    types: Mapping[str, str] = attrs.field(factory=dict)
    edges: Mapping[str, Edge] = attrs.field(factory=dict)
    bindings: tuple[Mapping[str, int], ...] = ()

    @property
    def has_original_weights(self) -> bool:
        """Whether the values of all weights are the floats that were quantized, not what codes stand for."""
        return has_original_weights(self.graph)


def is_package(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a .dlc file, by its ending or its first bytes."""
    target = Path(path)
    try:
        return target.suffix == ".dlc" or _begins_as_archive(target)
    except OSError:
        return False


def _begins_as_archive(target: Path) -> bool:
    with open(target, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def write_package(package: Package, path: str | os.PathLike[str], *, keep_float: bool | Collection[str] = False) -> None:
    """Write a package; nothing is left behind when that fails.

    Constants that take less room as codes of their encoding (16 bits or fewer) are stored as those, from which they run with the
    same results; 2 and 4 bits are packed. ``keep_float`` stores the floats instead (True: of all, else of the constants it names),
    from which the codes follow: what quantizes or optimizes the model again then starts from the original. Floats that the package
    lost before do not come back.

    Raises UsageError when the target cannot be written, EncodingError when an encoding does not fit its tensor.
    """
    encodings = encodings_to_json(package.encodings, package.graph)
    manifest = manifest_to_json(attrs.evolve(package.manifest, format_version=FORMAT_VERSION), package.graph.origin_names)
    model, weights = serialize_split(package.graph, WEIGHTS, _packed(package, keep_float))
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


def _packed(package: Package, keep_float: bool | Collection[str]) -> dict[str, Blob]:
    """The constants that are stored as codes."""
    found = {}
    for name, tensor in package.graph.tensors.items():
        encoding = package.encodings.get(name)
        if encoding is None or not tensor.is_constant or not packs(tensor, encoding):
            continue
        kept = keep_float if isinstance(keep_float, bool) else name in keep_float
        if isinstance(tensor.stored, Codes) or not kept:
            size = packed_size(tensor.static_shape or (), encoding)
            found[name] = Blob(size, partial(packed_pieces, tensor, encoding), _CODES)
    return found


def _add(archive: zipfile.ZipFile, name: str, pieces: Iterable[bytes], position: int) -> None:
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
    if target.suffix != ".dlc" and not _begins_as_archive(target):
        raise PackageError("it is not a package", hint="npukit quantize makes a package (.dlc) of a model")
    with zipfile.ZipFile(target) as archive:
        members = _check_members(archive, target.stat().st_size)
        manifest, origins = manifest_from_json(parse_json(MANIFEST, archive.read(MANIFEST)))
        encodings = encodings_from_json(parse_json(ENCODINGS, archive.read(ENCODINGS)))
        if CONTRACT not in members and manifest.format_version > 1:
            raise PackageError(f"it is incomplete: {CONTRACT} is missing")
        contract = parse_json(CONTRACT, archive.read(CONTRACT)) if CONTRACT in members else NO_CONTRACT
        model = archive.read(MODEL)
        with archive.open(WEIGHTS) as weights:  # to its end: that is where zipfile compares the checksum
            while weights.read(_CHUNK):
                pass
    offset = _data_offset(target, members[WEIGHTS])
    graph = load_split(model, WEIGHTS, target, offset, members[WEIGHTS].file_size, partial(_unpack, encodings))
    _check_text(graph)
    check_graph(graph)
    check_encodings(encodings, graph)
    return Package(manifest, graph.evolve(origin_names=origins), encodings, *contract_from_json(contract, graph))


def _unpack(encodings: Mapping[str, Encoding], tensor: Tensor, form: str, packed: Array) -> Codes:
    """The codes of a constant. Raises PackageError unless its encoding, its shape and its bytes fit one another."""
    encoding, shape = encodings.get(tensor.name), tensor.static_shape or ()
    if form != _CODES:
        raise PackageError(f"tensor '{tensor.name}' is stored in the form '{form[:80]}', which is not known")
    if encoding is None or not packs(tensor, encoding):
        raise PackageError(f"tensor '{tensor.name}' is stored as codes, which its type and its encoding do not allow")
    check_fit(encoding, tensor)
    if packed.size != packed_size(shape, encoding):
        raise PackageError(f"the codes of tensor '{tensor.name}' take {packed_size(shape, encoding)} bytes, found {packed.size}")
    return Codes(packed, encoding, shape, tensor.dtype)


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
    missing = [name for name in _LIMITS if name not in found and name != CONTRACT]
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
