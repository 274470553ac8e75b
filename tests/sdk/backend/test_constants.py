"""Constants of large models are made when a node needs them, and computed with in parts; the results are those of small ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import npukit as nk
from npukit.backend import constants
from npukit.backend.constants import Constants, parts_of
from npukit.backend.value import Value
from npukit.encoding import Array, Encoding, encoding_for_weights
from npukit.graph import Graph, Node, make_graph
from npukit.quantization import Options, Quantized, Request, open_session
from npukit.testing import random_feeds

SIZES = {"a": (48, 40), "b": (32, 40), "c": (32, 24), "d": (24, 24), "e": (24, 24), "k": (6, 1, 3, 3), "t": (5, 24)}


@pytest.fixture(scope="module")
def graph() -> Graph:
    """Products of every form, a convolution, a table that is looked up, and constants that are read twice."""
    rng = np.random.default_rng(0)
    values: dict[str, Array] = {n: rng.normal(size=s).astype(np.float32) for n, s in SIZES.items()}
    values |= {n: rng.normal(size=s).astype(np.float32) for n, s in (("b_bias", 32), ("c_bias", 24), ("k_bias", 6))}
    values |= {"shape": np.array([1, 1, 4, 24]), "index": np.array([[0, 1, 2, 4]])}
    nodes = [
        Node("MatMul", "1", ("x", "a"), ("h1",)),
        Node("Gemm", "2", ("h1", "b", "b_bias"), ("h2",), {"transB": 1}),
        Node("Relu", "3", ("h2",), ("h3",)),
        Node("Gemm", "4", ("h3", "c", "c_bias"), ("h4",)),
        Node("MatMul", "5", ("h4", "d"), ("h5",)),
        Node("MatMul", "6", ("h5", "d"), ("h6",)),
        Node("MatMul", "7", ("h6", "e"), ("h7",)),
        Node("Gather", "8", ("t", "index"), ("h8",)),
        Node("Add", "9", ("h7", "h8"), ("h9",)),
        Node("Reshape", "10", ("h9", "shape"), ("h10",)),
        Node("Conv", "11", ("h10", "k", "k_bias"), ("y",)),
    ]
    return make_graph(nodes, {"x": ("float32", (4, 48))}, ["y"], values)


def quantized(graph: Graph, weights: str, activations: str = "uint8") -> Quantized:
    """The model with LPBQ on "d" and a float weight "e"."""
    overrides = {"e": Encoding("float16"), "h7": Encoding("float16")}
    if weights == "int4":
        data = graph.constant("d")
        assert data is not None
        overrides["d"] = encoding_for_weights(data, "int4", granularity="lpbq", axis=0, block_size=8)
    options = Options(weights=weights, activations=activations, strict=False, float_fallback=True)
    return nk.quantize(Request(graph, overrides=overrides), "htp", data=random_feeds(graph, 0), options=options)


def outcome(source: Any, feeds: dict[str, Array], kernels: str) -> dict[str, Array]:
    with open_session(source, "htp", kernels=kernels, strict=False, float_fallback=True) as session:
        names = [t for t in session.program.graph.tensors if t != "x"]
        first = session.run(feeds, names)
        again = session.run(feeds, names)
        assert all(np.array_equal(first[n], again[n]) for n in names)
        return first


@pytest.mark.parametrize("kernels", ["numpy", "fast"])
@pytest.mark.parametrize(
    ("weights", "activations"),
    [("int4", "uint8"), ("int4", "uint16"), ("int8", "uint8"), ("int16", "uint16"), ("float16", "uint8")],
)
def test_same_results(
    graph: Graph, weights: str, activations: str, kernels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large model, a saved one and both give all tensors bit for bit as a small one in memory."""
    made, feeds = quantized(graph, weights, activations), dict(random_feeds(graph, 1)[0])
    expected = outcome(made, feeds, kernels)
    made.save(tmp_path / "m.dlc")
    saved = outcome(tmp_path / "m.dlc", feeds, kernels)
    for name, size in (("LARGE_MODEL", 0), ("_SMALL", 100), ("_PART", 200)):
        monkeypatch.setattr(constants, name, size)
    for found in (saved, outcome(made, feeds, kernels), outcome(tmp_path / "m.dlc", feeds, kernels)):
        for name, value in expected.items():
            if made.graph.tensor(name).is_constant and name not in made.encodings:
                continue
            assert np.array_equal(found[name], value), name


def test_deferred(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes with constants that are not kept run on their kernel; the others stay fast."""
    made = quantized(graph, "int8")
    monkeypatch.setattr(constants, "LARGE_MODEL", 0)
    monkeypatch.setattr(constants, "_SMALL", 1000)
    found = Constants(made.graph, made.encodings)
    assert found.deferred == {"a", "b"}
    assert set(found) == {n for n, t in made.graph.tensors.items() if t.is_constant}
    assert len(found) == len(set(found))
    assert found["a"].data is not found["a"].data
    assert found["c"].data is found["c"].data
    assert found.get("x") is None
    with open_session(made, "htp", kernels="fast", strict=False, float_fallback=True) as session:
        slow = session.metrics()["numpy"]
    assert {"1 (MatMul)", "2 (Gemm)"} <= set(slow)
    assert "4 (Gemm)" not in slow


def test_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only exact sums are split, and the parts are all channels in order."""
    monkeypatch.setattr(constants, "_PART", 20)
    rng = np.random.default_rng(0)
    x = Value(rng.integers(0, 255, (3, 8), np.uint8), Encoding("uint8", 0.1))
    w = Value(rng.integers(-8, 7, (8, 7), np.int8), Encoding("int4", np.linspace(0.1, 0.2, 7), axis=1))
    bias = Value(np.arange(7, dtype=np.int32), Encoding("int32", np.linspace(0.1, 0.2, 7), axis=0))
    node = Node("Gemm", "n", ("x", "w", "b"), ("y",))
    found = [(p[1], p[2]) for p in parts_of(node, (x, w, bias), None)]
    assert [p.data.shape[1] for p, _ in found if p] == [2, 2, 2, 1]
    assert np.array_equal(np.concatenate([p.data for p, _ in found if p], axis=1), w.data)
    assert np.array_equal(np.concatenate([b.encoding.steps for _, b in found if b and b.encoding]), bias.encoding.steps)
    whole = [
        (attrs.evolve(node, attributes={"alpha": 2.0}), (x, w, bias), None),
        (attrs.evolve(node, attributes={"transB": 1}), (x, w, bias), None),
        (attrs.evolve(node, domain="other"), (x, w, bias), None),
        (node, (Value(np.ones((3, 8), np.float32)), w, bias), None),
        (node, (x, attrs.evolve(w, encoding=Encoding("float16")), bias), None),
        (node, (x, attrs.evolve(w, encoding=Encoding("int4", np.full((2, 7), 0.1), axis=0, block_size=4)), bias), None),
        (node, (x, w, attrs.evolve(bias, data=bias.data[None])), None),
        (node, (x, w, bias), Encoding("uint8", np.full(7, 0.1), axis=1)),
    ]
    for case in whole:
        assert [part is case[1] for part in parts_of(*case)] == [True]
