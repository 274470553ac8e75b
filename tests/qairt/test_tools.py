"""What the tools compute: layouts, colours, overrides, grids, native files, batches, tables."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from npukit.encoding.formats import insert_qdq, write_encodings
from npukit.graph import Graph, Node, load, make_graph, save
from npukit.package import Package, read_package
from npukit.quantization import open_session

from .conftest import Tool

Feeds = dict[str, np.ndarray]
RNG = np.random.default_rng(7)
IMAGE = RNG.uniform(0, 255, (1, 3, 8, 8)).astype(np.float32)
REST = np.zeros((1, 2), np.float32)


def outputs(path: Path, x: np.ndarray) -> Feeds:
    with open_session(path, "cpu:float32") as session:
        return session.run({"x": x, "u": REST})


def converted(tool: Tool, *words: str) -> str:
    done = tool("qairt-converter", "-i", "model.onnx", "--onnx_override_batch", "1", "-o", "out.dlc", *words)
    assert done.code == 0, done.text
    return done.text


def test_layouts_turn_the_data_and_nothing_else(tool: Tool, folder: Path) -> None:
    converted(tool, "--desired_input_layout", "x", "NHWC", "--desired_output_layout", "early", "NHWC")
    package = read_package(folder / "out.dlc")
    assert package.graph.tensor("x").shape == (1, 8, 8, 3)
    plain, turned = outputs(folder / "model.dlc", IMAGE), outputs(folder / "out.dlc", IMAGE.transpose(0, 2, 3, 1).copy())
    np.testing.assert_allclose(turned["y"], plain["y"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(turned["early"], plain["early"].transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("color", "order"), [("rgb", (2, 1, 0)), ("rgba", (2, 1, 0)), ("argb32", (0, 1, 2)), ("bgr", (0, 1, 2))])
def test_channels_come_in_another_order(tool: Tool, folder: Path, color: str, order: tuple[int, ...]) -> None:
    """The model takes BGR: ``order`` says where blue, green and red are in what comes."""
    converted(tool, "-e", "x", color)
    comes = np.zeros((1, 4 if len(color) > 3 else 3, 8, 8), np.float32)
    comes[:, list(order)] = IMAGE
    np.testing.assert_allclose(
        outputs(folder / "out.dlc", comes)["y"], outputs(folder / "model.dlc", IMAGE)["y"], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("color", ["nv12", "nv21"])
def test_planes_become_channels(tool: Tool, folder: Path, color: str) -> None:
    """By the formulas of ITU-R BT.601, full range, each chroma value standing for 2 x 2 pixels."""
    converted(tool, "-e", "x", color, "rgb")
    luma = RNG.uniform(60, 180, (8, 8))
    u, v = RNG.uniform(100, 150, (2, 4, 4))
    pairs = np.stack((u, v) if color == "nv12" else (v, u), -1).reshape(4, 8)
    comes = np.concatenate([luma, pairs])[None].astype(np.float32)
    big_u, big_v = (np.kron(c, np.ones((2, 2))) - 128 for c in (u, v))
    rgb = np.stack([luma + 1.402 * big_v, luma - 0.344136 * big_u - 0.714136 * big_v, luma + 1.772 * big_u])
    expected = outputs(folder / "model.dlc", np.clip(rgb, 0, 255)[None].astype(np.float32))
    np.testing.assert_allclose(outputs(folder / "out.dlc", comes)["y"], expected["y"], rtol=1e-3, atol=1e-3)


def test_a_template_that_nobody_edits_changes_nothing(tool: Tool) -> None:
    done = tool("qairt-converter", "-i", "model.onnx", "--onnx_override_batch", "1", "--dump_config_template", "io.yaml")
    assert done.code == 0
    assert "out.dlc" not in done.files
    assert "--config: 0 tensors affected" in converted(tool, "--config", "io.yaml")


def test_overrides_of_all_versions_and_nodes_are_the_same(tool: Tool, folder: Path) -> None:
    """JSON 0.6.1, 1.0.0, 2.0.0, and Q/DQ nodes in the model."""
    converted(tool, "-q", "overrides.json")
    first = read_package(folder / "out.dlc")
    given = {n: e for n, e in first.encodings.items() if e.origin == "override"}
    assert set(given) == {"x", "early"}
    graph = load(folder / "model.onnx", batch=1)
    for version in ("1.0.0", "2.0.0"):
        (folder / "again.json").write_text(write_encodings(given, graph, version))
        converted(tool, "-q", "again.json")
        assert _grids(read_package(folder / "out.dlc")) == _grids(first), version
    save(insert_qdq(graph, given), folder / "qdq.onnx")
    done = tool("qairt-converter", "-i", "qdq.onnx", "-o", "out.dlc")
    assert done.code == 0, done.text
    found = _grids(read_package(folder / "out.dlc"))
    assert {n: found[n] for n in given} == {n: g for n, g in _grids(first).items() if n in given}


def _grids(package: Package) -> dict[str, tuple[str, float, float]]:
    ints = {n: e for n, e in package.encodings.items() if not e.is_float}
    return {n: (e.dtype, float(e.steps), float(e.zeros)) for n, e in ints.items()}


@pytest.mark.parametrize("words", ["-i given.dlc -l list.txt", "-i half.dlc -l list.txt", "-i model.dlc -f", "-i given.dlc -f"])
def test_the_counts_of_the_report_add_up(tool: Tool, words: str) -> None:
    text = tool("qairt-quantizer", *words.split(), "-o", "out.dlc").text
    line = next(line for line in text.splitlines() if line.startswith("out.dlc"))
    total, parts = re.search(r"tensors: (\d+) = (.*)", line).groups()  # type: ignore[union-attr]
    assert int(total) == sum(int(part.split()[-1]) for part in parts.split(" + "))
    assert int(total) > 10


def test_the_converters_encodings_stay_unless_ignored(tool: Tool, folder: Path) -> None:
    assert tool("qairt-quantizer", "-i", "given.dlc", "-l", "list.txt", "-o", "kept.dlc").code == 0
    assert (
        tool("qairt-quantizer", "-i", "given.dlc", "-l", "list.txt", "-o", "new.dlc", "--ignore_quantization_overrides").code == 0
    )
    assert tool("qairt-quantizer", "-i", "model.dlc", "-l", "list.txt", "-o", "plain.dlc").code == 0
    kept, new, plain = (_grids(read_package(folder / f"{name}.dlc")) for name in ("kept", "new", "plain"))
    assert kept["x"] == ("uint8", 0.25, 128.0)
    assert new == plain
    assert new["x"] != kept["x"]


def test_all_methods_give_ranges_of_their_own(tool: Tool, folder: Path) -> None:
    """On 4-bit weights with long tails, of which each but min-max leaves out another part."""
    weight = RNG.laplace(size=(16, 3, 16, 16)).astype(np.float32)
    weight[0, 0, 0, 0] = 60.0
    graph = make_graph([Node("Conv", "c", ("x", "w"), ("y",))], {"x": ("float32", (1, 3, 16, 16))}, ["y"], {"w": weight})
    save(graph, folder / "big.onnx")
    RNG.standard_normal((1, 3, 16, 16)).astype("<f4").tofile(folder / "big.raw")
    (folder / "big.txt").write_text("big.raw\n")
    assert tool("qairt-converter", "-i", "big.onnx", "-o", "big.dlc").code == 0
    scales = {}
    for method in ("min-max", "sqnr", "entropy", "mse", "percentile"):
        words = (
            "-i",
            "big.dlc",
            "-l",
            "big.txt",
            "-o",
            "out.dlc",
            "--weights_bitwidth",
            "4",
            "--param_quantizer_calibration",
            method,
        )
        done = tool("qairt-quantizer", *words, "--percentile_calibration_value", "99")
        assert done.code == 0, done.text
        scales[method] = float(read_package(folder / "out.dlc").encodings["w"].steps)
    assert max(scales, key=lambda method: scales[method]) == "min-max", scales
    assert len(set(scales.values())) == 5, scales


def test_steps_and_schemas_make_the_grids(tool: Tool, folder: Path) -> None:
    words = ("-i", "model.dlc", "-l", "list.txt", "-o", "out.dlc", "--param_quantizer_schema", "symmetric")
    assert tool("qairt-quantizer", *words, "--restrict_quantization_steps", "-0x40 0x3F").code == 0
    package = read_package(folder / "out.dlc")
    gemm = package.graph.tensor("gw").data
    assert gemm is not None
    assert float(package.encodings["gw"].steps) == pytest.approx(np.abs(gemm).max() / 0x3F, rel=0.05)
    assert tool("qairt-quantizer", *words[:6], "--param_quantizer_schema", "unsignedsymmetric").code == 0
    found = read_package(folder / "out.dlc").encodings
    assert (found["mw"].dtype, float(found["mw"].zeros)) == ("uint8", 0.0)
    assert found["gw"].dtype == "int8"


def test_int_bias_updates_on_fully_connected(tool: Tool, folder: Path) -> None:
    """For HTP the bias of a FullyConnected is int32 though 8 bits are asked for; that of a convolution has 8."""
    done = tool("qairt-quantizer", "-i", "model.dlc", "-l", "list.txt", "-o", "out.dlc")
    found = read_package(folder / "out.dlc").encodings
    assert (found["b"].dtype, found["gb"].dtype) == ("int8", "int32")
    assert "IntBiasUpdates: 1 biases of FullyConnected are int32" in done.text
    assert float(found["gb"].steps) == pytest.approx(float(found["m"].steps) * float(found["gw"].steps))


def test_native_files_carry_what_float_files_say(tool: Tool, folder: Path) -> None:
    """Codes in give what their values give, and codes out stand for the values that come out."""
    package = read_package(folder / "quantized.dlc")
    x, u = (package.encodings[n] for n in ("x", "u"))
    lines = (folder / "codes.txt").read_text().split()
    for name in lines:
        grid = x if name.startswith("x") else u
        codes = np.fromfile(folder / name, np.uint8)
        ((codes.astype(np.float64) - float(grid.zeros)) * float(grid.steps)).astype("<f4").tofile(folder / f"f{name}")
    (folder / "floats.txt").write_text("\n".join(f"f{a} f{b}" for a, b in zip(lines[::2], lines[1::2], strict=True)) + "\n")
    common = ("--dlc_path", "quantized.dlc", "--output_data_type", "float_and_native")
    native = tool("qnn-net-run", *common, "--input_list", "codes.txt", "--use_native_input_files", "--output_dir", "a")
    floats = tool("qnn-net-run", *common, "--input_list", "floats.txt", "--output_dir", "b")
    assert native.code == floats.code == 0, native.text + floats.text
    index = json.loads((folder / "a" / "index.json").read_text())
    assert index["files"]["y"] == {"float": "y.raw", "native": "y_native.raw"}
    for number in range(2):
        y, codes = (
            np.fromfile(folder / "a" / f"Result_{number}" / f, t) for f, t in (("y.raw", "<f4"), ("y_native.raw", np.uint8))
        )
        np.testing.assert_array_equal(y, np.fromfile(folder / "b" / f"Result_{number}" / "y.raw", "<f4"))
        grid = package.encodings["y"]
        np.testing.assert_allclose((codes - float(grid.zeros)) * float(grid.steps), y, rtol=1e-5, atol=1e-6)


def test_lines_fill_a_batch_and_come_back_as_lines(tool: Tool, folder: Path) -> None:
    """Four lines through a batch of three give what they give one by one."""
    assert tool("qairt-converter", "-i", "model.onnx", "--onnx_override_batch", "3", "-o", "three.dlc").code == 0
    done = tool("qnn-net-run", "--dlc_path", "three.dlc,model.dlc", "--input_list", "list.txt,list.txt", "--backend", "cpu:float32")
    assert done.code == 0, done.text
    assert "4 results of 2 tensors on cpu:float32; 2 inferences" in done.text
    for number in range(4):
        a, b = (np.fromfile(folder / "output" / name / f"Result_{number}" / "y.raw", "<f4") for name in ("three", "model"))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    skipped = tool("qnn-net-run", "--dlc_path", "three.dlc,model.dlc", "--input_list", "__,list.txt", "--output_dir", "one")
    assert skipped.code == 0
    assert not any(name.startswith("one/three") for name in skipped.files)


def test_every_tensor_and_those_of_a_list_are_written(tool: Tool, folder: Path) -> None:
    done = tool("qnn-net-run", "--dlc_path", "quantized.dlc", "--input_list", "list.txt", "--debug")
    files = json.loads((folder / "output" / "index.json").read_text())["files"]
    assert {"c", "r", "s", "early", "g", "m", "y"} <= files.keys(), done.text
    (folder / "some.txt").write_text("%m c\n" + (folder / "list.txt").read_text())
    assert tool("qnn-net-run", "--dlc_path", "quantized.dlc", "--input_list", "some.txt", "--output_dir", "some").code == 0
    assert set(json.loads((folder / "some" / "index.json").read_text())["files"]) == {"m", "c"}


def test_tables_are_what_scripts_read(tool: Tool, folder: Path) -> None:
    """A weight and its type stand in one line; headings, footer and CSV are the vendor's."""
    words = ("-i", "model.dlc", "-l", "list.txt", "-o", "four.dlc", "--weights_bitwidth", "4", "--bias_bitwidth", "32")
    assert tool("qairt-quantizer", *words, "--use_per_channel_quantization").code == 0
    text = tool("qairt-dlc-info", "-i", "four.dlc", "-s", "table.csv").text
    assert re.search(r"w \(data type: sFxp_4; tensor dimension: \[4,3,3,3\]; tensor type: STATIC\)", text)
    assert re.search(r"^\| Id \| Name +\| Type +\| Inputs +\| Outputs +\| Out Dims +\| Runtimes +\| Parameters +\|$", text, re.M)
    assert re.search(r"^\| 0 +\| conv +\| Conv2d ", text, re.M)
    assert re.search(r"^\| +\| +\| +\| w \(data type", text, re.M)
    assert "Quantizer command: qairt-quantizer -i model.dlc -l list.txt" in text
    assert re.search(r"MACs per inference: 6k \(\S+%\)", text)
    assert (folder / "table.csv").read_text().startswith("Id,Name,Type,Inputs,Outputs,Out Dims,Runtimes,Parameters\n0,conv,Conv2d")
    assert "No encoding info for this tensor" in tool("qairt-dlc-info", "-i", "model.dlc").text


