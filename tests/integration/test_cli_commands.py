"""Every command does its work, from the command line, on a small model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from npukit.package import read_package


@pytest.fixture
def package(cli: Any, model: Path, data: Path, tmp_path: Path) -> Path:
    """The model quantized for HTP."""
    cli("quantize", model, "--backend", "htp", "--data", data, "-o", "model.dlc", check=0)
    return tmp_path / "model.dlc"


def test_help_imports_nothing_heavy() -> None:
    """The help page comes without numpy, onnx, onnxruntime, yaml or torch."""
    code = (
        "import sys; from npukit.cli import main; main(['--help']); "
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'yaml', 'torch', 'ml_dtypes'} & set(sys.modules); "
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "quantize" in done.stdout


def test_check(cli: Any, model: Path) -> None:
    """check answers from the model alone and says accepted."""
    done = cli("check", model, "--backend", "htp:sm8650", check=0)
    assert "accepted by htp:SM8650" in done.stdout


def test_check_lists_all_problems(cli: Any, model: Path) -> None:
    """A legal op in an illegal type is reported for every node, as JSON too, with exit code 1."""
    done = cli("check", model, "--backend", "htp:v68", "--weights", "int16", "--activations", "uint16", "--json", check=1)
    found = json.loads(done.stdout)
    assert found["verdict"] == "refused"
    assert {p["node"] for p in found["problems"]} == {"conv", "gemm"}
    assert {p["rule"] for p in found["problems"]} == {"arch"}


def test_quantize_writes_a_package(cli: Any, package: Path) -> None:
    """The package holds encodings of every tensor and the command that made it."""
    info = json.loads(cli("info", package, "--json", check=0).stdout)
    assert [layer["op"] for layer in info["layers"]] == ["Conv", "Relu", "MaxPool", "Flatten", "Gemm"]
    assert info["layers"][0]["inputs"][1]["type"] == "sFxp_8"
    assert info["manifest"]["history"][0].startswith("npukit quantize")
    assert info["macs"] == 8 * 8 * 4 * 2 * 9 + 64 * 3


def test_equal_commands_give_equal_bytes(cli: Any, model: Path, data: Path, package: Path) -> None:
    """The same command writes the same file on the same machine."""
    first = package.read_bytes()
    cli("quantize", model, "--backend", "htp", "--data", data, "-o", "model.dlc", check=0)
    assert package.read_bytes() == first


def test_run_on_two_backends(cli: Any, package: Path, data: Path, tmp_path: Path) -> None:
    """One flag swaps the backend; results are files with an index, and the two agree."""
    for backend in ("htp", "cpu"):
        cli("run", package, "--backend", backend, "--data", data, "-o", f"out_{backend}", check=0)
    index = json.loads((tmp_path / "out_htp" / "index.json").read_text())
    assert index["samples"] == 8
    results = [np.load(tmp_path / f"out_{b}" / "Result_7" / index["files"]["y"]) for b in ("htp", "cpu")]
    assert np.abs(results[0] - results[1]).max() < 0.05 * np.abs(results[1]).max()


def test_compare_and_raise(cli: Any, model: Path, data: Path) -> None:
    """The file that compare writes is taken by the next quantization, which has the SQNR that compare said, and no less."""
    flags = ("--backend", "cpu,htp", "--data", data, "--worst", "2")
    found = json.loads(cli("compare", model, *flags, "--write-overrides", "up.json", "--json", check=0).stdout)
    assert found["raised"]
    assert found["gain"]["gain"] > 0.5
    assert found["gain"]["before"]["y"] == pytest.approx(found["outputs"][0]["sqnr"]["htp"])
    cli("quantize", model, "--backend", "htp", "--data", data, "--overrides", "up.json", "-o", "up.dlc", check=0)
    after = json.loads(cli("compare", "up.dlc", "--reference", model, *flags, "--json", check=0).stdout)
    assert after["outputs"][0]["sqnr"]["htp"] == pytest.approx(found["gain"]["after"]["y"], abs=0.1)


def test_quantize_says_what_is_left_of_the_outputs(cli: Any, model: Path, data: Path) -> None:
    """The SQNR is that of the finished package on the first samples, as compare measures it."""
    done = cli("quantize", model, "--data", data, "-o", "m.dlc", "--json", check=0)
    found = json.loads(done.stdout)["sqnr"]
    flags = ("--backend", "htp", "--data", data, "--reference", model, "--limit", "4", "--json")
    seen = json.loads(cli("compare", "m.dlc", *flags, check=0).stdout)
    assert found == {"outputs": {"y": pytest.approx(seen["outputs"][0]["sqnr"]["htp"])}, "samples": 4, "low": [], "why": ""}
    done = cli("quantize", model, "--data", data, "--limit", "2", "-o", "m.dlc", check=0)
    assert "SQNR on htp:SM8750, first 2 samples: y " in done.stdout
    assert "warning: little is left" not in done.stdout


def test_quantize_warns_of_what_is_lost(cli: Any, model: Path, data: Path, tmp_path: Path) -> None:
    """One sample with an outlier takes the resolution from all others; the warning names the output."""
    with np.load(data) as archive:
        x = archive["x"].copy()
    x[-1, 0, 0, 0] = 1e4
    np.savez(tmp_path / "spike.npz", x=x)
    done = cli("quantize", model, "--data", "spike.npz", "-o", "m.dlc", check=0)
    assert "warning: little is left of 'y'" in done.stdout
    found = json.loads(cli("quantize", model, "--data", "spike.npz", "-o", "m.dlc", "--json", check=0).stdout)["sqnr"]
    assert found["low"] == ["y"]
    assert found["outputs"]["y"] < 10


@pytest.mark.slow
def test_quantize_says_why_it_did_not_measure(cli: Any, model: Path, data: Path, package: Path, tmp_path: Path) -> None:
    """A profile has no samples, a backend may have no way to run: the package is written all the same."""
    cli("profile", model, "--data", data, "-o", "seen.npz", check=0)
    done = cli("quantize", model, "--data", "seen.npz", "-o", "p.dlc", check=0)
    assert "SQNR not measured: a profile has no samples to run" in done.stdout
    cli("export", package, "--format", "encodings", "-o", "e.json", check=0)
    assert "no --data" in cli("quantize", model, "--overrides", "e.json", "-o", "o.dlc", check=0).stdout
    assert "computes in float" in cli("quantize", model, "--backend", "cpu", "--data", data, "-o", "f.dlc", check=0).stdout
    (tmp_path / "idle.py").write_text(IDLE)
    done = cli("quantize", model, "--plugin", "idle.py", "--backend", "idle", "--data", data, "-o", "i.dlc", check=0)
    assert "SQNR not measured: the driver is not here" in done.stdout
    assert (tmp_path / "i.dlc").exists()


IDLE = """
from npukit.errors import PluginError
from npukit.plugins import hookimpl
from npukit_htp.backend import HtpBackend


