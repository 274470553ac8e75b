"""Every option that has an effect shows it through qaic.Session; every other one is kept in the QPC."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qaic

from npukit.errors import DataError, UsageError
from npukit.graph import Node, make_graph, save
from npukit_aic import speed
from npukit_aic.options import ROWS, OptionError
from npukit_aic.qpc import read_qpc

Make = Callable[..., Any]
RANDOM = np.random.default_rng(0)
AXES = np.array([2, 3])
X = RANDOM.standard_normal((2, 8, 6, 6), np.float32)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A session on a small network with n = 2: a convolution whose channels differ in range, a Sigmoid, a product."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(1)
    scales = np.geomspace(0.1, 3, 8, dtype=np.float32)
    weights: dict[str, Any] = {
        "w": random.standard_normal((8, 8, 3, 3), np.float32) * scales[:, None, None, None],
        "axes": AXES,
        "b": random.standard_normal(8, np.float32) * 20,
        "v": random.standard_normal((8, 4), np.float32) * np.geomspace(0.1, 3, 4, dtype=np.float32) + 0.3,
    }
    nodes = [
        Node("Conv", "conv", ("x", "w", "b"), ("c",), {"pads": (1, 1, 1, 1)}),
        Node("Relu", "clamp", ("c",), ("r",), {}),
        Node("Sigmoid", "squash", ("r",), ("q",), {}),
        Node("ReduceMean", "pool", ("q", "axes"), ("p",), {"keepdims": 0}),
        Node("MatMul", "product", ("p", "v"), ("y",), {}),
    ]
    graph = make_graph(nodes, {"x": ("float32", ("n", 8, 6, 6))}, ["y", "r"], weights)
    save(graph, tmp_path / "m.onnx")

    def session(**options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the model is profiled with random data")
            return qaic.Session(tmp_path / "m.onnx", **{"onnx_define_symbol": {"n": 2}, **options})

    return session


def run(session: Any) -> np.ndarray[Any, Any]:
    """All outputs, in a row."""
    return np.concatenate([value.ravel() for value in session.run({"x": X}).values()])


# ------------------------------------------------------------------------------------------------------------------ results

QUANTIZED = {"input_list_file": "list.txt", "convert_to_quantize": True}
RANDOM_INT8 = {"convert_to_quantize": True}
HALF = {"convert_to_fp16": True}
NO_ROOM = {"vtcm_working_set_limit_ratio": 0.01}
FILES = {
    "list.txt": "x.raw\nother.raw\n",
    "nodes.yaml": "FP16NodeInstanceNames: [c]\n",
    "encodings.json": '{"activation_encodings": {"r": [{"bitwidth": 8, "min": 0.0, "max": 40.0}]}, "param_encodings": {}}',
}


@pytest.fixture
def files(make: Make, tmp_path: Path) -> None:
    """Samples to profile with, whose outliers a histogram can cut off, and the files that options name."""
    random = np.random.default_rng(2)
    for name in ("x.raw", "other.raw"):
        (random.standard_t(3, X.shape).astype(np.float32)).tofile(tmp_path / name)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    make(**QUANTIZED, dump_profile="profile.yaml")


@pytest.mark.parametrize(
    ("name", "value", "base"),
    [
        ("convert_to_fp16", True, {}),
        ("accumulate", "float16", HALF),
        ("convert_to_quantize", True, {}),
        ("input_list_file", None, QUANTIZED),
        ("use_random_input_data", "uniform", {"convert_to_quantize": True}),
        ("load_profile", "profile.yaml", {}),
        ("external_quantization_file", "encodings.json", RANDOM_INT8),
        ("execute_nodes_in_fp16", ["Conv"], QUANTIZED),
        ("keep_original_precision_for_nodes", ["Conv"], QUANTIZED),
        ("node_precision_info_file", "nodes.yaml", QUANTIZED),
        ("quantization_schema_activations", "asymmetric", QUANTIZED),
        ("quantization_schema_activations", "symmetric_with_power2_scale", QUANTIZED),
        ("quantization_schema_constants", "asymmetric", QUANTIZED),
        ("quantization_schema_constants", "symmetric_with_power2_scale", QUANTIZED),
        ("quantization_calibration", "KLMinimization", QUANTIZED),
        ("quantization_calibration", "KLMinimizationV2", QUANTIZED),
        ("quantization_calibration", "MSE", QUANTIZED),
        ("quantization_calibration", "SQNR", QUANTIZED),
        ("percentile_calibration_value", 95.0, {**QUANTIZED, "quantization_calibration": "Percentile"}),
        ("num_histogram_bins", 300, {**QUANTIZED, "quantization_calibration": "MSE"}),
        ("quantization_precision_bias", "Int8", QUANTIZED),
        ("enable_channelwise", True, QUANTIZED),
        ("enable_rowwise", True, QUANTIZED),
        ("requantize", "float", QUANTIZED),
    ],
)
def test_options_that_change_results(make: Make, files: None, name: str, value: Any, base: Mapping[str, Any]) -> None:
    """Each comes near the float model, and is not what it is without the option."""
    exact, without, found = run(make()), run(make(**base)), run(make(**{**base, name: value}))
    assert not np.array_equal(found, without)
    assert np.corrcoef(found, exact)[0, 1] > 0.5


def test_quantization_precision(make: Make, files: None) -> None:
    np.testing.assert_array_equal(run(make(**QUANTIZED, quantization_precision="Int8")), run(make(**QUANTIZED)))
    with pytest.raises(OptionError, match=r"'quantization_precision' .* takes Int8, found 'Int16'"):
        make(**QUANTIZED, quantization_precision="Int16")


def test_onnx_define_symbol(make: Make) -> None:
    assert make(onnx_define_symbol="n,5").model_input_shape_dict["x"][0] == (5, 8, 6, 6)


def test_output_node_names(make: Make) -> None:
    session = make(output_node_names=["q", "c"])
    assert list(session.model_output_shape_dict) == ["q", "c"]
    found = session.run({"x": X})
    np.testing.assert_allclose(found["q"], 1 / (1 + np.exp(-np.maximum(found["c"], 0))), rtol=1e-5)


def test_custom_io_list_file(make: Make, tmp_path: Path) -> None:
    (tmp_path / "io.yaml").write_text("- {IOName: x, Precision: float16, Layout: NHWC}\n- {IOName: y, Precision: float16}\n")
    session = make(custom_io_list_file="io.yaml")
    assert session.model_input_shape_dict["x"] == ((2, 6, 6, 8), np.float16)
    found = session.run({"x": X.transpose(0, 2, 3, 1)})["y"]
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, make().run({"x": X})["y"], atol=0.02)


def test_network_specialization_config(make: Make, tmp_path: Path) -> None:
    """One session serves all shapes; what has another number of elements is refused with both."""
    (tmp_path / "s.json").write_text('{"specializations": [{"n": "2"}, {"n": "3"}]}')
    session = make(onnx_define_symbol=None, network_specialization_config="s.json")
    assert session.model_input_shape_dict["x"][0] == (2, 8, 6, 6)
    three = np.concatenate([X, X[:1]])
    found = session.run({"x": three.reshape(-1)})["y"]
    assert found.shape == (3, 4)
    np.testing.assert_allclose(found[:2], session.run({"x": X})["y"], rtol=1e-5)
    with pytest.raises(DataError, match=r"288 elements.*\[2, 8, 6, 6\] \(576 elements\) or \[3, 8, 6, 6\]"):
        session.run({"x": three[:1]})


# ------------------------------------------------------------------------------------------------------------------ speed


@pytest.fixture
def make_wide(make: Make, tmp_path: Path) -> Make:
    """A session on a model whose tensors do not fit the vector memory of one core; two inputs, two outputs."""
    weight = np.random.default_rng(3).standard_normal((64, 64, 3, 3), np.float32)
    nodes = [
        Node("Conv", "conv", ("x", "w"), ("c",), {"pads": (1, 1, 1, 1)}),
        Node("Add", "shift", ("c", "a"), ("y",), {}),
        Node("ReduceMean", "pool", ("y", "axes"), ("s",), {}),
    ]
    inputs: Any = {"x": ("float32", ("n", 64, 96, 96)), "a": ("float32", ("n", 64, 1, 1))}
    save(make_graph(nodes, inputs, ["y", "s"], {"w": weight, "axes": AXES}), tmp_path / "m.onnx")
    return make


@pytest.mark.parametrize(
    ("name", "value", "base"),
    [
        ("aic_num_cores", 4, {}),
        ("num_activations", 2, {}),
        ("set_size", 1, {}),
        ("mos", 1, {"aic_num_cores": 4}),
        ("ols", 2, {}),
        ("sdp_cluster_sizes", "2,2", {"aic_num_cores": 4}),
        ("multicast_weights", True, {"aic_num_cores": 4, "mos": 1, **NO_ROOM}),
        ("use_producer_dma", True, {"aic_num_cores": 4}),
        ("aic_enable_depth_first", True, {}),
        ("aic_depth_first_mem", 32, {"aic_enable_depth_first": True, **NO_ROOM}),
        ("vtcm_working_set_limit_ratio", 0.1, {}),
        ("combine_inputs", True, {"set_size": 1}),
        ("combine_outputs", True, {"set_size": 1}),
        ("host_preproc", True, RANDOM_INT8),
        ("stats_batchsize", 16, {}),
        ("card", "Ultra", HALF),
    ],
)
def test_options_that_change_the_modelled_speed(make_wide: Make, name: str, value: Any, base: Mapping[str, Any]) -> None:
    figures = []
    for options in (base, {**base, name: value}):
        session = make_wide(**options)
        session.run_benchmark(num_inferences=1)
        figures.append((session.last_benchmark.rate, session.last_benchmark.latency_s))
    assert figures[0] != figures[1]


# ------------------------------------------------------------------------------------------------------------------ files


def test_dump_profile(make: Make, files: None, tmp_path: Path) -> None:
    """The profile is written, the model is compiled, and what the profile gives is what profiling in one go gives."""
    assert "NodeOutputName" in (tmp_path / "profile.yaml").read_text()
    np.testing.assert_array_equal(run(make(load_profile="profile.yaml")), run(make(**QUANTIZED)))


@pytest.mark.parametrize("name", ["dump_custom_io_config_template_file", "mdp_dump_partition_config"])
def test_files_that_are_written(make: Make, tmp_path: Path, name: str) -> None:
    for _ in range(2):  # a model that is in the cache is no reason to write nothing
        make(**{name: "out.txt"})
        assert (tmp_path / "out.txt").read_text()
        (tmp_path / "out.txt").unlink()


def test_mdp_load_partition_config(make: Make, tmp_path: Path) -> None:
    (tmp_path / "mdp.json").write_text('{"partitions": [{"name": "p0", "devices": [{"deviceId": 77, "numCores": 2}]}]}')
    with pytest.raises(UsageError, match="77"):
        make(mdp_load_partition_config="mdp.json")
    (tmp_path / "mdp.json").write_text('{"partitions": [{"name": "p0", "devices": [{"deviceId": 0, "numCores": 9}]}]}')
    package = make(mdp_load_partition_config="mdp.json")._qpc.package
    assert speed.estimate_package(package, {}).plan.cores == 9  # what that changes is in test_speed_partitions.py


# ------------------------------------------------------------------------------------------------------------------ the rest


def _some(row: Any) -> Any:
    """A value that is not the default."""
    if row.choices:
        return row.choices[-1]
    return {"bool": True, "int": int(row.low or 0) + 1, "names": ["x"], "data": ["x"], "str": "x"}[row.kind]


@pytest.mark.parametrize("row", [row for row in ROWS if row.test == "test_options_that_are_only_kept"], ids=lambda row: row.name)
def test_options_that_are_only_kept(make: Make, tmp_path: Path, row: Any) -> None:
    value = _some(row)
    session = make(**{row.name: value}, output_dir="qpc")
    kept = read_qpc(tmp_path / "qpc").options[row.name]
    assert kept == value != row.default
    np.testing.assert_array_equal(run(session), run(make()))


@pytest.mark.parametrize("row", [row for row in ROWS if row.action == "X"], ids=lambda row: row.name)
def test_options_that_are_refused(make: Make, row: Any) -> None:
    with pytest.raises(OptionError, match=f"'{row.name}' .* is not emulated"):
        make(**{row.name: "x"})


@pytest.mark.parametrize("name", ["backend", "compile"])
def test_options_that_say_what_is_so_anyway(make: Make, name: str) -> None:
    row = next(row for row in ROWS if row.name == name)
    np.testing.assert_array_equal(run(make(**{name: row.default})), run(make()))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_option_names_the_test_of_its_effect(row: Any) -> None:
    """The test exists; one that is made for many options has this one among its cases."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert f"\ndef {row.test}(" in tests
    if row.test.startswith("test_options_that_change_"):
        cases = tests.split(f"\ndef {row.test}(")[0].rsplit("@pytest.mark.parametrize", 1)[1]
        assert re.search(rf'^ +\("{row.name}", ', cases, re.MULTILINE)
