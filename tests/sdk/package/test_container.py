"""A .dlc keeps everything, gives equal bytes for equal content, and nothing hostile gets in."""

from __future__ import annotations

import contextlib
import json
import random
import re
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npukit.encoding import Codes, Encoding, codes_of, dequantize, encoding_for_range, encoding_for_weights, quantize
from npukit.encoding.formats import insert_qdq
from npukit.errors import NpukitError, PackageError, UsageError
from npukit.graph import Graph, Node, Tensor, make_graph, numpy_type
from npukit.package import Manifest, Package, describe, diff_packages, read_package, write_package
from npukit.report import diff_text, info_text


@pytest.fixture
def package() -> Package:
    """A graph with a large and small constants, and encodings of every kind."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(64, 32)).astype(np.float32), "b": np.float32([1, 2])}
    nodes = [Node("MatMul", "mm", ("x", "w"), ("h",)), Node("ReduceMax", "r", ("h", "axes"), ("y",), {"keepdims": 0})]
    graph = make_graph(nodes, {"x": ("float32", ("n", 64))}, ["y"], {**weights, "axes": np.array([0])})
    encodings = {
        "x": encoding_for_range(-1, 2, "uint8"),
        "h": encoding_for_range(-1.5, 2, "int16", origin="override"),
        "y": Encoding("float16"),
        "w": encoding_for_weights(weights["w"], "int4", granularity="lpbq", axis=0, block_size=16),
    }
    manifest = Manifest("htp", "SM8750", {"weights": "int4"}, 7, "m.onnx", "abc", ("npukit quantize m.onnx",))
    return Package(manifest, graph.evolve(origin_names={"y": ("old", "y")}), encodings)


@pytest.fixture
def saved(package: Package, tmp_path: Path) -> Path:
    write_package(package, tmp_path / "m.dlc")
    return tmp_path / "m.dlc"


def test_round_trip(package: Package, saved: Path) -> None:
    """Graph, encodings, origins and manifest come back; the weights that were kept are mapped, not read."""
    write_package(package, saved, keep_float=True)
    again = read_package(saved)
    assert again.manifest == package.manifest
    assert again.graph.origin_names == package.graph.origin_names
    assert [attrs.asdict(n) for n in again.graph.nodes] == [attrs.asdict(n) for n in package.graph.nodes]
    for name, encoding in package.encodings.items():
        found = again.encodings[name]
        assert found.same_grid(encoding)
        assert (found.origin, found.symmetric, found.granularity) == (encoding.origin, encoding.symmetric, encoding.granularity)
    assert again.has_original_weights
    data = again.graph.tensor("w").data
    assert np.array_equal(data, package.graph.tensor("w").data)
    assert is_mapped(data)
    assert data.ctypes.data % 64 == 0


def is_mapped(base: Any) -> bool:
    """Whether an array is a view of a memory map."""
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    return isinstance(base, np.memmap)


def test_deterministic(package: Package, saved: Path, tmp_path: Path) -> None:
    """Equal content gives equal bytes, also after reading and writing again."""
    write_package(read_package(saved), tmp_path / "again.dlc")
    assert (tmp_path / "again.dlc").read_bytes() == saved.read_bytes()


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None], **more: bytes) -> None:
    """Unpack, change the members, and pack again."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (members | more).items():
            archive.writestr(name, data)


