"""A model through the compiler, the file and the card, in float32 and float16."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npukit.graph import Node, make_graph, save
from npukit_aic.compiler import compile_model
from npukit_aic.loaded import Loaded
from npukit_aic.qpc import read_qpc, write_qpc


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x (n, 8) times a weight, with a Relu."""
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    nodes = [Node("MatMul", "product", ("x", "w"), ("h",), {}), Node("Relu", "clamp", ("h",), ("y",), {})]
    save(make_graph(nodes, {"x": ("float32", ("n", 8))}, ["y"], {"w": weight}), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_float16_differs_by_its_rounding(model: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)
    results = {}
    for half in (False, True):
        package = compile_model(model, {"onnx_define_symbol": [("n", 2)], "convert_to_fp16": half})
        write_qpc(package, tmp_path / f"qpc{half}")
        qpc = read_qpc(tmp_path / f"qpc{half}")
        assert [(b.name, b.shapes, b.size) for b in qpc.bindings] == [("x", ((2, 8),), 64), ("y", ((2, 4),), 32)]
        results[half] = Loaded(qpc).run({"x": x})["y"]
    difference = np.abs(results[True] - results[False]).max()
    assert 0 < difference < 0.01
    assert results[True].dtype == np.float32


def test_the_door_opens_behind_all_others(tmp_path: Path) -> None:
    """``import qaic`` finds the emulator, unless somebody else has a qaic."""
    code = "import qaic; print(qaic.__file__)"
    ours = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "npukit_aic" in ours
    (tmp_path / "qaic.py").write_text("")
    theirs = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert theirs.strip() == str(tmp_path / "qaic.py")
