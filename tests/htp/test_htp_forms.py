"""Forms that the vendor refuses for values, ranks and attributes that rows cannot tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from npukit.encoding import Encoding, encoding_for_range, encoding_for_weights
from npukit.graph import Node, make_graph
from npukit.package import Manifest, Package
from npukit.quantization import Request, check, quantize

FORMS = [
    ("LayerNormalization", (2, 4, 4), {"s": np.ones(4, np.float32)}, {"axis": -1}, True),
    ("LayerNormalization", (2, 4, 4), {"s": np.ones(4, np.float32)}, {"axis": 2}, True),
    ("LayerNormalization", (2, 4, 4), {"s": np.ones((4, 4), np.float32)}, {"axis": 1}, False),
    ("ReduceMean", (2, 4), {}, {"noop_with_empty_axes": 1}, False),
    ("ReduceMean", (2, 4), {"axes": np.array([1])}, {"noop_with_empty_axes": 1}, True),
    ("Sum", (2, 4), {}, {}, False),
    ("Max", (2, 4), {"a": np.ones(4, np.float32), "b": np.ones(4, np.float32)}, {}, True),
    ("Pad", (2, 4), {"pads": np.array([0, 3, 0, 0])}, {"mode": "reflect"}, True),
    ("Pad", (2, 4), {"pads": np.array([2, 0, 0, 0])}, {"mode": "reflect"}, False),
    ("Pad", (2, 4), {"pads": np.array([0, 1, 0, 0])}, {"mode": "wrap"}, False),
    ("MatMul", (1, 2, 2, 3, 4), {"w": np.ones((4, 3), np.float32)}, {}, False),
    ("MatMul", (2, 2, 3, 4), {"w": np.ones((4, 3), np.float32)}, {}, True),
    ("MaxPool", (1, 2, 8, 8), {}, {"kernel_shape": (2, 2), "dilations": (2, 2)}, False),
    ("Tanh", (1, 2, 2, 3, 4), {}, {}, False),
    ("ArgMax", (2, 4), {}, {"select_last_index": 1}, False),
    ("Relu", (0, 4), {}, {}, False),
    ("RMSNormalization", (2, 4, 4), {"s": np.ones(4, np.float32)}, {"axis": 2}, True),
    ("RMSNormalization", (2, 4, 4), {"s": np.ones((4, 4), np.float32)}, {"axis": 1}, False),
    ("Expand", (1, 2, 2, 2, 2), {"shape": np.array([3, 1, 2, 2, 2, 2])}, {}, False),
    ("Expand", (1, 2, 2, 2, 2), {"shape": np.array([3, 2, 2, 2, 2])}, {}, True),
    ("Einsum", (2, 4), {"m": np.ones((4, 3), np.float32)}, {"equation": "ij,jk->ik"}, True),
    ("Einsum", (2, 3, 4), {"m": np.ones((2, 5, 4), np.float32)}, {"equation": "b i j, b k j -> b i k"}, True),
    ("Einsum", (1, 3, 2, 4), {"m": np.ones((3, 5, 4), np.float32)}, {"equation": "bhwc,hkc->bhwk"}, True),
    ("Einsum", (2, 4), {"v": np.ones(4, np.float32)}, {"equation": "ij,j->i"}, False),
    ("Einsum", (2, 4), {}, {"equation": "ij->ji"}, False),
    ("GatherND", (2, 3, 4), {"i": np.zeros((2, 1, 1), np.int64)}, {"batch_dims": 1}, False),
    ("GatherND", (2, 3, 4), {"i": np.zeros((2, 1), np.int64)}, {}, True),
    ("Gather", (1, 2, 3, 4), {"i": np.zeros((2, 2), np.int64)}, {"axis": 0}, False),
    ("Gather", (1, 2, 3, 4), {"i": np.zeros((2, 2), np.int64)}, {"axis": 1}, True),
    ("Max", (1, 2, 2, 2, 2), {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}, {}, False),
    ("Max", (1, 2, 2, 2, 2), {"a": np.ones(2, np.float32)}, {}, True),
    ("MatMul", (1, 2, 2, 3, 4), {"w": np.ones((1, 1, 4, 3), np.float32)}, {}, True),
    ("LpPool", (1, 2, 5, 5), {}, {"kernel_shape": (2, 2), "strides": (2, 2), "ceil_mode": 1}, False),
    ("LpPool", (1, 2, 5, 5), {}, {"kernel_shape": (2, 2), "strides": (2, 2)}, True),
    ("Cast", (2, 4), {}, {"to": 7}, False),
    ("Cast", (2, 4), {}, {"to": 6}, True),
    ("PRelu", (1, 2, 3, 4), {"s": np.full((2, 1, 1), 0.1, np.float32)}, {}, True),
]


@pytest.mark.parametrize(("op", "shape", "constants", "attributes", "accepted"), FORMS)
def test_forms(op: str, shape: tuple[int, ...], constants: dict[str, Any], attributes: dict[str, Any], accepted: bool) -> None:
    """The verdict is the vendor's."""
    node = Node(op, "n", ("x", *constants), ("y",), attributes)
    graph = make_graph([node], {"x": ("float32", shape)}, ["y"], constants)
    assert (check(Request(graph), backend="htp").verdict == "accepted") is accepted


