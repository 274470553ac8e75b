"""A .dlc keeps everything, gives equal bytes for equal content, and nothing hostile gets in."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest

from npukit.encoding import Encoding, encoding_for_range, encoding_for_weights
from npukit.errors import NpukitError, PackageError, UsageError
from npukit.graph import Node, make_graph
from npukit.package import Manifest, Package, read_package, write_package


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
    """Graph, encodings, origins and manifest come back; the weights are mapped, not read."""
    again = read_package(saved)
    assert again.manifest == package.manifest
    assert again.graph.origin_names == package.graph.origin_names
    assert [attrs.asdict(n) for n in again.graph.nodes] == [attrs.asdict(n) for n in package.graph.nodes]
    for name, encoding in package.encodings.items():
        found = again.encodings[name]
        assert found.same_grid(encoding)
        assert (found.origin, found.symmetric, found.granularity) == (encoding.origin, encoding.symmetric, encoding.granularity)
    data = again.graph.tensor("w").data
    assert np.array_equal(data, package.graph.tensor("w").data)
    assert data is not None
    base = data
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert data.ctypes.data % 64 == 0


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop("model.onnx"), r"incomplete: model\.onnx"),
        (lambda m: m.update({"../evil": b"x"}), "does not belong"),
        (lambda m: m.update({"/etc/passwd": b"x"}), "does not belong"),
        (lambda m: m.update({"manifest.json": b"[]"}), "not a JSON object"),
        (lambda m: m.update({"manifest.json": b"{"}), "damaged"),
        (lambda m: m.update({"encodings.json": b'{"x": 3}'}), "not a JSON object"),
        (lambda m: m.update({"encodings.json": b'{"ghost": {"dtype": "float16"}}'}), "'ghost'"),
        (lambda m: m.update({"encodings.json": b'{"x": {"dtype": "uint8", "scale": -1}}'}), "scale"),
        (lambda m: m.update({"encodings.json": b'{"x": {"dtype": "uint8", "scale": NaN}}'}), "NaN"),
        (lambda m: m.update({"encodings.json": b'{"x": {"dtype": "uint8", "scale": 1, "colour": 2}}'}), "colour"),
        (lambda m: m.update({"model.onnx": b"nonsense"}), "damaged"),
        (lambda m: m.update({"weights.bin": b"short"}), "'w' needs"),
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


def test_bomb(saved: Path) -> None:
    """A member that would unpack to far more than it holds is refused before it is unpacked."""
    with zipfile.ZipFile(saved) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data if name != "encodings.json" else b" " * (300 << 20))
    with pytest.raises(PackageError, match=r"not plausible|not stored"):
        read_package(saved)


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
    assert refused > 250


def test_unwritable(package: Package, tmp_path: Path) -> None:
    """A target that cannot be written is a usage error and leaves nothing."""
    (tmp_path / "m.dlc").mkdir()
    with pytest.raises(UsageError, match="cannot write"):
        write_package(package, tmp_path / "m.dlc")
    with pytest.raises(UsageError, match="cannot write"):
        write_package(package, tmp_path / "no" / "m.dlc")
    assert [p.name for p in tmp_path.iterdir()] == ["m.dlc"]