def edited(key: str, value: object) -> Callable[[dict[str, bytes]], None]:
    """A change of one key of the manifest."""

    def change(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        members["manifest.json"] = json.dumps(manifest | {key: value}).encode()

    return change


def encoded(name: str, entry: object) -> Callable[[dict[str, bytes]], None]:
    """A change of the encoding of one tensor; None takes it away."""

    def change(members: dict[str, bytes]) -> None:
        entries = json.loads(members["encodings.json"]) | {name: entry}
        members["encodings.json"] = json.dumps({key: value for key, value in entries.items() if value is not None}).encode()

    return change


def in_model(old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    """A change of bytes of the model that are there."""

    def change(members: dict[str, bytes]) -> None:
        assert old in members["model.onnx"], members["model.onnx"]
        members["model.onnx"] = members["model.onnx"].replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop("model.onnx"), r"incomplete: model\.onnx"),
        (lambda m: m.update({"../evil": b"x"}), "does not belong"),
        (lambda m: m.update({"/etc/passwd": b"x"}), "does not belong"),
        (lambda m: m.update({"manifest.json": b"[]"}), "not a JSON object"),
        (lambda m: m.update({"manifest.json": b"{"}), "damaged"),
        (lambda m: m.update({"encodings.json": b'{"x": 3}'}), "not a JSON object"),
        (encoded("ghost", {"dtype": "float16"}), "'ghost'"),
        (lambda m: m.update({"encodings.json": b'{"x": {"dtype": "uint8", "scale": -1}}'}), "scale"),
        (lambda m: m.update({"encodings.json": b'{"x": {"dtype": "uint8", "scale": NaN}}'}), "NaN"),
        (lambda m: m.update({"encodings.json": b'{"x": {"dtype": "uint8", "scale": 1, "colour": 2}}'}), "colour"),
        (lambda m: m.update({"model.onnx": b"nonsense"}), "damaged"),
        (lambda m: m.update({"weights.bin": b"short"}), "'w' needs"),
        (encoded("w", None), "'w' is stored as codes"),
        (encoded("w", {"dtype": "float16"}), "'w' is stored as codes"),
        (encoded("w", {"dtype": "int32", "scale": 1.0}), "'w' is stored as codes"),
        (encoded("w", {"dtype": "int8", "scale": 1.0}), "codes of tensor 'w' take 2048 bytes, found 1024"),
        (encoded("w", {"dtype": "int2", "scale": 1.0}), "codes of tensor 'w' take 512 bytes, found 1024"),
        (encoded("w", {"dtype": "int4", "scale": [1.0] * 3, "axis": 1}), "'w' has scales of shape"),
        (in_model(b"codes", b"codex"), "form 'codex', which is not known"),
        (in_model(b"length\x12\x041024", b"length\x12\x049999"), "'w' needs 9999 bytes"),
        (in_model(b"length\x12\x041024", b"length\x12\x04-999"), "'w' needs -999 bytes"),
        (in_model(b"length\x12\x041024", b"length\x12\x041000"), "codes of tensor 'w' take 1024 bytes, found 1000"),
        (in_model(b"form\x12\x05codes", b"fore\x12\x05codes"), "'w' needs 8192 bytes"),
        (in_model(b"\x08\x40\x08\x20\x10\x01", b"\x08\x40\x08\x20\x10\x06"), "'w' is stored as codes"),
        (in_model(b"\x08\x40\x08\x20\x10\x01", b"\x08\x40\x08\x60\x10\x01"), "'w'"),
        (edited("format_version", 99), "format 99"),
        (edited("format_version", "1"), "format '1'"),
        (edited("seed", "x"), "'seed' is str"),
        (edited("history", "x"), "'history' is str"),
    ],
)
def test_hostile_members(saved: Path, change: Callable[[dict[str, bytes]], None], words: str) -> None:
    """Missing, foreign and malformed members are refused, each with one line."""
    rewrite(saved, change)
    with pytest.raises(PackageError, match=words) as caught:
        read_package(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "uint8", "scale": [0.1] * 64, "axis": 99},
        {"dtype": "uint8", "scale": [0.1] * 3, "axis": 1},
        {"dtype": "int8", "scale": [[0.1] * 64] * 2, "axis": 1, "block_size": 99},
        {"dtype": "int8", "scale": [[0.1]], "axis": 1, "block_size": 1 << 50},
        {"dtype": "uint8", "scale": 0.1, "axis": True},
        {"dtype": "uint8", "scale": "0.1"},
        {"dtype": "uint8", "scale": 1e300},
        {"dtype": "uint8", "scale": [[0.1], [0.1, 0.2]]},
        {"dtype": "uint8", "scale": 0.1, "zero_point": 10**30},
        {"dtype": "uint8", "scale": 0.1, "symmetric": "yes"},
        {"dtype": "uint8", "scale": 0.1, "origin": 5},
        {"dtype": "uint8", "scale": 0.1, "origin": "\ud800"},
        {"dtype": "float16", "axis": 1},
        {"dtype": ["uint8"]},
        {"scale": 0.1},
    ],
    ids=lambda entry: str(entry)[:60],
)
def test_hostile_encodings(saved: Path, entry: dict[str, object]) -> None:
    """An encoding of the wrong types, or one that does not fit its tensor, is refused when read, not when it is used."""
    rewrite(saved, encoded("x", entry))
    with pytest.raises(PackageError, match=r"encodings\.json"):
        read_package(saved)