class Idle(HtpBackend):
    name = "idle"

    def open(self, program, kernels=""):
        raise PluginError("the driver is not here")


@hookimpl
def register_backends():
    return [Idle()]
"""


def test_overrides_that_gain_nothing_are_not_written(cli: Any, model: Path, data: Path, tmp_path: Path) -> None:
    """A chip without wider types gets no file, and compare says why; backends that compute in float are refused at once."""
    done = cli("compare", model, "--backend", "htp:v66", "--data", data, "--write-overrides", "up.json", check=0)
    assert "up.json: not written, no wider type of the worst layers is accepted" in done.stdout
    assert not (tmp_path / "up.json").exists()
    done = cli("compare", model, "--backend", "cpu", "--data", data, "--write-overrides", "up.json", check=2)
    assert "error: --write-overrides has no effect" in done.stderr


def test_export_qdq_runs_in_onnxruntime(cli: Any, package: Path, data: Path, tmp_path: Path) -> None:
    """The exported Q/DQ model runs in ONNX Runtime and equals the emulator within a step or two of the output."""
    cli("export", package, "--format", "onnx-qdq", "-o", "qdq.onnx", check=0)
    cli("run", package, "--data", data, "-o", "out", check=0)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(tmp_path / "qdq.onnx"), options, providers=["CPUExecutionProvider"])
    with np.load(data) as archive:
        theirs = session.run(None, {"x": archive["x"][:1]})[0]
    ours = np.load(tmp_path / "out" / "Result_0" / "y.npy")
    step = float(read_package(package).encodings["y"].steps)
    assert np.rint(np.abs(ours - theirs) / step).max() <= 2


@pytest.mark.parametrize("version", ["0.6.1", "1.0.0", "2.0.0"])
def test_export_encodings_round_trip(cli: Any, model: Path, package: Path, version: str) -> None:
    """Encodings exported in any version give the same grids when they come back as overrides."""
    cli("export", package, "--format", "encodings", "--version", version, "-o", "e.json", check=0)
    cli("convert", model, "--overrides", "e.json", "-o", "again.dlc", check=0)
    found = json.loads(cli("diff", package, "again.dlc", "--json").stdout)["differences"]
    changed = {d["name"] for d in found if d["kind"] == "encoding"}
    assert changed <= ({"b", "gb"} if version != "2.0.0" else set())


def test_diff_exit_code(cli: Any, package: Path) -> None:
    """A package equals itself."""
    assert "no differences" in cli("diff", package, package, check=0).stdout


def test_backends_rules_explain_doctor(cli: Any) -> None:
    """The commands that inform answer, in text and JSON."""
    names = {b["name"]: b["state"] for b in json.loads(cli("backends", "--json", check=0).stdout)["backends"]}
    assert names.pop("qnn") in ("ok", "needs a package")
    assert names == {"aic": "ok", "cpu": "ok", "htp": "ok"}
    rules = json.loads(cli("backends", "htp", "--rules", "Conv", "--json", check=0).stdout)["rules"]
    assert all(row["source"] for row in rules)
    assert "SM8750" in cli("backends", "htp", "--socs", check=0).stdout
    assert "bias" in cli("explain", "derived", check=0).stdout
    assert cli("doctor", check=0).stdout.strip().endswith("everything needed is here")


def test_demo(cli: Any) -> None:
    """The demo shows float and quantized accuracy; 8 bits cost at most two points."""
    found = json.loads(cli("demo", "--json", check=0).stdout)["accuracy"]
    assert found["float32"]["cpu"] > 0.97
    assert found["a8w8"]["htp"] > found["float32"]["cpu"] - 0.02
    assert set(found) == {"float32", "a8w8", "a8w4"}


def test_soc_file(cli: Any, model: Path, tmp_path: Path) -> None:
    """A SoC of the user's own needs no code."""
    (tmp_path / "mine.yaml").write_text("- {name: MYCHIP, arch: v68}\n")
    done = cli("check", model, "--backend", "htp:mychip", "--soc-file", "mine.yaml", check=0)
    assert "htp:MYCHIP" in done.stdout


