"""AIMET's encodings in the compiler's int8 form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import npukit as nk
from npukit.encoding import Encoding
from npukit.encoding.formats import read_encodings
from npukit.errors import DataError, EncodingError, NpukitError, UsageError
from npukit.graph import Graph, Node, make_graph
from npukit_aic.external import as_signed, read_external
from npukit_aic.scheme import glow_scheme


def model() -> Graph:
    """A convolution with a bias and a Relu."""
    weights = {"w": np.ones((2, 3, 1, 1), np.float32), "conv_bias": np.array([1, 2], np.float32)}
    nodes = [Node("Conv", "conv", ("x", "w", "conv_bias"), ("h",), {}), Node("Relu", "relu", ("h",), ("y",), {})]
    return make_graph(nodes, {"x": ("float32", (1, 3, 4, 4))}, ["y"], weights)


def entry(scale: float, offset: int, *, symmetric: bool = False, bits: int = 8) -> dict[str, Any]:
    ends = {"min": scale * offset, "max": scale * (255 + offset)}
    return {"bitwidth": bits, "dtype": "int", "is_symmetric": str(symmetric), "scale": scale, "offset": offset, **ends}


def document() -> dict[str, Any]:
    """As krai's flow makes it: no version, biases of 32 bits with the rest of 8."""
    return {
        "activation_encodings": {"x": [entry(0.1, -100)], "y": [entry(0.02, 0)], "h": [entry(0.05, -128, symmetric=True)]},
        "param_encodings": {
            "w": [entry(0.01, -128, symmetric=True), entry(0.02, -127, symmetric=True)],
            "conv_bias": [entry(0.1, -128, symmetric=True, bits=32)],
        },
    }