RESIZE = [
    ("round_prefer_floor", "half_pixel", 4, True),
    ("round_prefer_floor", "half_pixel", 3, False),
    ("round_prefer_floor", "asymmetric", 4, False),
    ("ceil", "half_pixel", 4, True),
    ("ceil", "half_pixel", 5, False),
    ("round_prefer_ceil", "asymmetric", 4, True),
    ("round_prefer_ceil", "asymmetric", 3, False),
    ("round_prefer_ceil", "align_corners", 3, True),
    ("floor", "half_pixel", 5, True),
]


@pytest.mark.parametrize(("rounding", "where", "rank", "accepted"), RESIZE)
def test_nearest_pixels(rounding: str, where: str, rank: int, accepted: bool) -> None:
    """Roundings go with coordinates and with the number of dimensions."""
    constants = {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 2, 2], np.float32)[:rank]}
    attributes = {"mode": "nearest", "nearest_mode": rounding, "coordinate_transformation_mode": where}
    graph = make_graph(
        [Node("Resize", "n", ("x", "r", "s"), ("y",), attributes)], {"x": ("float32", (1, 2, 3, 3, 3)[:rank])}, ["y"], constants
    )
    assert (check(Request(graph), backend="htp").verdict == "accepted") is accepted


WEIGHTS = [
    ("int8", "int8", True, True),
    ("int8", "uint8", False, True),
    ("int8", "uint8", True, False),
    ("int16", "uint8", False, False),
    ("uint16", "uint8", True, True),
    ("int16", "int4", False, True),
]


@pytest.mark.parametrize(("data", "weight", "bias", "accepted"), WEIGHTS)
def test_signed_activations_and_weights(data: str, weight: str, bias: bool, accepted: bool) -> None:
    names = ("x", "w", "b") if bias else ("x", "w")
    constants = {"w": np.linspace(-1, 1, 36, dtype=np.float32).reshape(2, 2, 3, 3), "b": np.ones(2, np.float32)}
    graph = make_graph(
        [Node("Conv", "n", names, ("y",))], {"x": ("float32", (1, 2, 5, 5))}, ["y"], {n: constants[n] for n in names[1:]}
    )
    grids = {n: encoding_for_range(-1, 1, data) for n in ("x", "y")}
    grids["w"] = encoding_for_weights(constants["w"], weight, symmetric=weight.startswith("int"))
    if bias:
        grids["b"] = Encoding("int32", grids["x"].steps * grids["w"].steps, symmetric=True)
    package = Package(Manifest("htp", "SM8750"), graph, grids)
    assert (check(package, backend="htp").verdict == "accepted") is accepted


def test_slopes_lie_on_one_grid() -> None:
    """The vendor's runtime takes no scale per channel for the slopes of a PRelu, so they get one by default."""
    slope = np.array([0.1, 0.4], np.float32).reshape(2, 1, 1)
    graph = make_graph([Node("PRelu", "n", ("x", "s"), ("y",))], {"x": ("float32", (1, 2, 3, 3))}, ["y"], {"s": slope})
    made = quantize(Request(graph), "htp", data=[{"x": np.linspace(-1, 1, 18, dtype=np.float32).reshape(1, 2, 3, 3)}])
    assert made.encodings["s"].granularity == "tensor"


@pytest.mark.parametrize(
    ("inputs", "attributes", "accepted"), [(3, {"onesided": 1}, True), (4, {"onesided": 1}, True), (4, {}, False)]
)
def test_spectrogram_shapes(inputs: int, attributes: dict[str, int], accepted: bool) -> None:
    constants = {"step": np.array(8), "window": np.ones(16, np.float32), "length": np.array(16)}
    names = ("x", *list(constants)[: inputs - 1])
    graph = make_graph(
        [Node("STFT", "n", names, ("y",), attributes)], {"x": ("float32", (1, 64, 1))}, ["y"], {n: constants[n] for n in names[1:]}
    )
    assert (check(Request(graph), backend="htp").verdict == "accepted") is accepted


@pytest.mark.parametrize(("lengths", "accepted"), [([6, 6], True), ([6, 3], False)])
def test_sequences_have_one_length(lengths: list[int], accepted: bool) -> None:
    constants = {"w": np.ones((1, 12, 3), np.float32), "r": np.ones((1, 12, 4), np.float32), "l": np.array(lengths, np.int32)}
    node = Node("GRU", "n", ("x", "w", "r", "", "l"), ("y",), {"hidden_size": 4})
    graph = make_graph([node], {"x": ("float32", (6, 2, 3))}, ["y"], constants)
    assert (check(Request(graph), backend="htp").verdict == "accepted") is accepted
