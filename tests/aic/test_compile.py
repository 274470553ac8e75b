"""The compiler in float: symbols, outputs, types of nodes, ends, weights, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npukit.encoding import Array
from npukit.errors import ModelError, NpukitError, UsageError
from npukit.graph import Node, make_graph, save
from npukit.package import Package
from npukit_aic import options
from npukit_aic.compiler import compile_model
from npukit_aic.loaded import Loaded
from npukit_aic.mx import mxfp6
from npukit_aic.qpc import Qpc, read_qpc, write_qpc

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((8, 8)).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x (n, s, 8) times a weight -> h, clamped -> r, summed with a bias -> y; the model gives h and y."""
    nodes = [
        Node("MatMul", "product", ("x", "w"), ("h",)),
        Node("Relu", "clamp", ("h",), ("r",)),
        Node("Add", "sum", ("r", "b"), ("y",)),
    ]
    constants = {"w": WEIGHT, "b": np.full(8, 0.1, np.float32)}
    save(make_graph(nodes, {"x": ("float32", ("n", "s", 8))}, ["h", "y"], constants), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def image_model(tmp_path: Path) -> Path:
    """image (1, 3, 4, 4) -> Relu -> Neg -> y."""
    nodes = [Node("Relu", "first", ("image",), ("h",)), Node("Neg", "second", ("h",), ("y",))]
    save(make_graph(nodes, {"image": ("float32", (1, 3, 4, 4))}, ["y"], {}), tmp_path / "image.onnx")
    return tmp_path / "image.onnx"


def compiled(model: Path, notes: list[str] | None = None, **given: Any) -> Package:
    """The package for some options, by way of the file."""
    extra = {name: given.pop(name) for name in ("retained_state", "mxfp6_matmul", "mxint8_kv_cache", "batchsize") if name in given}
    package = compile_model(model, options.read(given, strict=True) | extra, note=([] if notes is None else notes).append)
    write_qpc(package, model.parent / "qpc")
    return read_qpc(model.parent / "qpc").package


def run(package: Package, **feeds: Array) -> Mapping[str, Array]:
    return Loaded(Qpc.of(package)).run(feeds)


SIZES = {"onnx_define_symbol": {"n": 2, "s": 3}}
X = RNG.standard_normal((2, 3, 8)).astype(np.float32)


def test_symbols(model: Path) -> None:
    """Sizes are bound; one that the model lacks is only noted, one that is missing is named with its place."""
    notes: list[str] = []
    package = compiled(model, notes, onnx_define_symbol={"n": 2, "s": 3, "seq": 4})
    assert Qpc.of(package).inputs[0].shapes == ((2, 3, 8),)
    assert notes == ["onnx-define-symbol: the model has no symbol 'seq', which has no effect (did you mean 's'?)"]
    with pytest.raises(UsageError, match=r"symbols without a size: 's' \(input 'x', axis 1\)"):
        compiled(model, onnx_define_symbol={"n": 2})


def test_the_batch_is_bound(model: Path) -> None:
    assert Qpc.of(compiled(model, batchsize=4, onnx_define_symbol={"s": 3})).inputs[0].shapes == ((4, 3, 8),)


def test_outputs_are_cut_in_the_order_given(model: Path) -> None:
    """By names of tensors or of nodes; what nobody needs is not there."""
    package = compiled(model, output_node_names=["clamp", "h"], **SIZES)
    assert package.graph.outputs == ("r", "h")
    assert [n.op for n in package.graph.nodes] == ["MatMul", "Relu"]
    found = run(package, x=X)
    assert list(found) == ["r", "h"]
    np.testing.assert_array_equal(found["r"], np.maximum(found["h"], 0))
    with pytest.raises(UsageError, match=r"no tensor or node 'clmap'.*did you mean 'clamp'"):
        compiled(model, output_node_names=["clmap"], **SIZES)


def test_inputs_that_only_the_rest_reads_are_cut(tmp_path: Path) -> None:
    nodes = [Node("Relu", "a", ("x",), ("h",)), Node("Add", "b", ("h", "z"), ("y",))]
    ends = {"x": ("float32", (2,)), "z": ("float32", (2,)), "spare": ("float32", (2,))}
    save(make_graph(nodes, ends, ["y"], {}), tmp_path / "m.onnx")
    assert compiled(tmp_path / "m.onnx", output_node_names=["h"]).graph.inputs == ("x", "spare")


def test_specializations(model: Path) -> None:
    """One QPC, several shapes: a buffer has room for the largest."""
    path = model.parent / "s.json"
    path.write_text(json.dumps({"specializations": [{"n": "1", "s": "3", "ctx": "9"}, {"n": "2", "s": "1", "ctx": "9"}]}))
    notes: list[str] = []
    package = compiled(model, notes, network_specialization_config=str(path))
    x, h, y = Qpc.of(package).bindings
    assert x.shapes == ((1, 3, 8), (2, 1, 8))
    assert (x.size, h.size, y.size) == (96, 96, 96)
    assert [n for n in notes if "'ctx'" in n] == notes
    assert len(notes) == 1
    for shape in x.shapes:
        assert run(package, x=np.ones(shape, np.float32))["y"].shape == shape
    path.write_text(json.dumps({"specializations": {"one": {"s": 3}}}))
    assert Qpc.of(compiled(model, network_specialization_config=path, onnx_define_symbol={"n": 5})).inputs[0].shapes == ((5, 3, 8),)
    with pytest.raises(UsageError, match=r"without a size: 'n'"):
        compiled(model, network_specialization_config=path)


def test_nodes_compute_in_the_type_of_their_file(model: Path) -> None:
    """By first output; a name that no node has is noted."""
    path = model.parent / "p.yaml"
    path.write_text("FP16NodeInstanceNames: [h, nobody]\n")
    notes: list[str] = []
    mixed = compiled(model, notes, node_precision_info_file=path, **SIZES)
    assert mixed.types == {"product": "float16", "clamp": "float32", "sum": "float32"}
    assert len(notes) == 1
    assert "no node has the first output 'nobody'" in notes[0]
    half, full = compiled(model, convert_to_fp16=True, **SIZES), compiled(model, **SIZES)
    h = {name: run(p, x=X)["h"] for name, p in (("mixed", mixed), ("half", half), ("full", full))}
    np.testing.assert_array_equal(h["mixed"], h["half"])
    assert 0 < np.abs(h["mixed"] - h["full"]).max() < 0.01


def test_op_types_compute_in_float16(model: Path) -> None:
    """Names of nodes win over op types; an op that is not there is noted."""
    path = model.parent / "p.yaml"
    path.write_text("FP32NodeInstanceNames: [y]\n")
    notes: list[str] = []
    package = compiled(model, notes, execute_nodes_in_fp16="MatMul,Add,Erf", node_precision_info_file=path, **SIZES)
    assert package.types == {"product": "float16", "clamp": "float32", "sum": "float32"}
    assert len(notes) == 1
    assert "no node of type Erf" in notes[0]
    kept = compiled(model, convert_to_fp16=True, node_precision_info_file=path, **SIZES)
    assert kept.types == {"product": "float16", "clamp": "float16", "sum": "float32"}


def test_a_fused_node_takes_the_type_of_its_parts(tmp_path: Path) -> None:
    """Conv and BatchNormalization become one; both first outputs name it."""
    w, one = RNG.standard_normal((2, 3, 1, 1)).astype(np.float32), np.ones(2, np.float32)
    nodes = [
        Node("Conv", "conv", ("x", "w"), ("c",)),
        Node("BatchNormalization", "norm", ("c", "s", "t", "m", "v"), ("n",)),
        Node("Relu", "clamp", ("n",), ("y",)),
    ]
    constants = {"w": w, "s": one * 2, "t": one, "m": one, "v": one}
    save(make_graph(nodes, {"x": ("float32", (1, 3, 4, 4))}, ["y"], constants), tmp_path / "m.onnx")
    for name in ("c", "n"):
        (tmp_path / "p.yaml").write_text(f"FP16NodeInstanceNames: [{name}]\n")
        notes: list[str] = []
        types = compiled(tmp_path / "m.onnx", notes, node_precision_info_file=tmp_path / "p.yaml").types
        assert sorted(types.values()) == ["float16", "float32"]
        assert types["clamp"] == "float32"
        assert not notes


def test_shapes_that_follow_from_values_are_refused(tmp_path: Path) -> None:
    nodes = [Node("Reshape", "form", ("x", "shape"), ("y",))]
    save(make_graph(nodes, {"x": ("float32", (4,)), "shape": ("int64", (2,))}, ["y"], {}), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"'y' has no fixed shape.*output_node_names"):
        compiled(tmp_path / "m.onnx")


def test_ends_are_handed_over_as_the_list_says(image_model: Path) -> None:
    """int8 with its grid and channels last, float16; the names and everything inside stay."""
    path = image_model.parent / "io.yaml"
    path.write_text(
        "- {IOName: image, Precision: int8, Layout: NHWC, Scale: 0.5, Offset: 3}\n- {IOName: y, Precision: float16, Layout: NHWC}"
    )
    for half in (False, True):
        package = compiled(image_model, custom_io_list_file=path, convert_to_fp16=half)
        image, y = Qpc.of(package).bindings
        assert (image.shapes, image.dtype, image.size) == (((1, 4, 4, 3),), np.int8, 48)
        assert (y.shapes, y.dtype, y.size) == (((1, 4, 4, 3),), np.float16, 96)
        codes = RNG.integers(-128, 128, (1, 4, 4, 3)).astype(np.int8)
        expected = -np.maximum((codes.astype(np.float32) - 3) * 0.5, 0)
        np.testing.assert_array_equal(run(package, image=codes)["y"], expected.astype(np.float16))
        assert set(package.types.values()) == {"float16" if half else "float32"}


def test_an_output_in_int8(image_model: Path) -> None:
    path = image_model.parent / "io.yaml"
    path.write_text("- {IOName: y, Precision: int8, Scale: 0.25, Offset: 7}")
    x = RNG.standard_normal((1, 3, 4, 4)).astype(np.float32)
    found = run(compiled(image_model, custom_io_list_file=path), image=x)["y"]
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, np.clip(np.rint(-np.maximum(x, 0) / 0.25) + 7, -128, 127))


