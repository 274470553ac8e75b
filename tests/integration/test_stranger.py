"""Somebody else's backend, one plugin file with public names only: every command works on it unchanged."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest

import npukit as nk
from npukit.backend import Backend
from npukit.graph import Node, make_graph, save
from npukit.testing import BackendConformance, Tolerance

FILE = Path(__file__).with_name("stranger.py")


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stranger", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


STRANGER = _module()


class TestShiftNpu(BackendConformance):
    """The kit. Sums on grids of powers of two often end half way between codes; there the chip rounds up, Q/DQ to the even code."""

    backend: ClassVar[Backend] = STRANGER.ShiftNpu()
    tolerances: ClassVar[Mapping[str, Tolerance]] = {"Add": Tolerance(steps=1, share=0.3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network in two forms, with data: one plain, one with a depthwise convolution."""
    made = tmp_path_factory.mktemp("stranger")
    rng = np.random.default_rng(0)
    for name, groups in (("plain", 1), ("depthwise", 4)):
        nodes = [
            Node("Conv", "c1", ("x", "w1", "b1"), ("h1",)),
            Node("Relu", "r1", ("h1",), ("a1",)),
            Node("Conv", "c2", ("a1", "w2"), ("h2",), {"group": groups}),
            Node("Relu", "r2", ("h2",), ("a2",)),
            Node("Flatten", "f", ("a2",), ("flat",)),
            Node("Gemm", "g", ("flat", "w3"), ("y",), {"transB": 1}),
        ]
        shapes = {"w1": (4, 2, 3, 3), "b1": (4,), "w2": (4, 4 // groups, 1, 1), "w3": (5, 4 * 36)}
        constants = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}
        save(make_graph(nodes, {"x": ("float32", ("N", 2, 8, 8))}, ["y"], constants), made / f"{name}.onnx")
    np.savez(made / "data.npz", x=rng.standard_normal((32, 2, 8, 8)).astype(np.float32))
    return made


def test_no_private_imports() -> None:
    """The file imports rooms and what is public in them, nothing with a leading underscore, nothing of another plugin."""
    modules = re.findall(r"^from (npukit[\w.]*) import", FILE.read_text(encoding="utf-8"), re.MULTILINE)
    public = {"npukit.backend", "npukit.backend.kernels", "npukit.calibration", "npukit.encoding", "npukit.graph", "npukit.plugins"}
    assert set(modules) == public


def test_every_command(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The trip through the command line with a plugin file: each command ends well and names the backend."""
    from npukit.cli import main

    monkeypatch.chdir(folder)

    def run(line: str, code: int = 0) -> str:
        got = main([*line.split(), "--plugin", str(FILE)])
        shown = capsys.readouterr()
        assert got == code, f"{line}\n{shown.out}\n{shown.err}"
        return shown.out + shown.err

    assert "tails" in run("backends")
    assert "rounding" in run("backends shift")
    assert "power of two" in run("backends shift --rules Conv")
    assert "accepted by shift:S2" in run("check plain.onnx --backend shift")
    assert "depthwise" in run("check depthwise.onnx --backend shift:S1", 1)
    run("profile plain.onnx --backend shift --data data.npz -o p.npz")
    run("quantize plain.onnx --backend shift --data p.npz --calibration tails -o tails.dlc")
    run("quantize plain.onnx --backend shift --data p.npz --edge x=int8:NHWC --bind N=1 --bind N=4 -o m.dlc --set rounding=floor")
    told = run("info m.dlc")
    assert all(text in told for text in ("made for shift:S2", "rounding = floor", "natively x is int8 NHWC", "N=1; N=4"))
    assert "shift:S2" in run("run m.dlc --data data.npz --limit 4")
    assert "changed nothing" not in run("run m.dlc --data data.npz --limit 4 --set rounding=floor")
    assert "is the default" in run("run m.dlc --data data.npz --limit 4 --set rounding=nearest")
    assert "did you mean 'rounding'" in run("run m.dlc --data data.npz --set roundin=floor", 2)
    assert re.search(r"y\s+inf dB\s+\d\d\.\d dB", run("compare plain.onnx --backend cpu,shift --data data.npz"))
    run("compare m.dlc --data data.npz --reference plain.onnx --limit 4")
    run("analyze plain.onnx --backend shift --data data.npz --worst 2")
    run("quantize depthwise.onnx --backend shift:S2 --data data.npz -o d.dlc")
    assert "not written" in run("legalize d.dlc --backend shift:S1 -o never.dlc", 1)
    assert not Path("never.dlc").exists()
    assert "refuses the model" in run("run d.dlc --backend shift:S1 --data data.npz", 2 - 1)
    assert "needs the feature 'depthwise'" in run("run d.dlc --backend shift:S1 --data data.npz --limit 1 --no-strict")
    run("bench d.dlc --runs 2 --data data.npz")
    run("export d.dlc --format onnx-qdq -o d.qdq.onnx")
    assert json.loads(run("check plain.onnx --backend shift --json"))["verdict"] == "accepted"
    run("quantize plain.onnx --backend shift --data data.npz --weights int8 --optimize adaround -o a.dlc")


def test_grids_and_the_setting(folder: Path) -> None:
    """Every grid of the package is a power of two; rounding down gives lower results than rounding to nearest."""
    made = nk.quantize(folder / "plain.onnx", STRANGER.ShiftNpu(), data=folder / "data.npz")
    assert all(np.all(np.frexp(e.steps)[0] == 0.5) for n, e in made.encodings.items())
    x = np.load(folder / "data.npz")["x"][:8]
    results = {}
    for rounding in ("nearest", "floor"):
        target = nk.target(STRANGER.ShiftNpu(), settings={"rounding": rounding})
        with nk.Session(made, target) as session:
            results[rounding] = session.run({"x": x}, ["h1"])["h1"]
    assert np.all(results["floor"] <= results["nearest"])
    assert np.any(results["floor"] < results["nearest"])


@pytest.mark.slow
def test_one_session_for_many_threads(folder: Path) -> None:
    """Sixteen threads that ask one session for different tensors get what one thread gets."""
    made = nk.quantize(folder / "plain.onnx", STRANGER.ShiftNpu(), data=folder / "data.npz")
    x = np.load(folder / "data.npz")["x"]
    names = ["h1", "a1", "h2", "a2", "flat", "y"]
    with nk.Session(made, STRANGER.ShiftNpu()) as session:
        assert session.metrics()["fast"] == 2
        alone = [session.run({"x": x[i : i + 1]}, [names[i % 6]]) for i in range(32)]
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda i: session.run({"x": x[i % 32 : i % 32 + 1]}, [names[i % 32 % 6]]), range(320)))
    for index, result in enumerate(found):
        for name, value in result.items():
            np.testing.assert_array_equal(value, alone[index % 32][name])
