"""Every form of data becomes checked samples; what does not fit is named."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npukit.calibration import open_data
from npukit.errors import DataError, UsageError
from npukit.graph import Graph, Node, make_graph

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
K = np.arange(10).reshape(5, 2)


@pytest.fixture
def graph() -> Graph:
    """Two inputs: x float32 [1,3] and k int64 [1,2]."""
    nodes = [Node("Cast", "c", ("k",), ("f",), {"to": 1}), Node("Concat", "cat", ("x", "f"), ("y",), {"axis": 1})]
    return make_graph(nodes, {"x": ("float32", (1, 3)), "k": ("int64", (1, 2))}, ["y"])


@pytest.fixture
def single() -> Graph:
    """One input x float32 [1,3]."""
    return make_graph([Node("Relu", "r", ("x",), ("y",))], {"x": ("float32", (1, 3))}, ["y"])


class FakeTensor:
    """What a torch tensor looks like from outside."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def detach(self) -> FakeTensor:
        return self

    def cpu(self) -> FakeTensor:
        return self

    def numpy(self) -> Any:
        return self._data


def files(folder: Path) -> None:
    """Samples as one .npz per sample."""
    folder.mkdir()
    for i in range(5):
        np.savez(folder / f"{i}.npz", x=X[i : i + 1], k=K[i : i + 1])


def source(kind: str, folder: Path) -> Any:
    """The five samples in some form."""
    if kind == "dicts":
        return [{"x": x[None], "k": k[None]} for x, k in zip(X, K, strict=True)]
    if kind == "without batch":
        return [{"x": x, "k": k} for x, k in zip(X, K, strict=True)]
    if kind == "tuples":
        return [(x[None], k[None]) for x, k in zip(X, K, strict=True)]
    if kind == "loader with labels":
        return [(FakeTensor(x[None]), FakeTensor(k[None]), FakeTensor(np.zeros(1))) for x, k in zip(X, K, strict=True)]
    if kind == "stacked":
        return {"x": X, "k": K, "labels": np.zeros(5)}
    if kind == "float64":
        return [{"x": x[None].astype(np.float64), "k": k[None]} for x, k in zip(X, K, strict=True)]
    if kind == "npz":
        np.savez(folder / "all.npz", x=X, k=K)
        return folder / "all.npz"
    if kind == "folder":
        files(folder / "samples")
        return str(folder / "samples")
    if kind == "subfolders":
        for name, values in (("x", X), ("k", K)):
            (folder / "s" / name).mkdir(parents=True)
            for i, value in enumerate(values):
                np.save(folder / "s" / name / f"{i}.npy", value[None])
        return folder / "s"
    for i in range(5):
        X[i].tofile(folder / f"x#{i}.raw")
        K[i].astype(np.float32).tofile(folder / f"k{i}.raw")
    named = kind == "named list"
    lines = [f"k:=k{i}.raw x:=x#{i}.raw" if named else f"x#{i}.raw k{i}.raw" for i in range(5)]
    (folder / "list.txt").write_text("#cat\n%y\n" + "\n".join(lines) + "\n")
    return folder / "list.txt"