def test_templates(image_model: Path) -> None:
    io, parts = image_model.parent / "io.yaml", image_model.parent / "parts.json"
    compiled(image_model, dump_custom_io_config_template_file=io, mdp_dump_partition_config=parts, aic_num_cores=2)
    compiled(image_model, custom_io_list_file=io, mdp_load_partition_config=parts)


def test_float16_clips_constants_and_notes_what_underflows(tmp_path: Path) -> None:
    big, small = np.float32([1e6, -1e6, np.inf, 2]), np.float32([1e-9, 0, 1, 2])
    nodes = [Node("Add", "first", ("x", "big"), ("h",)), Node("Add", "second", ("h", "small"), ("y",))]
    save(make_graph(nodes, {"x": ("float32", (4,))}, ["y"], {"big": big, "small": small}), tmp_path / "m.onnx")
    notes: list[str] = []
    package = compiled(tmp_path / "m.onnx", notes, convert_to_fp16=True)
    np.testing.assert_array_equal(package.graph.tensor("big").data, np.float32([65504, -65504, np.inf, 2]))
    assert notes == [
        "constant 'big' has values up to 1e+06, which float16 cannot hold: clipped to +-65504",
        "node 'second' (Add): 1 value of constant 'small' underflow to 0 in float16",
    ]
    np.testing.assert_array_equal(compiled(tmp_path / "m.onnx").graph.tensor("big").data, big)


