"""Caveats about ranges, from the command line: found with data, said with a cure, gone when the cure is applied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npukit.graph import Node, make_graph, save

SCALE = 0.02  # of the embeddings, as in a decoder


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    """Four samples of small values."""
    values = SCALE * np.random.default_rng(0).standard_normal((4, 1, 8, 32))
    np.savez(tmp_path / "embeddings.npz", x=values.astype(np.float32))
    return tmp_path / "embeddings.npz"


def norm(path: Path, *, cured: bool = False) -> Path:
    """A root mean square norm in pieces that returns its factors too, so that it stays in pieces. The cured one divides."""
    op, inputs = ("Div", ("one", "root")) if cured else ("Reciprocal", ("root",))
    nodes = [
        Node("Mul", "square", ("x", "x"), ("squares",)),
        Node("ReduceMean", "mean", ("squares", "axes"), ("mean_square",)),
        Node("Add", "add", ("mean_square", "epsilon"), ("variance",)),
        Node("Sqrt", "sqrt", ("variance",), ("root",)),
        Node(op, "invert", inputs, ("inverse",)),
        Node("Mul", "scale", ("x", "inverse"), ("normed",)),
        Node("Mul", "weigh", ("normed", "weight"), ("y",)),
    ]
    constants = {"axes": np.array([-1]), "epsilon": np.float32(1e-6), "weight": np.linspace(0.5, 1.5, 32, dtype=np.float32)}
    constants |= {"one": np.float32(1)} if cured else {}
    save(make_graph(nodes, {"x": ("float32", (1, 8, 32))}, ["y", "inverse"], constants), path)
    return path


@pytest.mark.parametrize("activations", ["uint8", "uint16"])
def test_check_with_data(cli: Any, tmp_path: Path, embeddings: Path, activations: str) -> None:
    """The warning names node and tensor, the range found and the one that is fine, and a cure, which ends it."""
    flags = ("--data", embeddings, "--activations", activations, "--json")
    found = json.loads(cli("check", norm(tmp_path / "norm.onnx"), *flags, check=0).stdout)
    (problem,) = [p for p in found["problems"] if p["rule"] == "reciprocal-range"]
    assert found["verdict"] == "accepted"
    assert (problem["severity"], problem["rule"], problem["node"]) == ("warning", "reciprocal-range", "invert")
    assert problem["tensor"] == "root"
    assert problem["message"].startswith("the largest magnitude of 'root' is 0.0")
    assert "fine is at least 1" in problem["message"]
    assert "Div" in problem["hint"]
    cured = json.loads(cli("check", norm(tmp_path / "cured.onnx", cured=True), *flags, check=0).stdout)
    assert "reciprocal-range" not in {p["rule"] for p in cured["problems"]}


def test_a_logarithm_of_nothing(cli: Any, tmp_path: Path) -> None:
    """An offset of 1e-10 is nothing on a grid of 16 bits: the logarithm of zero is told of, and one of 0.01 is not."""
    np.savez(tmp_path / "powers.npz", x=np.linspace(0, 15, 4 * 64, dtype=np.float32).reshape(4, 1, 64))
    for offset, warned in ((1e-10, True), (1e-2, False)):
        nodes = [Node("Add", "add", ("x", "offset"), ("sum",)), Node("Log", "log", ("sum",), ("y",))]
        save(make_graph(nodes, {"x": ("float32", (1, 64))}, ["y"], {"offset": np.float32(offset)}), tmp_path / "log.onnx")
        found = cli("check", "log.onnx", "--data", "powers.npz", "--activations", "uint16", check=0).stdout
        assert ("log-of-nothing" in found) == warned


def test_ranges_that_are_fine(cli: Any, tmp_path: Path) -> None:
    """The same model says nothing over values of one, nor when there is no data to know the range from."""
    model = norm(tmp_path / "norm.onnx")
    np.savez(tmp_path / "ones.npz", x=2 * np.random.default_rng(0).standard_normal((4, 1, 8, 32)).astype(np.float32))
    assert "reciprocal-range" not in cli("check", model, "--data", "ones.npz", check=0).stdout
    assert "reciprocal-range" not in cli("check", model, check=0).stdout


def test_quantize_and_package(cli: Any, tmp_path: Path, embeddings: Path) -> None:
    """Quantize warns and writes; check of the package repeats it from its encodings and takes no data."""
    model = norm(tmp_path / "norm.onnx")
    done = cli("quantize", model, "--data", embeddings, "-o", "norm.dlc", check=0)
    assert "reciprocal-range" in done.stdout
    assert "reciprocal-range" in cli("check", "norm.dlc", check=0).stdout
    assert "has its ranges already" in cli("check", "norm.dlc", "--data", embeddings, check=2).stderr
    assert "reciprocal-range" not in cli("legalize", model, check=0).stdout


def test_caveats_are_explained(cli: Any) -> None:
    """Explain knows the caveats of the backends that are installed."""
    assert "Reciprocal: the simulator's results are too small" in cli("explain", "reciprocal-range", check=0).stdout