def write(path: Path, content: Any, form: str = "json") -> Path:
    path.write_text(json.dumps(content) if form == "json" else yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_offsets_are_of_the_int8_domain(tmp_path: Path, form: str) -> None:
    found = read_external(write(tmp_path / "profile.yaml", document(), form), model())
    grids = {n: (e.dtype, e.steps.tolist(), e.zeros.tolist()) for n, e in found.encodings.items()}
    assert grids == {
        "x": ("int8", pytest.approx(0.1), -128 + 100),
        "y": ("int8", pytest.approx(0.02), -128),
        "h": ("int8", pytest.approx(0.05), 0),
        "w": ("int8", pytest.approx([0.01, 0.02]), [0, 0]),
    }
    assert found.encodings["w"].axis == 0
    assert found.notes == (f"1 bias of 32 bits in {tmp_path / 'profile.yaml'} follow from input and weight: conv_bias",)


def test_a_symmetric_unsigned_grid_keeps_its_values() -> None:
    """AIMET calls the grid of a tensor without negative values symmetric as well; offset 0 would halve its range."""
    found = as_signed(Encoding("uint8", 0.1, 0, symmetric=True))
    assert (int(found.zeros), float(found.max)) == (-128, pytest.approx(25.5))
    assert int(as_signed(Encoding("uint8", 0.1, 127, symmetric=True)).zeros) == 0


def test_strictly_symmetric_ranges_leave_a_code_out(tmp_path: Path) -> None:
    content = {"activation_encodings": {"y": [entry(0.1, -127, symmetric=True) | {"max": 12.7}]}}
    assert int(read_external(write(tmp_path / "e.json", content), model()).encodings["y"].zeros) == 0


def test_scale_and_offset_follow_from_min_and_max(tmp_path: Path) -> None:
    content = {"activation_encodings": {"y": [{"bitwidth": 8, "min": -1.0, "max": 4.1}]}}
    found = read_external(write(tmp_path / "e.json", content), model()).encodings["y"]
    assert (float(found.steps), int(found.zeros)) == (pytest.approx(0.02), -128 + 50)
    content = {"activation_encodings": {"y": [{"bitwidth": 8, "scale": 0.02, "offset": -50, "is_symmetric": "False"}]}}
    assert read_external(write(tmp_path / "e.json", content), model()).encodings["y"].same_grid(found)


def test_they_take_effect(tmp_path: Path) -> None:
    """A model with an external file needs data for nothing that the file decides; the bias has the product of scales."""
    found = read_external(write(tmp_path / "e.json", document()), model())
    made = nk.quantize(nk.Request(model(), overrides=found.encodings), "cpu").encodings
    assert all(made[name].same_grid(found.encodings[name]) for name in ("x", "y", "w"))
    assert made["conv_bias"].steps == pytest.approx(made["x"].steps * made["w"].steps)
    assert glow_scheme({}).bias(made["x"], made["w"], model().tensor("conv_bias")) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["activation_encodings"]["x"][0].update(max=99.0), "'x': min -10 and max 99 contradict scale 0.1 and offset"),
        (lambda d: d["activation_encodings"]["x"][0].update(scale=0.2), "which reach from -20 to 31"),
        (lambda d: d["activation_encodings"]["x"][0].update(offset=-90), "'x': min -10 and max 15.5 contradict"),
        (lambda d: d["param_encodings"]["w"][1].update(min=-9.0), "'w': min -9"),
        (lambda d: d["activation_encodings"]["x"][0].update(scale="much"), "'x': could not convert"),
        (lambda d: d["activation_encodings"]["x"][0].pop("bitwidth"), "'x': the key 'bitwidth' is missing"),
        (lambda d: d["activation_encodings"]["x"][0].update(bitwidth=10**9), "a bitwidth lies in 2..32, found 1000000000"),
        (lambda d: d["activation_encodings"].update(x={"scale": 1}), "'x': a list of encodings is expected, found dict"),
        (lambda d: d["param_encodings"]["w"].append(entry(1, 0)), "'w'"),
        (lambda d: d.update(version="7"), "version '7' is not known"),
        (lambda d: d.update(activation_encodings=[1]), "has no activation_encodings and param_encodings"),
        (dict.clear, "has no activation_encodings and param_encodings"),
    ],
)
def test_contradictions_are_named(tmp_path: Path, change: Any, message: str) -> None:
    content = document()
    change(content)
    with pytest.raises(EncodingError, match=message) as caught:
        read_external(write(tmp_path / "e.json", content), model())
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read encodings"):
        read_external(tmp_path / "absent.json", model())
    for content in (b"\xff\x00", b"{", b"[" * 50_000, b"a: &a [*a]"):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(DataError, match="is not a file of encodings in JSON or YAML"):
            read_external(tmp_path / "bad", model())
    with pytest.raises(EncodingError, match=r"version 1\.0\.0, which are read as JSON only"):
        read_external(write(tmp_path / "e.yaml", {"version": "1.0.0", "activation_encodings": []}, "yaml"), model())
    (tmp_path / "bad").write_bytes(b"")
    with pytest.raises(NpukitError, match="is not a file of encodings by name"):
        read_external(tmp_path / "bad", model())


def test_names_without_a_tensor(tmp_path: Path) -> None:
    content = document()
    content["activation_encodings"]["gone"] = [entry(0.1, -3)]
    assert "1 encoding in" in read_external(write(tmp_path / "e.json", content), model()).notes[1]
    other = {"activation_encodings": {"gone": [entry(0.1, -3)]}}
    with pytest.raises(EncodingError, match="no encoding of a tensor of the model, and 1 others"):
        read_external(write(tmp_path / "e.json", other), model())


def test_files_that_aimet_wrote(shared: Path) -> None:
    """Every one of 8 bits, in all versions: the real values are those that npukit's reader finds, the types are signed."""
    graph = nk.load(shared / "aimet_encodings" / "tiny.onnx")
    files = [
        f for f in sorted((shared / "aimet_encodings").glob("*.json")) if f.name.startswith(("w8", "w4", "int2", "lpbq", "per"))
    ]
    assert len(files) > 20
    for file in files:
        found, expected = read_external(file, graph), read_encodings(file, graph, lenient=True).encodings
        assert found.encodings.keys() == expected.keys()
        for name, one in expected.items():
            other = found.encodings[name]
            assert other.signed
            assert np.allclose([one.min, one.max], [other.min, other.max]), (file.name, name)