def test_retained_state_needs_its_input(tmp_path: Path) -> None:
    nodes = [Node("Relu", "a", ("past",), ("past_RetainedState",)), Node("Relu", "b", ("past",), ("gone_RetainedState",))]
    ends = {"past": ("float32", (2,))}
    save(make_graph(nodes, ends, ["past_RetainedState", "gone_RetainedState"], {}), tmp_path / "m.onnx")
    assert compiled(tmp_path / "m.onnx").manifest.options["qaic"].get("retained_state") is None
    with pytest.raises(ModelError, match="'gone_RetainedState' keeps the state of input 'gone'"):
        compiled(tmp_path / "m.onnx", retained_state=True)
    kept = compiled(tmp_path / "m.onnx", retained_state=True, output_node_names=["past_RetainedState"])
    assert kept.manifest.options["qaic"]["retained_state"] is True


def test_mxfp6_rounds_the_weights_of_products(model: Path) -> None:
    notes: list[str] = []
    package = compiled(model, notes, mxfp6_matmul=True, **SIZES)
    np.testing.assert_array_equal(package.graph.tensor("w").data, mxfp6(WEIGHT, 0))
    assert notes == ["mxfp6-matmul: 1 weights of matrix products are rounded to MXFP6 (E2M3)"]
    with pytest.raises(UsageError, match=r"mxint8_kv_cache is not emulated.*float16"):
        compiled(model, mxint8_kv_cache=True, **SIZES)


