"""Bad input gives one clear line, a non-zero exit code, no traceback and no output file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import npukit as nk
from npukit.cli.main import main
from npukit.errors import ModelError
from npukit.graph import Node, make_graph


def write(path: Path, nodes: list[onnx.NodeProto], inputs: tuple[str, ...] = ("x",), outputs: tuple[str, ...] = ("y",)) -> Path:
    """An ONNX file that is not checked in any way."""
    infos = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2, 8, 8]) for n in names] for names in (inputs, outputs)]
    model = helper.make_model(helper.make_graph(nodes, "g", *infos), opset_imports=[helper.make_opsetid("", 21)])
    path.write_bytes(model.SerializeToString())
    return path


def refused(done: Any, *words: str, code: int) -> None:
    """One line of error (and perhaps one of hint), with all the words, and no traceback."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, f"'{word}' is not in: {done.stderr}"


@pytest.fixture
def quantize(cli: Any, data: Path, tmp_path: Path) -> Any:
    """Quantize with flags, and make sure that no output is left."""

    def run(model: Path, *flags: str, samples: Path | None = None) -> Any:
        given = () if "--data" in flags else ("--data", samples or data)
        done = cli("quantize", model, "--backend", "htp", *given, "-o", "out.dlc", *flags)
        assert not (tmp_path / "out.dlc").exists()
        assert not list(tmp_path.glob(".*"))
        return done

    return run


def test_not_onnx(quantize: Any, tmp_path: Path) -> None:
    """A text file is no model."""
    (tmp_path / "bad.onnx").write_text("this is not a model at all")
    refused(quantize(tmp_path / "bad.onnx"), "bad.onnx", "not an ONNX model", code=1)


def test_truncated(quantize: Any, model: Path) -> None:
    """Half a model is no model."""
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    refused(quantize(model), "model.onnx", code=1)


def test_missing_file(quantize: Any, tmp_path: Path) -> None:
    """A model that is not there is a usage error."""
    refused(quantize(tmp_path / "none.onnx"), "none.onnx", "does not exist", code=2)


def test_unknown_op(quantize: Any, tmp_path: Path) -> None:
    """An op that ONNX does not have is named with its node."""
    bad = write(tmp_path / "op.onnx", [helper.make_node("Frobnicate", ["x"], ["y"], name="frob")])
    refused(quantize(bad), "frob", "Frobnicate", code=1)


def test_cycle(quantize: Any, tmp_path: Path) -> None:
    """A cycle is named by its nodes."""
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], name="one"), helper.make_node("Relu", ["a"], ["b"], name="two")]
    refused(quantize(write(tmp_path / "cycle.onnx", nodes, outputs=("b",))), "cycle", "one", "two", code=1)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": np.zeros((2, 2, 8, 8), np.float32), "q": np.zeros(2)}, ("x",)),
        ({"x": np.zeros((2, 3, 8, 8), np.float32)}, ("x", "[1, 3, 8, 8]", "[1, 2, 8, 8]")),
        ({"x": np.zeros((2, 2, 8, 8), np.int32)}, ("x", "int32", "float32")),
        ({"x": np.zeros((0, 2, 8, 8), np.float32)}, ("empty",)),
        ({"x": np.full((2, 2, 8, 8), np.nan, np.float32)}, ("x", "NaN", "sample 0")),
    ],
    ids=["name", "shape", "dtype", "empty", "nan"],
)
def test_bad_data(quantize: Any, model: Path, tmp_path: Path, arrays: dict[str, Any], words: tuple[str, ...]) -> None:
    """Wrong name, shape, dtype, no samples, NaN: each says what is wrong with which input."""
    np.savez(tmp_path / "bad.npz", **arrays)
    refused(quantize(model, samples=tmp_path / "bad.npz"), *words, code=1)


def test_no_data(cli: Any, model: Path, tmp_path: Path) -> None:
    """Without data there is nothing to calibrate on."""
    done = cli("quantize", model, "--backend", "htp", "-o", "out.dlc")
    refused(done, "calibration", code=1)
    assert not (tmp_path / "out.dlc").exists()


def test_unwritable_output(cli: Any, model: Path, data: Path) -> None:
    """A folder that does not exist is found before any work."""
    done = cli("quantize", model, "--backend", "htp", "--data", data, "-o", "no/such/folder/out.dlc")
    refused(done, "no/such/folder", code=2)
    assert "calibrate" not in done.stderr


@pytest.mark.parametrize(
    ("backend", "words"), [("hpt", ("hpt", "did you mean 'htp'")), ("htp:sm8751", ("sm8751", "did you mean 'SM8750'"))]
)
def test_unknown_backend_or_soc(quantize: Any, model: Path, backend: str, words: tuple[str, ...]) -> None:
    """Unknown names come with the closest known one."""
    refused(quantize(model, "--backend", backend), *words, code=2)


