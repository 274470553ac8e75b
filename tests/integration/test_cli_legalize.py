"""npukit legalize and quantize --legalize, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def wide(cli: Any, model: Path, data: Path, tmp_path: Path) -> Path:
    """The model with 16-bit activations, for a chip that takes them."""
    cli("quantize", model, "--backend", "htp", "--data", data, "--activations", "uint16", "-o", "wide.dlc", check=0)
    return tmp_path / "wide.dlc"


def test_package(cli: Any, wide: Path, tmp_path: Path) -> None:
    """The changes are listed with node and rule, and the written package is accepted and keeps its history."""
    cli("check", wide, "--backend", "htp:v66", check=1)
    done = cli("legalize", wide, "--backend", "htp:v66", "-o", "legal.dlc", check=0)
    assert "granularity" in done.stdout
    assert "Gemm 'gemm'" in done.stdout
    assert "2 biases follow" in done.stdout
    assert "accepted by htp:QRB5165" in done.stdout
    cli("check", tmp_path / "legal.dlc", "--backend", "htp:v66", check=0)
    history = json.loads(cli("info", "legal.dlc", "--json", check=0).stdout)["manifest"]["history"]
    assert [line.split()[1] for line in history] == ["quantize", "legalize"]


def test_json(cli: Any, wide: Path) -> None:
    """Every change is there with both encodings, biases included."""
    found = json.loads(cli("legalize", wide, "--backend", "htp:v66", "--json", check=0).stdout)
    assert found["legal"] is True
    changes = {c["tensor"]: c for c in found["changes"]}
    assert {"x", "w", "b", "y"} <= set(changes)
    assert (changes["x"]["before"]["dtype"], changes["x"]["after"]["dtype"], changes["x"]["node"]) == ("uint16", "uint8", "conv")
    assert changes["b"]["rule"] == "derived"


def test_nothing_to_change(cli: Any, wide: Path) -> None:
    """A legal model is said to be accepted with 0 changes."""
    assert "accepted by htp:SM8750 with 0 encodings changed" in cli("legalize", wide, check=0).stdout


def test_float_model_needs_ranges(cli: Any, model: Path, tmp_path: Path) -> None:
    """Without data the new types are shown and a note says how to make them; a package cannot be written."""
    flags = ("--backend", "htp:v66", "--activations", "uint16")
    assert "need a range: npukit quantize --legalize --data D" in cli("legalize", model, *flags, check=0).stdout
    assert "have no range" in cli("legalize", model, *flags, "-o", "no.dlc", check=2).stderr
    assert not (tmp_path / "no.dlc").exists()


def test_write_overrides(cli: Any, model: Path, tmp_path: Path) -> None:
    """The written overrides are what was given after the changes, and quantize takes them."""
    entry = {"bw": 8, "dtype": "INT", "enc_type": "PER_TENSOR", "is_sym": False, "offset": [0]}
    given = {"version": "1.0.0", "param_encodings": []}
    given["activation_encodings"] = [{"name": "r", "scale": [0.1], **entry}, {"name": "p", "scale": [0.01], **entry}]
    (tmp_path / "o.json").write_text(json.dumps(given))
    cli("check", model, "--overrides", "o.json", check=1)
    done = cli("legalize", model, "--overrides", "o.json", "--write-overrides", "fixed.json", check=0)
    assert "same-grid" in done.stdout
    found = {e["name"]: e for e in json.loads((tmp_path / "fixed.json").read_text())["activation_encodings"]}
    assert set(found) == {"r", "p"}
    assert found["r"]["scale"] == found["p"]["scale"] == [pytest.approx(0.01)]  # p is followed by the tensor behind it
    cli("check", model, "--overrides", "fixed.json", check=0)


def test_quantize_legalize(cli: Any, model: Path, data: Path) -> None:
    """quantize --legalize shows the changes and writes; without the flag it refuses."""
    flags = ("--backend", "htp:v66", "--data", data, "--activations", "uint16", "-o", "out.dlc")
    assert "--legalize" in cli("quantize", model, *flags, check=1).stderr
    done = cli("quantize", model, *flags, "--legalize", check=0)
    assert "Because of" in done.stdout
    assert "optimizer:legalize" in done.stdout
    cli("check", "out.dlc", "--backend", "htp:v66", check=0)


def test_what_remains_is_exit_code_1(cli: Any, tmp_path: Path) -> None:
    """A model with an op that no chip has ends with its problem and exit code 1."""
    from npukit.graph import Node, make_graph, save

    save(make_graph([Node("Erf", "erf", ("x",), ("y",))], {"x": ("float32", (1, 2))}, ["y"], {}), tmp_path / "erf.onnx")
    done = cli("legalize", "erf.onnx", check=1)
    assert "unsupported-op" in done.stdout
    assert "still refused by htp:SM8750" in done.stdout
