"""Profiles and external encodings on their way through the compiler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npukit.encoding import Array, Encoding
from npukit.errors import DataError
from npukit.graph import Node, make_graph, save
from npukit_aic.compiler import compile_model
from npukit_aic.observers import CALIBRATIONS


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A convolution with a bias, and a Relu."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "b": rng.standard_normal(4).astype(np.float32)}
    nodes = [Node("Conv", "conv", ("x", "w", "b"), ("h",), {}), Node("Relu", "relu", ("h",), ("y",), {})]
    save(make_graph(nodes, {"x": ("float32", (1, 3, 16, 16))}, ["y"], weights), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def data() -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    found = [{"x": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(8)]
    found[5]["x"][0, 0, 0, 0] = 9  # all calibrations but None cut it at some percentile, with enough bins
    return found


def compiled(model: Path, **options: Any) -> tuple[dict[str, Encoding], list[str]]:
    notes: list[str] = []
    package = compile_model(model, options, data=data(), note=notes.append)
    return {n: e for n, e in package.encodings.items() if not e.is_float}, notes


def same(a: dict[str, Encoding], b: dict[str, Encoding]) -> bool:
    return a.keys() == b.keys() and all(a[n].same_grid(b[n]) for n in a)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_a_dumped_profile_gives_what_the_data_gave(model: Path, tmp_path: Path, calibration: str) -> None:
    how = {"quantization_calibration": calibration, "percentile_calibration_value": 99.0}
    first, _ = compiled(model, dump_profile=str(tmp_path / "p.yaml"), num_histogram_bins=600, **how)
    second, notes = compiled(model, load_profile=str(tmp_path / "p.yaml"), **how)  # the bins are those of the file
    assert same(first, second)
    assert not [note for note in notes if "profile" in note]
    text = (tmp_path / "p.yaml").read_text().replace("GraphPreLowerHash: 0x", "GraphPreLowerHash: 0x1")
    (tmp_path / "p.yaml").write_text(text)
    third, notes = compiled(model, load_profile=str(tmp_path / "p.yaml"), **how)
    assert same(first, third)
    assert any("is of another graph" in note for note in notes)
    plain, _ = compiled(model, convert_to_quantize=True)
    assert same(first, plain) == (calibration == "None")


def test_the_profile_of_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    other = make_graph([Node("Relu", "r", ("in",), ("out",), {})], {"in": ("float32", (1, 8))}, ["out"], {})
    save(other, tmp_path / "other.onnx")
    samples = [{"in": np.ones((1, 8), np.float32)}]
    compile_model(tmp_path / "other.onnx", {"dump_profile": str(tmp_path / "p.yaml")}, data=samples, note=lambda _: None)
    with pytest.raises(DataError, match="knows no tensor of the model"):
        compiled(model, load_profile=str(tmp_path / "p.yaml"))


def test_external_encodings_take_effect(model: Path, tmp_path: Path) -> None:
    entry = {"bitwidth": 8, "is_symmetric": "False", "scale": 0.125, "offset": -64, "min": -8.0, "max": 23.875}
    (tmp_path / "e.json").write_text(json.dumps({"activation_encodings": {"x": [entry], "gone": [entry]}}))
    found, notes = compiled(model, external_quantization_file=str(tmp_path / "e.json"))
    assert (found["x"].dtype, float(found["x"].steps), int(found["x"].zeros)) == ("int8", 0.125, -64)
    plain, _ = compiled(model, convert_to_quantize=True)
    assert same({**found, "x": plain["x"], "b": plain["b"]}, plain)  # what the file does not name is profiled
    assert any("match no tensor: gone" in note for note in notes)