def test_mxfp6_has_the_values_of_the_standard() -> None:
    """A block whose largest value is 7.5 has the scale 1: steps of 1/8 below 2, 1/4 below 4, 1/2 above; halves to even."""
    block = np.float32([7.5, 0.0625, 0.19, 1.99, 2.13, 5.25, -5.75, 0.06])
    expected = np.float32([7.5, 0, 0.25, 2.0, 2.25, 5.0, -6.0, 0])
    np.testing.assert_array_equal(mxfp6(block, 0), expected)
    np.testing.assert_array_equal(mxfp6(block * 2.0**20, 0), expected * 2.0**20)
    # 7.99 has the exponent of 7.5 and saturates.
    assert mxfp6(np.float32([7.99]), 0) == 7.5
    np.testing.assert_array_equal(mxfp6(np.zeros((40, 2), np.float32), 0), np.zeros((40, 2)))


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=70), elements=st.floats(-1e4, 1e4, width=32)))
def test_mxfp6_stays_near_and_is_stable(values: Array) -> None:
    """Twice is once, along either axis; no value moves by more than 1/15 of the largest of its block (7.99 -> 7.5)."""
    for axis in (0, 1):
        once = mxfp6(values, axis)
        np.testing.assert_array_equal(mxfp6(once, axis), once)
        blocks = np.array_split(np.moveaxis(values - once, axis, 0), range(32, values.shape[axis], 32))
        sizes = np.array_split(np.moveaxis(values, axis, 0), range(32, values.shape[axis], 32))
        for error, block in zip(blocks, sizes, strict=True):
            assert np.all(np.abs(error).max(axis=0) <= np.abs(block).max(axis=0) / 15 + 1e-38)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "is damaged"),
        (lambda path: path.write_bytes(b"\x7c\xcd\xa1\x00" + bytes(60)), "was compiled for the hardware.*qaic-exec"),
        (lambda path: path.write_bytes(b"something else"), "is no QPC"),
        (lambda path: path.write_bytes(b""), "is no QPC"),
        (lambda path: path.unlink(), "cannot read QPC"),
    ],
)
def test_files_that_are_no_qpc(model: Path, change: Callable[[Path], Any], said: str) -> None:
    compiled(model, **SIZES)
    path = model.parent / "qpc" / "programqpc.bin"
    change(path)
    for name in (path, path.parent):
        with pytest.raises(NpukitError, match=said) as caught:
            read_qpc(name)
        assert "\n" not in str(caught.value)


def test_a_folder_is_whole_or_not_there(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new folder appears with its file; when writing fails neither it nor anything else is left."""
    package = compiled(model, **SIZES)

    def fail(*args: Any) -> None:
        assert not (model.parent / "new").exists()
        raise KeyboardInterrupt

    before = sorted(model.parent.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("npukit_aic.qpc.write_package", fail)
        with pytest.raises(KeyboardInterrupt):
            write_qpc(package, model.parent / "new")
    assert sorted(model.parent.iterdir()) == before
    assert write_qpc(package, model.parent / "new" / "deep").is_file()
    assert sorted(model.parent.iterdir()) == sorted([*before, model.parent / "new"])
    with pytest.raises(UsageError, match="cannot make folder"):
        write_qpc(package, model / "below-a-file")
    with pytest.raises(UsageError, match="cannot make folder"):
        write_qpc(package, model)


def test_a_float_result_is_that_of_numpy(model: Path) -> None:
    found = run(compiled(model, **SIZES), x=X)
    np.testing.assert_allclose(found["y"], np.maximum(X @ WEIGHT, 0) + np.float32(0.1), rtol=1e-5, atol=1e-6)
    assert found["y"].flags.c_contiguous