@pytest.mark.slow
def test_keep_float(cli: Any, package: Path, model: Path, data: Path, tmp_path: Path) -> None:
    """A package holds codes, or with --keep-float the weights they were made of; both give the same results, bit for bit."""
    cli("quantize", model, "--backend", "htp", "--data", data, "--keep-float", "-o", "whole.dlc", check=0)
    cli("convert", package, "-o", "codes.dlc", check=0)
    cli("convert", "whole.dlc", "--keep-float", "-o", "again.dlc", check=0)
    found = {name: read_package(tmp_path / f"{name}.dlc") for name in ("model", "whole", "codes", "again")}
    assert {name: p.has_original_weights for name, p in found.items()} == {
        "model": False,
        "whole": True,
        "codes": False,
        "again": True,
    }
    for name in found:
        cli("run", f"{name}.dlc", "--backend", "htp", "--data", data, "--limit", "1", "-o", name, check=0)
    files = [file.relative_to(tmp_path / "model") for file in (tmp_path / "model").glob("Result_0/*.npy")]
    assert files
    for name in found:
        assert all((tmp_path / name / file).read_bytes() == (tmp_path / "model" / file).read_bytes() for file in files)
    shown = cli("run", package, "--backend", "cpu", "--data", data, "--limit", "1", check=0)
    assert "weights are those that the codes in the package stand for" in shown.stderr
