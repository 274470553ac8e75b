"""A folder with a small model, its data and its DLCs, and the tools run in it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from npukit.graph import Node, make_graph, save
from npukit_qairt.main import main

Rng = np.random.Generator


@attrs.frozen
class Outcome:
    """What a tool left behind: its exit code, what it printed, and the files by name, DLCs without their history."""

    code: int
    text: str
    files: dict[str, str]

    @property
    def said(self) -> str:
        """The text without the lines that count what flags changed."""
        return "\n".join(line for line in self.text.splitlines() if "tensors affected" not in line)


Tool = Callable[..., Outcome]


def run(folder: Path, tool: str, *words: str | Path) -> Outcome:
    """Run a tool in a folder, in this process."""
    out, before = io.StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = main(tool, [str(word) for word in words])
    finally:
        os.chdir(before)
    files = {p.relative_to(folder).as_posix(): _digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    return Outcome(code, out.getvalue(), files)


def _digest(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    with zipfile.ZipFile(path) as archive:
        if "manifest.json" not in archive.namelist():
            return hashlib.sha256(path.read_bytes()).hexdigest()
        parts = [archive.read(name) for name in sorted(archive.namelist()) if name != "manifest.json"]
        manifest: dict[str, Any] = json.loads(archive.read("manifest.json"))
    facts = {k: v for k, v in manifest.pop("options").get("qairt", {}).items() if not k.endswith("_command")}
    manifest.pop("history")
    return hashlib.sha256(json.dumps([manifest, facts], sort_keys=True).encode() + b"".join(parts)).hexdigest()


def network(rng: Rng) -> tuple[list[Node], dict[str, np.ndarray]]:
    """Convolution, products, a constant that is computed, an output that is ready before the last one."""
    nodes = [
        Node("Conv", "conv", ("x", "w", "b"), ("c",), {"pads": (1, 1, 1, 1)}),
        Node("Relu", "relu", ("c",), ("r",)),
        Node("Add", "constant", ("k1", "k2"), ("k",)),
        Node("Mul", "scale", ("r", "k"), ("s",)),
        Node("MaxPool", "pool", ("s",), ("early",), {"kernel_shape": (2, 2), "strides": (2, 2)}),
        Node("GlobalAveragePool", "mean", ("early",), ("g",)),
        Node("Flatten", "flat", ("g",), ("f",)),
        Node("MatMul", "product", ("f", "mw"), ("m",)),
        Node("Gemm", "dense", ("m", "gw", "gb"), ("y",), {"transB": 1}),
        Node("Neg", "unread", ("m",), ("spare",)),
    ]
    weight = rng.standard_normal((4, 3, 3, 3)) * 0.3
    weight[0] *= 1e-7  # so little that a bias at its scale has no room
    constants = {
        "w": weight,
        "b": np.array([90.0, 0.1, -0.2, 0.33]),
        "k1": np.array([0.4]),
        "k2": np.array([0.2]),
        "mw": np.abs(rng.standard_normal((4, 6))),
        "gw": rng.standard_normal((3, 6)),
        "gb": np.array([0.3, -7.1, 0.01]),
    }
    return nodes, {name: value.astype(np.float32) for name, value in constants.items()}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that every test gets a copy of."""
    folder = tmp_path_factory.mktemp("qairt")
    rng = np.random.default_rng(0)
    nodes, constants = network(rng)
    ends = {"x": ("float32", ("n", 3, 8, 8)), "u": ("float32", ("n", 2))}
    save(make_graph(nodes, ends, ["y", "early"], constants), folder / "model.onnx")
    lines = []
    for index in range(4):
        image = rng.standard_normal((1, 3, 8, 8))
        image[0, 0, 0, 0] = 25.0  # what a method that cuts ranges leaves out
        image.astype("<f4").tofile(folder / f"x{index}.raw")
        rng.standard_normal((1, 2)).astype("<f4").tofile(folder / f"u{index}.raw")
        lines.append(f"x:=x{index}.raw u:=u{index}.raw")
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    given = {
        "version": "0.6.1",
        "activation_encodings": {
            "x": [
                {"bitwidth": 8, "dtype": "int", "is_symmetric": "False", "scale": 0.25, "offset": -128, "min": -32.0, "max": 31.75}
            ],
            "early": [
                {"bitwidth": 8, "dtype": "int", "is_symmetric": "False", "scale": 0.5, "offset": 0, "min": 0.0, "max": 127.5}
            ],
        },
        "param_encodings": {},
    }
    (folder / "overrides.json").write_text(json.dumps(given))
    halves = {name: [{"bitwidth": 16, "dtype": "float"}] for name in ("x", "c", "r")}
    (folder / "float.json").write_text(json.dumps({**given, "activation_encodings": halves}))
    for name, words in (("model", []), ("given", ["-q", "overrides.json"]), ("half", ["-q", "float.json"])):
        done = run(folder, "qairt-converter", "-i", "model.onnx", "--onnx_override_batch", "1", "-o", f"{name}.dlc", *words)
        assert done.code == 0, done.text
    _more_models(folder, rng)
    done = run(folder, "qairt-quantizer", "-i", "model.dlc", "-l", "list.txt", "-o", "quantized.dlc", "--bias_bitwidth", "32")
    assert done.code == 0, done.text
    for words in ("-o traced.dlc --enable_framework_trace", "-o turned.dlc --desired_input_layout x NHWC", "-o whole.dlc -oss"):
        done = run(folder, "qairt-converter", "-i", "model.onnx", "--onnx_override_batch", "1", *words.split())
        assert done.code == 0, done.text
    return folder