KINDS = (
    *("dicts", "without batch", "tuples", "loader with labels", "stacked", "float64"),
    *("npz", "folder", "subfolders", "list", "named list"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_sources(graph: Graph, tmp_path: Path, kind: str) -> None:
    """All forms give the same samples, as often as one asks, and know their number."""
    data = open_data(source(kind, tmp_path), graph)
    for _ in range(2):
        samples = list(data)
        assert np.array_equal(np.concatenate([s["x"] for s in samples]), X)
        assert np.array_equal(np.concatenate([s["k"] for s in samples]), K)
        assert all(s["x"].dtype == np.float32 and s["k"].dtype == np.int64 for s in samples)
    assert len(data) == 5
    assert len(list(open_data(data, graph))) == 5


def test_limit_and_generators(graph: Graph, tmp_path: Path) -> None:
    """limit keeps the first samples; a generator serves once, and says so when asked again."""
    assert len(list(open_data(source("dicts", tmp_path), graph, limit=2))) == 2
    data = open_data((s for s in source("dicts", tmp_path)), graph)
    assert len(list(data)) == 5
    with pytest.raises(DataError, match="used up"):
        list(data)


def test_fixed_batch_is_split(single: Graph) -> None:
    """A batch of five for a model of batch one is five samples."""
    assert len(list(open_data([{"x": X}], single))) == 5


def test_single_input_files(single: Graph, tmp_path: Path) -> None:
    """A model with one input takes .npy files, one .npy, raw files with or without batch, and an .npz of any name."""
    np.save(tmp_path / "all.npy", X)
    assert len(list(open_data(tmp_path / "all.npy", single))) == 5
    np.savez(tmp_path / "odd.npz", whatever=X)
    assert len(list(open_data(tmp_path / "odd.npz", single))) == 5
    (tmp_path / "raw").mkdir()
    for i in range(5):
        X[i].tofile(tmp_path / "raw" / f"{i}.raw")
    assert np.array_equal(np.concatenate([s["x"] for s in open_data(tmp_path / "raw", single)]), X)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([{"x": X[:1]}], "sample 0.*'k' is missing"),
        ([{"x": X[:1], "k": K[:1], "q": K}], "'q' is not an input"),
        ([{"x": X[:1], "k": K[:1].astype(np.int32)}], "'k' is int32.*int64"),
        ([{"x": np.zeros((1, 4), np.float32), "k": K[:1]}], r"'x' has shape \[1, 4\].*\[1, 3\]"),
        ([{"x": X[:1], "k": K[:1]}, {"x": X[:1] * np.nan, "k": K[:1]}], "sample 1.*'x' has NaN"),
        ([(X[:1],)], "1 arrays, the model takes 2"),
        ([{"x": object(), "k": K[:1]}], "objects"),
        ([], "empty"),
        ({"x": X, "k": K[:3]}, "different numbers"),
        ({"a": X}, "no array is named like an input"),
        ({"x": X}, "'k' is missing"),
    ],
)
def test_bad_samples(graph: Graph, data: Any, words: str) -> None:
    """What does not fit is named: sample, input, found, allowed."""
    with pytest.raises(DataError, match=words):
        list(open_data(data, graph))


def test_bad_files(graph: Graph, single: Graph, tmp_path: Path) -> None:
    """Files that are missing, damaged, of the wrong size, hostile or full of objects are refused by name."""
    with pytest.raises(UsageError, match="does not exist"):
        open_data(tmp_path / "none.npz", graph)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 this is no zip")
    with pytest.raises(DataError, match=r"bad\.npz"):
        open_data(tmp_path / "bad.npz", graph)
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"objects\.npy"):
        open_data(tmp_path / "objects.npy", single)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        open_data(tmp_path / "empty", single)
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(UsageError, match=r"data\.csv"):
        open_data(tmp_path / "data.csv", single)
    (tmp_path / "raw").mkdir()
    X[0].astype(np.float16).tofile(tmp_path / "raw" / "half.raw")
    with pytest.raises(DataError, match=r"half\.raw.*6 bytes.*12"):
        list(open_data(tmp_path / "raw", single))
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"\0" * (1 << 20))
        archive.infolist()[0].file_size = 1 << 40
    with pytest.raises(DataError, match=r"bomb\.npz"):
        open_data(tmp_path / "bomb.npz", single)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no files"),
        ("z:=a.raw\n", "line 1: 'z' is not an input"),
        ("a.raw b.raw c.raw\n", "line 1: 3 files for 2 inputs"),
        ("x:=nowhere.raw k:=nowhere.raw\n", r"list.txt, line 1.*nowhere\.raw"),
        ("a.raw\n", "line 1: 1 files for 2 inputs"),
        ("%y\n%yy\n", "line 2: the model has no tensor 'yy'"),
    ],
)
def test_bad_lists(graph: Graph, tmp_path: Path, text: str, words: str) -> None:
    """A list that does not fit names its line."""
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        list(open_data(tmp_path / "list.txt", graph))


def npy(header: str) -> bytes:
    """An .npy file with any text as its header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(128)


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"


@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': "),
        npy("(" * 200),
        npy("{1: 2, 'a': 3}"),
        npy(HEADER % "(-8, 4)"),
        npy(HEADER % "(True, 4)"),
        npy(HEADER % "(99999999999999999999999, 4)"),
        b"not a header at all",
        b"",
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_damaged_array_is_one_error(content: bytes, suffix: str, single: Graph, tmp_path: Path) -> None:
    """Whatever numpy raises about a header, alone or in an archive, the file is named."""
    path = tmp_path / f"data{suffix}"
    if suffix == ".npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content)
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"cannot read '.*data{suffix}'"):
        list(open_data(path, single))


@pytest.mark.parametrize("place", ["stream", "method"])
def test_a_damaged_archive_is_one_error(place: str, single: Graph, tmp_path: Path) -> None:
    """A broken deflate stream and an unknown compression are damage, not a bug."""
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=np.zeros((8, 2), np.float32))
    content = bytearray(path.read_bytes())
    if place == "stream":
        content[60:80] = b"\xff" * 20
    else:
        content[content.rfind(b"PK\x01\x02") + 10] = 99
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read '.*data\.npz'"):
        list(open_data(path, single))