def test_the_vendors_dlc_is_written_by_the_vendor(tool: Tool, folder: Path) -> None:
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        pytest.skip("the package onnxruntime-qnn is not installed")
    done = tool("qairt-converter", "-i", "model.onnx", "--onnx_override_batch", "1", "--backend", "qnn", "-o", "real.dlc")
    assert done.code == 0, done.text
    refused = tool("qairt-dlc-info", "-i", "real.dlc")
    assert refused.code == 2
    assert "DLC of the vendor's tools" in refused.text


def test_the_script_of_aimet_is_on_the_path() -> None:
    """Sourced, it hands its flags over to the one of npukit-aimet."""
    script, bash = shutil.which("aimet_env_setup.sh"), shutil.which("bash")
    if script is None or bash is None:
        pytest.skip("the environment's scripts are not on the PATH")
    done = subprocess.run([bash, "-c", f". {script} --env_path"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--env_path" in done.stderr


def test_the_version_needs_no_model(tool: Tool) -> None:
    for name in ("qnn-net-run", "snpe-net-run", "snpe-dlc-quant"):
        done = tool(name, "--version")
        assert done.code == 0
        assert done.text.startswith("npukit-qairt ")


def test_graphs_are_whole_after_a_cut(tool: Tool, folder: Path) -> None:
    converted(tool, "--out_tensor_node", "m", "--remove_unused_inputs")
    graph: Graph = read_package(folder / "out.dlc").graph
    assert graph.outputs == ("m",)
    assert graph.inputs == ("x",)
