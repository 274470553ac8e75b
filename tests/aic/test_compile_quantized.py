"""The compiler in int8: data, precisions, what stays float, ends in int8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npukit.encoding import Array
from npukit.errors import DataError, UsageError
from npukit.graph import Node, make_graph, save
from npukit.package import Package
from npukit_aic import options
from npukit_aic.compiler import compile_model
from npukit_aic.loaded import Loaded
from npukit_aic.qpc import Qpc, read_qpc, write_qpc

RNG = np.random.default_rng(3)
W1, W2 = (RNG.standard_normal((3, 3, 1, 1)).astype(np.float32) for _ in range(2))
DATA = [{"x": RNG.standard_normal((1, 3, 4, 4)).astype(np.float32)} for _ in range(4)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x (1, 3, 4, 4) -> Conv c1 -> a -> Softplus -> e -> Softplus -> s -> Conv c2 -> y; the card has no int8 form of Softplus."""
    nodes = [
        Node("Conv", "c1", ("x", "w1", "b1"), ("a",)),
        Node("Softplus", "soft", ("a",), ("e",)),
        Node("Softplus", "softer", ("e",), ("s",)),
        Node("Conv", "c2", ("s", "w2"), ("y",)),
    ]
    constants = {"w1": W1, "b1": np.float32([1, 2, 3]), "w2": W2}
    save(make_graph(nodes, {"x": ("float32", (1, 3, 4, 4))}, ["y"], constants), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def compiled(model: Path, notes: list[str] | None = None, *, data: Any = DATA, **given: Any) -> Package:
    """The package for some options, by way of the file."""
    chosen = options.read({"convert_to_quantize": True, **given}, strict=True)
    package = compile_model(model, chosen, data=data, note=([] if notes is None else notes).append)
    write_qpc(package, model.parent / "qpc")
    return read_qpc(model.parent / "qpc").package


def run(package: Package, feeds: Mapping[str, Array]) -> Array:
    return Loaded(Qpc.of(package)).run(feeds)["y"]


def grids(package: Package) -> dict[str, str]:
    return {n: e.dtype for n, e in package.encodings.items() if not e.is_float}


def test_int8_between_float_ops(model: Path) -> None:
    """Ops without an int8 form compute in float, and what lies between two of them has no grid."""
    for half in (False, True):
        package = compiled(model, convert_to_fp16=half)
        kind = "float16" if half else "float32"
        assert package.types == {"c1": "int", "soft": kind, "softer": kind, "c2": "int"}
        assert grids(package) == {"x": "int8", "w1": "int8", "b1": "int32", "a": "int8", "s": "int8", "w2": "int8", "y": "int8"}
    exact = run(compile_float(model), DATA[0])
    assert 0 < np.abs(run(package, DATA[0]) - exact).max() < 0.05 * np.abs(exact).max()


def compile_float(model: Path) -> Package:
    return compile_model(model, options.read({}))


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"execute_nodes_in_fp16": ["Conv"]}, "float16"),
        ({"keep_original_precision_for_nodes": ["Conv"]}, "float32"),
        ({"keep_original_precision_for_nodes": ["Conv"], "convert_to_fp16": True}, "float16"),
    ],
)
def test_op_types_stay_float(model: Path, given: dict[str, Any], kind: str) -> None:
    """With all their weights: what is in float everywhere computes as in a float build."""
    package = compiled(model, **given)
    assert package.types["c1"] == package.types["c2"] == kind
    assert not grids(package)


def test_one_node_stays_float_by_its_name(model: Path) -> None:
    path = model.parent / "p.yaml"
    path.write_text("FP16NodeInstanceNames: [y]")
    package = compiled(model, node_precision_info_file=path)
    assert package.types["c2"] == "float16"
    assert grids(package) == {"x": "int8", "w1": "int8", "b1": "int32", "a": "int8"}


def test_precisions(model: Path) -> None:
    package = compiled(model, enable_channelwise=True, quantization_precision_bias="Int8")
    assert package.encodings["w1"].axis == 0
    assert package.encodings["b1"].dtype == "int8"
    assert compiled(model).encodings["w1"].axis is None
    with pytest.raises(UsageError, match=r"'quantization_precision' .* takes Int8"):
        compiled(model, quantization_precision="Int16")


def test_ends_in_int8_keep_the_grid_of_the_list(model: Path) -> None:
    path = model.parent / "io.yaml"
    path.write_text("- {IOName: x, Precision: int8, Scale: 0.03125, Offset: 5}\n- {IOName: y, Precision: float16}")
    package = compiled(model, custom_io_list_file=path)
    x, y = Qpc.of(package).bindings
    assert (x.dtype, y.dtype) == (np.int8, np.float16)
    grid = package.encodings["x"]
    assert (float(grid.steps), int(np.asarray(grid.zero_point))) == (0.03125, 5)
    codes = np.clip(np.rint(DATA[0]["x"] / 0.03125) + 5, -128, 127).astype(np.int8)
    plain = run(compiled(model), DATA[0])
    assert np.abs(run(package, {"x": codes}) - plain).max() < 0.05 * np.abs(plain).max()


def test_calibrations_give_other_ranges(model: Path) -> None:
    """A percentile cuts; its value without the method is noted."""
    notes: list[str] = []
    full = compiled(model, notes, percentile_calibration_value=95)
    assert [n for n in notes if n.startswith("percentile_calibration_value=95 has no effect")] == notes
    cut = compiled(model, quantization_calibration="Percentile", percentile_calibration_value=95)
    assert float(cut.encodings["x"].steps) < float(full.encodings["x"].steps)


def test_an_input_list(model: Path) -> None:
    """Files beside the list, between commas; the ranges are those of the files."""
    for index, sample in enumerate(DATA):
        sample["x"].tofile(model.parent / f"{index}.raw")
    path = model.parent / "list.txt"
    path.write_text("0.raw\n\n1.raw,\n 2.raw\n3.raw")
    listed = compiled(model, data=None, input_list_file=path)
    assert float(listed.encodings["a"].steps) == float(compiled(model).encodings["a"].steps)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.raw,0.raw", "line 1: 2 files for 1 inputs"),
        ("\n9.raw", "line 2: there is no file '9.raw'"),
        ("short.raw", "'short.raw' has 8 bytes, 'x' is float32"),
        ("\n", "names no files"),
    ],
)
def test_input_lists_that_are_wrong(model: Path, text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    DATA[0]["x"].tofile("0.raw")
    np.zeros(2, np.float32).tofile("short.raw")
    Path("list.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        compiled(model, data=None, input_list_file="list.txt")


def test_random_data_is_said(model: Path) -> None:
    notes: list[str] = []
    one = compiled(model, notes, data=None)
    assert notes == ["the model is profiled with random data (gaussian): ranges are those of no real data"]
    two = compiled(model, data=None)
    assert float(one.encodings["y"].steps) == float(two.encodings["y"].steps)
    uniform = compiled(model, data=None, use_random_input_data="uniform")
    assert float(uniform.encodings["x"].steps) < float(one.encodings["x"].steps)
