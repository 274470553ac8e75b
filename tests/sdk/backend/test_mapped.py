"""Large models: ONNX Runtime maps their constants from the files they are in."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

from npukit.backend import ort
from npukit.backend.ort import OrtModel, constant_bytes
from npukit.encoding import encoding_for_weights
from npukit.errors import ModelError
from npukit.graph import Graph, Node, load, make_graph, save
from npukit.package import Manifest, Package, read_package, write_package

X = np.random.default_rng(1).normal(size=(3, 256)).astype(np.float32)


@pytest.fixture
def graph() -> Graph:
    """Two products with a bias that is too small to be mapped."""
    rng = np.random.default_rng(0)
    constants = {"a": rng.normal(size=(256, 128)), "b": rng.normal(size=(128, 64)), "c": rng.normal(size=64)}
    nodes = [Node("MatMul", "1", ("x", "a"), ("h",)), Node("Gemm", "2", ("h", "b", "c"), ("y",))]
    return make_graph(nodes, {"x": ("float32", (3, 256))}, ["y"], {n: v.astype(np.float32) for n, v in constants.items()})


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """From 32 kB on a model is large; the graphs that were written to a temporary file."""
    written: list[Graph] = []
    monkeypatch.setattr(ort, "LARGE_MODEL", 1 << 15)
    monkeypatch.setattr(ort, "save", lambda graph, *args, **kwargs: (written.append(graph), save(graph, *args, **kwargs)))
    return written


def outcome(graph: Graph) -> np.ndarray:
    with OrtModel(graph) as model:
        return model.run({"x": X})["y"]


def test_original_file(graph: Graph, saves: list[Graph], tmp_path) -> None:
    """Constants that are mapped from the model's own file are taken from there, those of a package too."""
    expected = np.float32(X @ graph.constant("a")) @ graph.constant("b") + graph.constant("c")
    save(graph, tmp_path / "m.onnx", external_data="m.data")
    write_package(Package(Manifest(), graph, {}), tmp_path / "m.dlc")
    for read in (load(tmp_path / "m.onnx"), read_package(tmp_path / "m.dlc").graph):
        assert constant_bytes(read) == 4 * (256 * 128 + 128 * 64 + 64)
        np.testing.assert_allclose(outcome(read), expected, rtol=1e-4, atol=1e-4)
    assert not saves


def test_replaced_file(graph: Graph, saves: list[Graph], tmp_path) -> None:
    """A file that was replaced after it was mapped is not read: the map holds what it had."""
    save(graph, tmp_path / "m.onnx", external_data="m.data")
    read = load(tmp_path / "m.onnx")
    before = outcome(read)
    (tmp_path / "new").write_bytes(bytes(1 << 20))
    (tmp_path / "new").replace(tmp_path / "m.data")
    assert np.array_equal(outcome(read), before)
    (tmp_path / "m.data").unlink()
    assert np.array_equal(outcome(read), before)
    assert len(saves) == 2


def test_codes(graph: Graph, saves: list[Graph], tmp_path) -> None:
    """Weights that are stored as codes are widened into a temporary file."""
    encodings = {n: encoding_for_weights(graph.constant(n), "int4") for n in ("a", "b")}
    write_package(Package(Manifest(), graph, encodings), tmp_path / "m.dlc")
    read = read_package(tmp_path / "m.dlc").graph
    plain = read.with_tensors(attrs.evolve(t, data=t.data) for t in read.tensors.values() if t.is_constant)
    assert np.array_equal(outcome(read), outcome(plain))
    assert len(saves) == 2


def test_refused(graph: Graph, saves: list[Graph]) -> None:
    """A large model that ONNX Runtime does not take is refused with one line."""
    with pytest.raises(ModelError, match="ONNX Runtime refuses the model"):
        OrtModel(graph.evolve(nodes=(attrs.evolve(graph.nodes[0], op="Nothing"),), outputs=("h",)))
