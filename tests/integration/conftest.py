"""A small model, its data, and the real command in a subprocess."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from npukit.graph import Node, make_graph, save

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Run:
    """Run ``npukit`` with arguments in an empty folder."""

    def run(*args: str | Path, check: int | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "npukit", *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
        if check is not None:
            assert done.returncode == check, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A convolutional network of a few hundred parameters, as an ONNX file."""
    rng = np.random.default_rng(0)
    nodes = [
        Node("Conv", "conv", ("x", "w", "b"), ("c",), {"pads": (1, 1, 1, 1)}),
        Node("Relu", "relu", ("c",), ("r",)),
        Node("MaxPool", "pool", ("r",), ("p",), {"kernel_shape": (2, 2), "strides": (2, 2)}),
        Node("Flatten", "flat", ("p",), ("f",)),
        Node("Gemm", "gemm", ("f", "gw", "gb"), ("y",), {"transB": 1}),
    ]
    constants = {
        "w": rng.standard_normal((4, 2, 3, 3)).astype(np.float32),
        "b": rng.standard_normal(4).astype(np.float32),
        "gw": rng.standard_normal((3, 64)).astype(np.float32),
        "gb": rng.standard_normal(3).astype(np.float32),
    }
    graph = make_graph(nodes, {"x": ("float32", (1, 2, 8, 8))}, ["y"], constants)
    path = tmp_path / "model.onnx"
    save(graph, path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight samples for the model."""
    path = tmp_path / "data.npz"
    np.savez(path, x=np.random.default_rng(1).standard_normal((8, 2, 8, 8)).astype(np.float32))
    return path