def test_broken_plugin(cli: Any, model: Path, tmp_path: Path) -> None:
    """A plugin that fails to import is shown with its cause, naming it raises, and the others go on."""
    (tmp_path / "mynpu.py").write_text("import a_module_that_is_not_there\n")
    listed = json.loads(cli("backends", "--plugin", "mynpu.py", "--json", check=0).stdout)["backends"]
    broken = next(b for b in listed if b["name"] == "mynpu")
    assert broken["state"] == "broken"
    assert "a_module_that_is_not_there" in broken["cause"]
    refused(cli("check", model, "--backend", "mynpu", "--plugin", "mynpu.py"), "a_module_that_is_not_there", code=2)
    cli("check", model, "--backend", "htp", "--plugin", "mynpu.py", check=0)


def test_override_of_unknown_tensor(quantize: Any, model: Path, tmp_path: Path) -> None:
    """An override that matches no tensor is an error, with the closest name."""
    entry = {"name": "relu_out", "dtype": "INT", "bw": 8, "enc_type": "PER_TENSOR", "is_sym": False, "scale": [0.1], "offset": [0]}
    content = {"version": "1.0.0", "activation_encodings": [entry], "param_encodings": []}
    (tmp_path / "o.json").write_text(json.dumps(content))
    refused(quantize(model, "--overrides", "o.json"), "relu_out", code=1)


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Relu", [], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])],
        [helper.make_node("RandomNormal", [], ["r"], shape=[1, 2, 8, 8]), helper.make_node("Add", ["x", "r"], ["y"])],
        [
            helper.make_node("Constant", [], ["s"], value_ints=[1] * 512),
            helper.make_node("ConstantOfShape", ["s"], ["r"]),
            helper.make_node("Add", ["x", "r"], ["y"]),
        ],
        [
            helper.make_node("Constant", [], ["s"], value_float=1e-45),
            helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s"], ["d"]),
            helper.make_node("Relu", ["d"], ["y"]),
        ],
    ],
    ids=["node without inputs", "random numbers", "rank 512", "least scale"],
)
@pytest.mark.parametrize("command", ["check", "legalize", "quantize"])
def test_odd_models_are_no_bugs(
    command: str, nodes: list[onnx.NodeProto], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Models that no exporter writes are taken or refused by every command that prepares them, and never end as a bug."""
    flags = {"check": ["--data", data], "legalize": ["-o", tmp_path / "odd.dlc"]}
    given = flags.get(command, [*flags["check"], *flags["legalize"]])
    code = main([command, str(write(tmp_path / "odd.onnx", nodes)), *map(str, given)])
    assert code in (0, 1, 2), capsys.readouterr().err


def test_unsupported_op(cli: Any, tmp_path: Path) -> None:
    """check refuses an op the backend does not have, by name."""
    bad = write(tmp_path / "op.onnx", [helper.make_node("Celu", ["x"], ["y"], name="celu_1")])
    done = cli("check", bad, "--backend", "htp", check=1)
    assert "celu_1" in done.stdout
    assert "no op Celu" in done.stdout


@pytest.mark.parametrize("damage", ["truncated", "text"])
def test_damaged_package(cli: Any, model: Path, data: Path, tmp_path: Path, damage: str) -> None:
    """A damaged package is refused with one line."""
    cli("quantize", model, "--backend", "htp", "--data", data, "-o", "m.dlc", check=0)
    content = (tmp_path / "m.dlc").read_bytes()
    (tmp_path / "m.dlc").write_bytes(content[: len(content) // 2] if damage == "truncated" else b"hello")
    refused(cli("info", "m.dlc"), "m.dlc", code=2)


def test_unknown_command_and_flag(cli: Any, model: Path) -> None:
    """Typos come with what was meant."""
    refused(cli("quantise"), "did you mean 'quantize'", code=2)
    refused(cli("check", model, "--bakcend", "htp"), "did you mean '--backend'", code=2)


def test_convert_writes_packages_only(cli: Any, model: Path, tmp_path: Path) -> None:
    """A package under the name of an ONNX model would be taken for one."""
    done = cli("convert", model, "-o", "made.onnx", check=2)
    assert "what is written is a package" in done.stderr
    assert not (tmp_path / "made.onnx").exists()


def test_export_of_an_open_shape(tmp_path: Path) -> None:
    """The vendor's files have fixed shapes: what is open is named, with the flag that binds it."""
    graph = make_graph([Node("Relu", "r", ("x",), ("y",))], {"x": ("float32", ("N", 4))}, ["y"], {})
    target = nk.target("qnn")
    with pytest.raises(ModelError, match="input 'x' has the open shape") as caught:
        target.backend.export(target.compile(graph, {}), "qnn-dlc", tmp_path / "made.dlc")
    assert "--batch" in caught.value.hint
