"""What options change of grids, weights, biases and of what stays float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npukit.calibration import clipped, find_observer, read_input_list
from npukit.encoding import Array, Encoding
from npukit.errors import UsageError
from npukit.graph import Graph, Node, make_graph
from npukit.package import read_package
from npukit.quantization import Options, Quantized, Request, convert, open_session, quantize

RNG = np.random.default_rng(0)
X = RNG.standard_normal((8, 1, 4)).astype(np.float32)
WEIGHT = RNG.standard_normal((3, 4)).astype(np.float32)
BIAS = np.array([0.5, -3.0, 0.01], np.float32)


@pytest.fixture
def graph() -> Graph:
    """Gemm and Relu."""
    nodes = [Node("Gemm", "g", ("x", "w", "b"), ("h",), {"transB": 1}), Node("Relu", "r", ("h",), ("y",))]
    return make_graph(nodes, {"x": ("float32", (1, 4))}, ["y"], {"w": WEIGHT, "b": BIAS})


def made(graph: Graph, backend: str = "cpu:qdq", **options: Any) -> Quantized:
    return quantize(graph, backend, data={"x": X}, options=Options(**options))


def test_a_scheme_is_changed_field_by_field(graph: Graph) -> None:
    plain = made(graph, per_channel=False).encodings
    found = made(graph, per_channel=False, scheme={"activations": "symmetric", "limits": {"int8": (-64, 63)}}).encodings
    assert plain["x"].zeros != 128
    assert found["x"].zeros == 128
    assert float(found["w"].steps) == pytest.approx(np.abs(WEIGHT).max() / 63)
    with pytest.raises(UsageError, match="no field 'activation'"):
        made(graph, scheme={"activation": "symmetric"})


def test_scales_per_channel_for_some_ops(graph: Graph) -> None:
    assert made(graph, per_channel=("Gemm",)).encodings["w"].granularity == "channel"
    assert made(graph, per_channel=("Conv",)).encodings["w"].granularity == "tensor"


def test_biases_are_narrow_where_an_op_takes_them(graph: Graph) -> None:
    """On HTP the bias of a Gemm is int32 whatever is asked for (IntBiasUpdates), that of a convolution is not."""
    assert made(graph, "htp", bias="int8").encodings["b"].dtype == "int32"
    node = Node("Conv", "c", ("x", "w", "b"), ("y",))
    weight = RNG.standard_normal((3, 4, 1, 1)).astype(np.float32)
    conv = make_graph([node], {"x": ("float32", (1, 4, 2, 2))}, ["y"], {"w": weight, "b": BIAS})
    data = {"x": RNG.standard_normal((4, 4, 2, 2)).astype(np.float32)}
    narrow, wide = (quantize(conv, "htp", data=data, options=Options(bias=dtype)) for dtype in ("int8", "int32"))
    assert [q.encodings["b"].dtype for q in (narrow, wide)] == ["int8", "int32"]
    assert float(narrow.encodings["b"].steps) == pytest.approx(3.0 / 127)
    with open_session(narrow) as a, open_session(wide) as b:
        feeds = {"x": data["x"][:1]}
        step = float(narrow.encodings["b"].steps)
        difference = np.abs(a.run(feeds)["y"] - b.run(feeds)["y"])
    assert 0 < difference.max() <= step / 2 + 2 * float(narrow.encodings["y"].steps)


def test_room_for_a_bias_is_made_or_not(graph: Graph) -> None:
    """A bias too large for int32 at its scale widens the scale of its channel, unless the scheme leaves it alone."""
    weight, bias = WEIGHT * np.array([[1e-7], [1], [1]], np.float32), np.array([900.0, 0, 0], np.float32)
    odd = make_graph(graph.nodes, {"x": ("float32", (1, 4))}, ["y"], {"w": weight, "b": bias})
    room, none = (made(odd, scheme={"bias_room": kinds}).encodings for kinds in (("channel",), ()))
    assert room["w"].steps[0] > 2 * none["w"].steps[0]
    np.testing.assert_array_equal(room["w"].steps[1:], none["w"].steps[1:])


@pytest.mark.parametrize("method", ["mse", "sqnr", "entropy", "percentile"])
def test_weights_are_cut_as_a_method_chooses(graph: Graph, method: str) -> None:
    """An outlier among many values is cut off, in its channel only."""
    values = RNG.standard_normal((2, 50_000)).astype(np.float32)
    values[0, 0] = 60.0
    found = clipped(values, find_observer(method), "int4", 0, percentile=99.9)
    assert found[0].max() < 20
    np.testing.assert_array_equal(
        np.sort(np.abs(found[1]))[: values.shape[1] // 2], np.sort(np.abs(values[1]))[: values.shape[1] // 2]
    )
    coarse, fine = (made(graph, weights="int4", weight_calibration=m).encodings["w"] for m in ("min-max", method))
    assert np.all(fine.steps <= coarse.steps)


def test_weights_stay_integer_between_floats(graph: Graph) -> None:
    floats = {n: Encoding("float16", origin="override") for n in ("x", "h", "y")}
    request = Request(graph, overrides=floats)
    plain, kept = (quantize(request, "htp", options=Options(keep_weights=k)).encodings for k in (False, True))
    assert "w" not in plain
    assert kept["w"].dtype == "int8"
    assert "b" not in kept


@pytest.mark.parametrize("backend", ["htp", "cpu:qdq"])
def test_what_stays_float_has_a_width(graph: Graph, backend: str) -> None:
    options = Options(float_type="float16", float_bias="float32")
    found = convert(graph, backend, options=options).encodings
    assert {n: e.dtype for n, e in found.items()} == dict.fromkeys(("x", "w", "h", "y"), "float16")
    again = convert(convert(graph, options=options).package).encodings
    assert not again  # what only fell back to float is decided anew


def test_integer_and_float_meet_in_islands(graph: Graph, tmp_path: Path) -> None:
    """A node between both computes in float, now and after the package was read; calibrated, it is integer again."""
    half = Request(graph, overrides={"x": Encoding("uint8", 0.05, 128, origin="override")})
    result = convert(half, "htp", options=Options(float_type="float16", islands=True))
    assert result.package.types["g"] == "float16"
    result.save(tmp_path / "half.dlc")
    feeds = {"x": X[0]}
    with open_session(tmp_path / "half.dlc") as session, open_session(graph, "cpu") as exact:
        assert session.program.types["g"] == "float16"
        np.testing.assert_allclose(session.run(feeds)["y"], exact.run(feeds)["y"], atol=0.2)
    whole = quantize(read_package(tmp_path / "half.dlc"), data={"x": X})
    assert whole.package.types["g"] == "int"
    assert whole.encodings["x"].origin == "override"


def test_lines_with_one_element_fill_a_batch(tmp_path: Path) -> None:
    """Two and a half batches: the last one is filled with zeros."""
    graph = make_graph([Node("Relu", "r", ("x",), ("y",))], {"x": ("float32", (2, 3))}, ["y"])
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    for index, row in enumerate(rows):
        row.astype("<f4").tofile(tmp_path / f"{index}.raw")
    (tmp_path / "list.txt").write_text("".join(f"{index}.raw\n" for index in range(5)))
    found = read_input_list(tmp_path / "list.txt", graph)
    assert found.sizes() == [2, 2, 1]
    batches: list[Array] = [feeds["x"] for feeds in found]
    np.testing.assert_array_equal(np.concatenate(batches), np.vstack([rows, np.zeros((1, 3))]))


def test_native_files_hold_the_type_itself(tmp_path: Path) -> None:
    graph = make_graph([Node("Relu", "r", ("x",), ("y",))], {"x": ("float16", (1, 3))}, ["y"])
    values = np.array([[0.5, -1, 2]], np.float16)
    values.tofile(tmp_path / "native.raw")
    values.astype("<f4").tofile(tmp_path / "float.raw")
    for name, native in (("native", {"x": graph.tensor("x")}), ("float", {})):
        (tmp_path / "list.txt").write_text(f"{name}.raw\n")
        (feeds,) = read_input_list(tmp_path / "list.txt", graph, native=native)
        assert feeds["x"].dtype == np.float16
        np.testing.assert_array_equal(feeds["x"], values)