def _more_models(folder: Path, rng: Rng) -> None:
    """A model with a sequence, one whose op has no kernel, one that takes bytes; codes, and files of settings."""
    sequence = [
        Node("SequenceConstruct", "all", ("x", "x"), ("q",)),
        Node("ConcatFromSequence", "join", ("q",), ("j",), {"axis": 1}),
        Node("Relu", "relu", ("j",), ("y",)),
    ]
    save(make_graph(sequence, {"x": ("float32", (1, 4))}, ["y"]), folder / "sequence.onnx")
    columns = Node("Col2Im", "columns", ("x", "size", "block"), ("y",))
    sizes = {"size": np.array([2, 2]), "block": np.array([1, 1])}
    save(make_graph([columns], {"x": ("float16", (1, 3, 4))}, ["y"], sizes), folder / "kernel.onnx")
    rng.standard_normal(12).astype("<f4").tofile(folder / "twelve.raw")
    (folder / "kernel.txt").write_text("twelve.raw\n")
    rng.integers(0, 255, 4, np.uint8).tofile(folder / "bytes.raw")
    (folder / "bytes.txt").write_text("bytes.raw\n")
    for name, words in (("kernel", []), ("bytes", ["--source_model_input_datatype", "x", "uint8"])):
        source = "sequence.onnx --onnx_perform_sequence_construct_optimizer" if name == "bytes" else "kernel.onnx"
        done = run(folder, "qairt-converter", "-i", *source.split(), "-o", f"{name}.dlc", *words)
        assert done.code == 0, done.text
    lines = []
    for index in range(2):
        rng.integers(0, 255, (1, 3, 8, 8), np.uint8).tofile(folder / f"xc{index}.raw")
        rng.integers(0, 255, (1, 2), np.uint8).tofile(folder / f"uc{index}.raw")
        lines.append(f"xc{index}.raw uc{index}.raw")
    (folder / "codes.txt").write_text("\n".join(lines) + "\n")
    (folder / "io_in.yaml").write_text(
        "Input Tensor Configuration:\n- Name: x\n  Desired Model Parameters: {Layout: NHWC, Color Conversion: rgb}\n"
    )
    (folder / "loaders.py").write_text(LOADERS)
    (folder / "adaround.yaml").write_text(ADAROUND)


LOADERS = """\
import numpy as np


def unlabelled():
    rng = np.random.default_rng(5)
    return [{"x": rng.standard_normal((1, 3, 8, 8)).astype("f"), "u": np.zeros((1, 2), "f")} for _ in range(4)]
"""
ADAROUND = """\
aimet_quantizer:
  datasets:
    calibration: {dataloader_callback: 'loaders.py:unlabelled', dataloader_kwargs: {}}
  adaround:
    dataset: calibration,
    num_batches: 2
"""


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the folder."""
    return Path(shutil.copytree(made, tmp_path / "work"))


@pytest.fixture
def tool(folder: Path) -> Tool:
    """Run a tool in the folder."""
    return lambda name, *words: run(folder, name, *words)