def test_text_that_is_not_utf8(package: Package, tmp_path: Path) -> None:
    """A command line with a file name that is not UTF-8 is stored as printable text."""
    manifest = attrs.evolve(package.manifest, history=("npukit quantize m\udcff.onnx",))
    write_package(attrs.evolve(package, manifest=manifest), tmp_path / "m.dlc")
    assert read_package(tmp_path / "m.dlc").manifest.history == ("npukit quantize m\\udcff.onnx",)


def test_options() -> None:
    """Options come back from JSON as they were put in, or are refused before anything is written."""
    assert Manifest(options={"p": Path("a"), "s": {2, 1}, "f": np.float32(0.5), "t": (1,)}).options == {
        "p": "a",
        "s": [1, 2],
        "f": 0.5,
        "t": [1],
    }
    for bad in (float("nan"), object()):
        with pytest.raises(UsageError, match="an option"):
            Manifest(options={"a": bad})


def test_write_checks(package: Package, tmp_path: Path) -> None:
    """A package that could not be read back is not written."""
    wrong = attrs.evolve(package, encodings={"x": Encoding("int8", [0.1, 0.2], axis=1)})
    with pytest.raises(NpukitError, match="has scales"):
        write_package(wrong, tmp_path / "m.dlc")
    assert not list(tmp_path.iterdir())


def test_compressed(saved: Path) -> None:
    """Compressed members are refused: no member can unpack to more than the file holds."""
    with zipfile.ZipFile(saved) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(PackageError, match="not stored plainly"):
        read_package(saved)


def test_bomb_that_lies(saved: Path) -> None:
    """A deflated member that claims to be small but unpacks to 64 MB takes no memory."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(b" " * (64 << 20)) + packer.flush()
    rewrite(saved, lambda m: m.pop("encodings.json"))
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr("encodings.json", bomb)
        start = archive.getinfo("encodings.json").header_offset
    data = bytearray(saved.read_bytes())
    for place in (start + 8, data.rfind(b"PK\x01\x02") + 10):  # method and size, in both headers
        struct.pack_into("<H", data, place, zipfile.ZIP_DEFLATED)
        struct.pack_into("<I", data, place + 14, 1000)
    saved.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(PackageError):
        read_package(saved)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_external_data_elsewhere(package: Package, tmp_path: Path) -> None:
    """A model whose weights point outside weights.bin, or into another file, is refused."""
    write_package(package, tmp_path / "m.dlc")
    for old, new in ((b"weights.bin", b"/etc/passwd"), (b"offset\x12\x010", b"offset\x12\x019")):

        def change(members: dict[str, bytes], old: bytes = old, new: bytes = new) -> None:
            assert old in members["model.onnx"]
            members["model.onnx"] = members["model.onnx"].replace(old, new)

        path = tmp_path / "bad.dlc"
        path.write_bytes((tmp_path / "m.dlc").read_bytes())
        rewrite(path, change)
        with pytest.raises(PackageError, match="'w'"):
            read_package(path)


def test_duplicates(saved: Path) -> None:
    """A member that stands there twice is refused."""
    with zipfile.ZipFile(saved, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("manifest.json", b"{}")
    with pytest.raises(PackageError, match="twice"):
        read_package(saved)


def test_not_a_package(tmp_path: Path) -> None:
    """A missing file, an empty one and a text are refused by name."""
    with pytest.raises(UsageError, match="does not exist"):
        read_package(tmp_path / "none.dlc")
    for content in (b"", b"hello"):
        (tmp_path / "bad.dlc").write_bytes(content)
        with pytest.raises(PackageError, match=r"bad\.dlc"):
            read_package(tmp_path / "bad.dlc")


def test_fuzz(saved: Path) -> None:
    """Whatever byte is changed or wherever the file ends: it reads, or one NpukitError says that it does not."""
    content = saved.read_bytes()
    rng = random.Random(0)
    refused = 0
    for round_ in range(300):
        data = bytearray(content)
        if round_ % 3 == 0:
            data = data[: rng.randrange(len(data))]
        else:
            for _ in range(rng.choice((1, 1, 4))):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        saved.write_bytes(data)
        try:
            read_package(saved)
        except NpukitError:
            refused += 1
    assert refused > 200


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    member=st.sampled_from(["model.onnx", "encodings.json", "manifest.json"]),
    edits=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=5),
    keep=st.none() | st.floats(0, 1),
)
def test_fuzz_behind_the_checksum(saved: Path, member: str, edits: list[tuple[int, int]], keep: float | None) -> None:
    """Members that were changed on purpose, with a fresh checksum: what is read can be shown and compared, or is refused."""
    path = saved.with_name("fuzzed.dlc")
    path.write_bytes(saved.read_bytes())

    def change(members: dict[str, bytes]) -> None:
        data = bytearray(members[member])
        for place, value in edits:
            data[place % len(data)] = value
        members[member] = bytes(data if keep is None else data[: int(keep * len(data))])

    rewrite(path, change)
    with contextlib.suppress(NpukitError):
        package = read_package(path)
        info_text(describe(package.graph, package.encodings, package.manifest)).encode()
        diff_text(diff_packages(package, read_package(saved))).encode()


def test_unwritable(package: Package, tmp_path: Path) -> None:
    """A target that cannot be written is a usage error and leaves nothing."""
    (tmp_path / "m.dlc").mkdir()
    with pytest.raises(UsageError, match="cannot write"):
        write_package(package, tmp_path / "m.dlc")
    with pytest.raises(UsageError, match="cannot write"):
        write_package(package, tmp_path / "no" / "m.dlc")
    assert [p.name for p in tmp_path.iterdir()] == ["m.dlc"]


GRIDS = {
    "int2": encoding_for_range(-1.5, 2, "int2", symmetric=True),
    "half": Encoding("int2", 0.7, -0.5),
    "uint3": encoding_for_range(-1.5, 2, "uint3"),
    "int3": encoding_for_range(-1.5, 2, "int3", symmetric=True),
    "uint4": encoding_for_range(-1.5, 2, "uint4"),
    "int8": encoding_for_range(-1.5, 2, "int8"),
    "uint16": encoding_for_range(-1.5, 2, "uint16"),
    "rows": Encoding("int4", np.linspace(0.1, 0.3, 1027), axis=0),
    "columns": Encoding("int4", np.linspace(0.1, 0.3, 1031), axis=-1),
    "blocks": Encoding("int4", np.linspace(0.1, 0.3, 33 * 1031).reshape(33, 1031), axis=0, block_size=32),
    "wide blocks": Encoding("uint4", np.linspace(0.1, 0.3, 1027 * 33).reshape(1027, 33), axis=1, block_size=32),
}


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", GRIDS)
def test_codes(name: str, kind: str, tmp_path: Path) -> None:
    """A weight with a grid of 16 bits or fewer comes back as its codes, which are mapped, and as the values they stand for."""
    grid = GRIDS[name]
    values = np.random.default_rng(0).normal(size=(1027, 1031)).astype(numpy_type(kind))
    graph = Graph("g", (), {"w": Tensor.constant("w", values)}, (), ("w",), 21)
    write_package(Package(Manifest(), graph, {"w": grid}), tmp_path / "m.dlc")
    read = read_package(tmp_path / "m.dlc")
    found = read.graph.tensor("w")
    if 8 * values.itemsize <= grid.bits:
        assert read.has_original_weights
        assert np.array_equal(found.data, values)
        return
    assert not read.has_original_weights
    assert isinstance(found.stored, Codes)
    assert is_mapped(found.stored.packed)
    assert found.stored.packed.size == -(-values.size * {3: 4}.get(grid.bits, grid.bits) // 8)
    codes = quantize(values, grid)
    for made in (codes_of(found, grid), codes_of(graph.tensor("w"), grid)):
        assert made.dtype == codes.dtype
        assert np.array_equal(made, codes)
    assert (found.dtype, found.shape) == (kind, values.shape)
    real = dequantize(codes, grid).astype(values.dtype)
    assert np.array_equal(found.data, real)
    assert np.array_equal(np.concatenate(list(found.pieces())), real)


def test_what_stays_float(tmp_path: Path) -> None:
    """Biases of 32 bits, float encodings, constants without encoding and those that are no floats stay bit by bit."""
    rng = np.random.default_rng(0)
    values = {"bias": rng.normal(size=500).astype(np.float32), "plain": rng.normal(size=500).astype(np.float32)}
    values |= {"half": rng.normal(size=500).astype(np.float32), "none": np.zeros((0, 3), np.float32), "index": np.arange(500)}
    graph = Graph("g", (), {n: Tensor.constant(n, v) for n, v in values.items()}, (), tuple(values), 21)
    grid = Encoding("int8", 0.1)
    encodings = {"bias": Encoding("int32", 0.1), "half": Encoding("float16"), "none": grid, "index": grid}
    write_package(Package(Manifest(), graph, encodings), tmp_path / "m.dlc")
    read = read_package(tmp_path / "m.dlc")
    assert read.has_original_weights
    for name, value in values.items():
        assert np.array_equal(read.graph.tensor(name).data, value)


def test_new_grid_for_codes(saved: Path) -> None:
    """A weight that is stored as codes gets another grid like any other: its values are quantized."""
    read = read_package(saved)
    grid = encoding_for_weights(read.graph.tensor("w").data, "int8")
    write_package(attrs.evolve(read, encodings={**read.encodings, "w": grid}), saved, keep_float=True)
    again = read_package(saved)
    assert np.array_equal(codes_of(again.graph.tensor("w"), grid), quantize(read.graph.tensor("w").data, grid))


def test_older_version(package: Package, saved: Path) -> None:
    """A package of version 1, which has float weights, reads and is written as version 2."""
    write_package(package, saved, keep_float=True)
    rewrite(saved, edited("format_version", 1))
    old = read_package(saved)
    assert np.array_equal(old.graph.tensor("w").data, package.graph.tensor("w").data)
    write_package(old, saved)
    assert read_package(saved).manifest.format_version == 2


def test_streams(tmp_path: Path) -> None:
    """Writing and reading hold a small part of a large weight in memory at a time."""
    values = np.zeros((4096, 2048), np.float32)
    graph = Graph("g", (), {"w": Tensor.constant("w", values)}, (), ("w",), 21)
    tracemalloc.start()
    for keep_float in (True, False):
        write_package(Package(Manifest(), graph, {"w": Encoding("int4", 0.1)}), tmp_path / "m.dlc", keep_float=keep_float)
        for piece in read_package(tmp_path / "m.dlc").graph.tensor("w").pieces():
            assert not piece.any()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes


def test_codes_leave_as_they_came(package: Package, saved: Path) -> None:
    """Q/DQ models and descriptions are those of the model before it was saved, and only the floats differ."""
    read = read_package(saved)
    first, second = (insert_qdq(p.graph, p.encodings) for p in (package, read))
    assert [attrs.asdict(n) for n in first.nodes] == [attrs.asdict(n) for n in second.nodes]
    assert set(first.tensors) == set(second.tensors)
    for name, tensor in first.tensors.items():
        assert (tensor.dtype, tensor.shape) == (second.tensors[name].dtype, second.tensors[name].shape)
        assert tensor.data is None or np.array_equal(tensor.data, second.tensors[name].data)
    assert info_text(describe(package.graph, package.encodings)) == info_text(describe(read.graph, read.encodings))
    assert [(d.kind, d.name) for d in diff_packages(package, read)] == [("weight", "w")]
    assert diff_packages(read, read_package(saved)) == ()


@pytest.mark.parametrize(
    ("contract", "words"),
    [
        (b"[]", "must hold types, edges and bindings"),
        (b'{"types":{},"edges":{}}', "must hold types, edges and bindings"),
        (b'{"types":[],"edges":{},"bindings":[]}', "types and edges are objects"),
        (b'{"types":{"nobody":"int"},"edges":{},"bindings":[]}', "node 'nobody'"),
        (b'{"types":{},"edges":{"nowhere":{"dtype":"","layout":""}},"bindings":[]}', "no input or output"),
        (b'{"types":{},"edges":{"x":{"dtype":""}},"bindings":[]}', "must have a dtype and a layout"),
        (b'{"types":{},"edges":{"x":{"dtype":"","layout":"NHXC"}},"bindings":[]}', "no layout 'NHXC'"),
        (b'{"types":{},"edges":{},"bindings":[{"N":0}]}', "sizes above 0"),
        (b'{"types":{},"edges":{},"bindings":[{"N":true}]}', "sizes above 0"),
        (b'{"types":{},"edges":{},"bindings":["N"]}', "sizes above 0"),
        (b"not JSON", "contract.json is damaged"),
    ],
)
def test_hostile_contracts(saved: Path, contract: bytes, words: str) -> None:
    """A contract of another form, or about nodes and tensors that are not there, is refused in one line."""
    rewrite(saved, lambda members: members.__setitem__("contract.json", contract))
    with pytest.raises(PackageError, match=re.escape(words)):
        read_package(saved)


def test_a_package_of_this_version_has_a_contract(saved: Path) -> None:
    """Only packages of the first version may lack one."""
    rewrite(saved, lambda members: members.__delitem__("contract.json"))
    with pytest.raises(PackageError, match=r"contract\.json is missing"):
        read_package(saved)


def test_a_model_is_no_damaged_package(tmp_path: Path) -> None:
    """A file of another kind is called what it is not, with what to do."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x08" * 100)
    with pytest.raises(PackageError, match=r"it is not a package \(npukit quantize"):
        read_package(path)
