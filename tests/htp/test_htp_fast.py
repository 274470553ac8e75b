"""The fast form of the HTP emulator: bit for bit what the numpy kernels give, which are the reference here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npukit.backend.kernels import Window
from npukit.backend.library import lowerings_of, wide
from npukit.backend.library.kernels.unary import UNARY
from npukit.backend.library.lower.saturation import products_saturate
from npukit.encoding import Array, Encoding, encoding_for_weights
from npukit.graph import Graph, Node, load, make_graph
from npukit.quantization import Options, quantize
from npukit.testing import random_feeds
from npukit_htp.backend import HtpBackend

BACKEND = HtpBackend()
DTYPES = ("uint8", "int8", "uint16", "int16")


def assert_same(
    graph: Graph,
    encodings: Mapping[str, Encoding],
    feeds: Sequence[Mapping[str, Array]],
    fast: int | None = None,
    soc: str = "",
    kind: str = "",
) -> None:
    """Both forms give the same values of all tensors; ``fast`` nodes run in the fast form (all of them by default).

    With ``kind`` all nodes compute in that type.
    """
    program = BACKEND.compile(graph, encodings, BACKEND.soc(soc))
    program = attrs.evolve(program, types={n.name: kind for n in graph.nodes}) if kind else program
    names = [n for node in graph.nodes for n in node.outputs if n]
    with BACKEND.open(program, "numpy") as slow, BACKEND.open(program, "fast") as quick:
        assert quick.metrics()["fast"] == (len(graph.nodes) if fast is None else fast)
        for feed in feeds:
            for wanted in (graph.outputs, names):
                expected, got = slow.run(feed, wanted), quick.run(feed, wanted)
                for name in wanted:
                    assert got[name].dtype == expected[name].dtype
                    np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def grid(dtype: str, step: float = 0.05, place: float = 0.4) -> Encoding:
    """A grid whose zero point lies at ``place`` of its codes."""
    plain = Encoding(dtype, 1.0, 0)
    zero = plain.qmin + round(place * (plain.qmax - plain.qmin))
    return Encoding(dtype, step * 255 / (plain.qmax - plain.qmin), zero)


def single(node: Node, shapes: Mapping[str, tuple[Any, ...]], constants: Mapping[str, Array]) -> Graph:
    return make_graph([node], {n: ("float32", s) for n, s in shapes.items()}, node.outputs, constants)


def feeds_of(rng: np.random.Generator, shapes: Mapping[str, tuple[int, ...]], scale: float = 4.0) -> list[dict[str, Array]]:
    """Values inside the default grid, values beyond it, and its two ends only."""
    inside = {n: (rng.standard_normal(s) * scale).astype(np.float32) for n, s in shapes.items()}
    beyond = {n: v * 20 for n, v in inside.items()}
    ends = {n: np.where(v > 0, 1e3, -1e3).astype(np.float32) for n, v in inside.items()}
    highest = {n: np.full_like(v, 1e3) for n, v in inside.items()}
    return [inside, beyond, ends, highest]


# ---------------------------------------------------------------------------------------------------------------- sums

SUMS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], int, int, dict[str, Any]]] = {
    # name: op, shape of x, shape of the weight, its channel axis, number of biases, attributes
    "conv": ("Conv", (1, 5, 9, 8), (6, 5, 3, 3), 0, 6, {"pads": (1, 1, 1, 1)}),
    "conv_strided": ("Conv", (2, 4, 9, 8), (6, 4, 3, 3), 0, 6, {"strides": (2, 2), "pads": (0, 1, 1, 0)}),
    "conv_dilated": ("Conv", (1, 4, 9, 9), (6, 4, 3, 3), 0, 6, {"dilations": (2, 2), "auto_pad": "SAME_UPPER"}),
    "conv_pointwise": ("Conv", (1, 70, 6, 5), (9, 70, 1, 1), 0, 9, {}),
    "conv_depthwise": ("Conv", (1, 16, 9, 8), (16, 1, 3, 3), 0, 16, {"group": 16, "pads": (1, 1, 1, 1)}),
    "conv_grouped": ("Conv", (1, 8, 7, 7), (6, 4, 3, 3), 0, 6, {"group": 2}),
    "conv_1d": ("Conv", (1, 6, 20), (5, 6, 3), 0, 5, {"pads": (1, 1)}),
    "conv_3d": ("Conv", (1, 3, 5, 5, 5), (4, 3, 2, 2, 2), 0, 4, {}),
    "conv_transpose": ("ConvTranspose", (1, 5, 4, 4), (5, 6, 3, 3), 1, 6, {"strides": (2, 2), "output_padding": (1, 1)}),
    "gemm": ("Gemm", (3, 40), (10, 40), 0, 10, {"transB": 1}),
    "gemm_plain": ("Gemm", (3, 40), (40, 10), 1, 10, {}),
    "matmul": ("MatMul", (2, 5, 40), (40, 10), 1, 0, {}),
}  # fmt: skip
WEIGHTS = ("int8", "uint8", "int4")


def sum_case(
    name: str, x: str, w: str, out: str, granularity: str, bias: bool, rng: np.random.Generator, extreme: bool = False
) -> tuple[Graph, dict[str, Encoding], dict[str, tuple[int, ...]]]:
    op, shape, weight_shape, axis, biases, attributes = SUMS[name]
    weight = rng.standard_normal(weight_shape).astype(np.float32)
    if extreme:
        weight = np.where(weight > -1, 3, -3).astype(np.float32)
    kind: dict[str, Any] = {"granularity": "channel", "axis": axis} if granularity == "channel" else {}
    encodings = {
        "x": grid(x),
        "w": encoding_for_weights(weight, w, symmetric=w != "uint8", **kind),
        "y": grid(out, 0.05 * np.sqrt(weight.size / biases if biases else weight_shape[0]), 0.45),
    }
    constants = {"w": weight}
    if bias and biases:
        scale = encodings["x"].steps * encodings["w"].steps
        constants["b"] = (rng.standard_normal(biases) * 3).astype(np.float32)
        encodings["b"] = Encoding("int32", scale, axis=0 if scale.ndim else None)
    graph = single(Node(op, "n", ("x", *constants), ("y",), attributes), {"x": shape}, constants)
    return graph, encodings, {"x": shape}


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("w", WEIGHTS)
@pytest.mark.parametrize("x", DTYPES)
@pytest.mark.parametrize("name", SUMS)
def test_sums(name: str, x: str, w: str, granularity: str, rng: np.random.Generator) -> None:
    """Convolutions and matrix products, on random weights and on weights at the ends of their grid, for both requantizations."""
    for bias, extreme in ((True, False), (False, True)):
        graph, encodings, shapes = sum_case(name, x, w, x, granularity, bias, rng, extreme)
        for soc in ("v79", "v68"):
            assert_same(graph, encodings, feeds_of(rng, shapes), soc=soc)


@pytest.mark.parametrize(("x", "out"), [("uint8", "uint16"), ("uint16", "uint8"), ("int8", "uint8"), ("uint8", "int16")])
@pytest.mark.parametrize("name", ["conv", "gemm", "matmul", "conv_transpose"])
def test_sums_that_change_type(name: str, x: str, out: str, rng: np.random.Generator) -> None:
    """The output may have another type than the input."""
    graph, encodings, shapes = sum_case(name, x, "int8", out, "channel", True, rng)
    for soc in ("v79", "v68"):
        assert_same(graph, encodings, feeds_of(rng, shapes), soc=soc)


@pytest.mark.parametrize("bias", [0.0, 1e3, 4e5], ids=["none", "small", "beyond 24 bits"])
@pytest.mark.parametrize(
    ("channels", "inputs", "kernel"), [(32, 1, 3), (5, 1, 3), (32, 1, 9), (32, 3, 3), (16, 32, 3), (4, 200, 3)]
)
def test_sums_beyond_24_bits(channels: int, inputs: int, kernel: int, bias: float, rng: np.random.Generator) -> None:
    """Sums of uint16 codes that float32 does not hold: both kinds of pieces, added behind every kind of Conv."""
    weight = np.sign(rng.standard_normal((channels, inputs, kernel, kernel))) * rng.uniform(
        0.5, 1, (channels, inputs, kernel, kernel)
    )
    constants = {"w": weight.astype(np.float32)} | ({"b": np.full(channels, bias, np.float32)} if bias else {})
    depthwise = inputs == 1
    shape = (1, channels if depthwise else inputs, 12, 13)
    node = Node("Conv", "n", ("x", *constants), ("y",), {"group": channels if depthwise else 1})
    encodings = {"x": Encoding("uint16", 1.0, 0), "w": encoding_for_weights(constants["w"], "int8", granularity="channel", axis=0)}
    encodings["y"] = Encoding("uint16", 65535 * inputs * kernel**2 / 500, 20_000)
    if bias:
        encodings["b"] = Encoding("int32", encodings["w"].scale, axis=0)
    assert_same(single(node, {"x": shape}, constants), encodings, [{"x": rng.uniform(6e4, 65535, shape).astype(np.float32)}])


@pytest.fixture(params=[True, False], ids=["floats", "bytes"])
def kind_of_products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """16-bit sums as on machines where products of bytes saturate, and as on others, however small they are."""
    if products_saturate() and not request.param:
        pytest.skip("products of uint8 and int8 saturate on this machine")
    monkeypatch.setattr(import_module("npukit.backend.library.lower.sums"), "products_saturate", lambda: request.param)
    bytewise = import_module("npukit.backend.library.lower.bytewise")
    for name, least in (("_CHANNELS", 1), ("_PRODUCTS", 0), ("is_short", lambda whole, most: False)):
        monkeypatch.setattr(bytewise, name, least)
    return "floats" if request.param else "bytes"


@pytest.mark.usefixtures("kind_of_products")
@pytest.mark.parametrize("zero", [255, 65280])
@pytest.mark.parametrize("x", ["uint16", "int16"])
@pytest.mark.parametrize("name", SUMS)
def test_16_bit_sums_of_either_kind(name: str, x: str, zero: int, rng: np.random.Generator) -> None:
    """Every form of a sum, in floats and in bytes, for zero points at opposite ends of their two bytes."""
    graph, encodings, shapes = sum_case(name, x, "int8", x, "channel", True, rng)
    lowest = Encoding(x, 1.0).qmin
    given = encodings | {"x": Encoding(x, encodings["x"].scale, lowest + zero)}
    for soc in ("v79", "v68"):
        assert_same(graph, given, feeds_of(rng, shapes), soc=soc)


@pytest.mark.usefixtures("kind_of_products")
@pytest.mark.parametrize("op", ["LeakyRelu", "HardSwish"])
@pytest.mark.parametrize("x", DTYPES)
@pytest.mark.parametrize("name", ["conv", "conv_pointwise", "conv_depthwise", "conv_1d", "gemm", "matmul"])
def test_functions_of_sums(name: str, x: str, op: str, rng: np.random.Generator) -> None:
    """An activation on the real values of a sum, which has no codes from v73 on and has them before."""
    graph, encodings, shapes = sum_case(name, x, "int8", x, "channel", True, rng)
    constants = {key: tensor.data for key, tensor in graph.tensors.items() if tensor.is_constant}
    nodes = [*graph.nodes, Node(op, "a", ("y",), ("z",))]
    graph = make_graph(nodes, {n: ("float32", s) for n, s in shapes.items()}, ["z"], constants)
    for soc in ("v79", "v68"):
        assert_same(graph, encodings | {"z": grid(x, 0.07)}, feeds_of(rng, shapes), soc=soc)


@pytest.mark.parametrize("depth", [200, 3000, 5000])
@pytest.mark.parametrize("bias", [False, True])
def test_long_sums_are_cut_into_blocks(depth: int, bias: bool, kind_of_products: str, rng: np.random.Generator) -> None:
    """Sums that two products cannot hold; one code in some hundred would be another one if they were added in float32."""
    weight = rng.uniform(0.5, 1, (7, depth, 1, 1)).astype(np.float32)
    constants = {"w": weight} | ({"b": np.full(7, 40.0, np.float32)} if bias else {})
    encodings = {"x": Encoding("uint16", 1e-3, 0), "w": encoding_for_weights(weight, "int8", granularity="channel", axis=0)}
    encodings["y"] = Encoding("uint16", depth * 30 / 65535, 100)
    if bias:
        encodings["b"] = Encoding("int32", 1e-3 * encodings["w"].scale, axis=0)
    graph = single(Node("Conv", "n", ("x", *constants), ("y",)), {"x": (1, depth, 30, 40)}, constants)
    assert_same(graph, encodings, [{"x": rng.uniform(0, 65.5, (1, depth, 30, 40)).astype(np.float32)}])


@pytest.mark.parametrize("saturates", [True, False])
@pytest.mark.parametrize("x", ["uint8", "int8"])
def test_sums_that_would_saturate_in_16_bits(x: str, saturates: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All products at their largest: pairs of them are beyond int16, where instructions without VNNI saturate.

    Weights are then uint8, which is right on any machine; int8 is so where nothing saturates.
    """
    if products_saturate() and not saturates:
        pytest.skip("products of uint8 and int8 saturate on this machine")
    monkeypatch.setattr(import_module("npukit.backend.library.lower.sums"), "products_saturate", lambda: saturates)
    weight = np.full((8, 64, 3, 3), 1.0, np.float32)
    graph = single(Node("Conv", "n", ("x", "w"), ("y",), {}), {"x": (1, 64, 8, 8)}, {"w": weight})
    encodings = {
        "x": Encoding(x, 1.0, Encoding(x, 1.0).qmin),
        "w": encoding_for_weights(weight, "int8"),
        "y": Encoding("uint8", 600.0, 0),
    }
    assert_same(graph, encodings, [{"x": np.full((1, 64, 8, 8), 255, np.float32)}])


@pytest.mark.parametrize("x", ["uint8", "uint16"])
def test_halves_are_rounded_to_even(x: str) -> None:
    """Sums exactly between two codes."""
    values = np.arange(-100, 101, dtype=np.float32).reshape(1, 1, 3, 67)
    weight = np.array([1.0, 127.0], np.float32).reshape(2, 1, 1, 1)
    encodings = {"x": Encoding(x, 1.0, 128), "w": Encoding("int8", 1.0, 0), "y": Encoding(x, 2.0, 100)}
    assert_same(single(Node("Conv", "n", ("x", "w"), ("y",), {}), {"x": values.shape}, {"w": weight}), encodings, [{"x": values}])


@pytest.mark.parametrize("soc", ["v79", "v68"])
@pytest.mark.parametrize("b", DTYPES)
@pytest.mark.parametrize("a", DTYPES)
def test_matmul_of_activations(a: str, b: str, soc: str, rng: np.random.Generator) -> None:
    """Two activations, in batches; of a pair of 16 bits a right one of uint16 is rounded to 8."""
    for shapes in ({"a": (2, 5, 30), "b": (2, 30, 7)}, {"a": (4, 300), "b": (2, 300, 3)}):
        encodings = {"a": grid(a), "b": grid(b, 0.03, 0.6), "y": grid(a, 0.8)}
        graph = single(Node("MatMul", "n", ("a", "b"), ("y",)), shapes, {})
        assert_same(graph, encodings, feeds_of(rng, shapes), soc=soc)


@pytest.mark.parametrize("batch", [(), (1,), (2,), (1, 1), (1, 2)])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("x", ["uint8", "uint16"])
def test_matmul_of_a_stack_of_weights(x: str, per_channel: bool, batch: tuple[int, ...], rng: np.random.Generator) -> None:
    """A constant of any rank on the right, with one scale and with scales per column."""
    weight = rng.standard_normal((*batch, 4, 6)).astype(np.float32)
    kind = {"granularity": "channel", "axis": weight.ndim - 1} if per_channel else {}
    encodings = {"x": grid(x), "w": encoding_for_weights(weight, "int8", **kind), "y": grid(x, 0.3)}
    shapes = {"x": (1, 2, 5, 4)}
    assert_same(single(Node("MatMul", "n", ("x", "w"), ("y",)), shapes, {"w": weight}), encodings, feeds_of(rng, shapes))


def test_every_code_of_a_right_operand(rng: np.random.Generator) -> None:
    """All codes of uint16, on grids with their zero point anywhere, as the product takes them."""
    values = np.arange(1 << 16, dtype=np.float32).reshape(1, 1 << 16)
    for zero in (0, 1, 128, 129, 32767, 32768, 65535):
        encodings = {"a": Encoding("uint16", 1.0, 0), "b": Encoding("uint16", 1.0, zero), "y": Encoding("uint16", 257.0, zero)}
        graph = single(Node("MatMul", "n", ("a", "b"), ("y",)), {"a": (1, 1), "b": values.shape}, {})
        assert_same(graph, encodings, [{"a": np.ones((1, 1), np.float32), "b": values - zero}])


def test_sum_that_is_too_wide_stays_with_its_kernel(rng: np.random.Generator) -> None:
    """Weights of 16 bits times activations of 16 bits fit into float32 sums of few products only: the kernel has float64."""
    weight = rng.standard_normal((1000, 3)).astype(np.float32)
    encodings = {"x": grid("uint16"), "w": encoding_for_weights(weight, "int16"), "y": grid("uint16", 2.0)}
    graph = single(Node("MatMul", "n", ("x", "w"), ("y",)), {"x": (2, 1000)}, {"w": weight})
    assert_same(graph, encodings, feeds_of(rng, {"x": (2, 1000)}), fast=0)


# ---------------------------------------------------------------------------------------------------------------- other ops


@pytest.mark.parametrize("kind", ["same", "other"])
@pytest.mark.parametrize("x", DTYPES)
@pytest.mark.parametrize("op", sorted(UNARY))
def test_tables(op: str, x: str, kind: str, rng: np.random.Generator) -> None:
    """Functions of one value: all codes of 8 bits, many of 16, on one grid and on two."""
    limits = {"low": np.array(-1.3, np.float32), "high": np.array(2.9, np.float32)} if op == "Clip" else {}
    out = grid(x) if kind == "same" else grid("uint8" if x == "int16" else x, 0.021, 0.0 if op == "Relu" else 0.3)
    graph = single(Node(op, "n", ("x", *limits), ("y",)), {"x": (1, 3, 50, 40)}, limits)
    values = np.linspace(-8, 8, 6000, dtype=np.float32).reshape(1, 3, 50, 40)
    assert_same(graph, {"x": grid(x), "y": out}, [{"x": values}, *feeds_of(rng, {"x": values.shape})])


@pytest.mark.parametrize("out", ["uint8", "int16"])
@pytest.mark.parametrize("x", DTYPES)
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Max", "Min", "PRelu", "Sum"])
def test_elementwise(op: str, x: str, out: str, rng: np.random.Generator) -> None:
    """Two activations on different grids, and an activation with a constant."""
    shapes = {"a": (1, 4, 6, 7), "b": (1, 4, 1, 7)}
    encodings = {"a": grid(x), "b": grid(x, 0.031, 0.7), "y": grid(out, 0.11)}
    assert_same(single(Node(op, "n", ("a", "b"), ("y",)), shapes, {}), encodings, feeds_of(rng, shapes))
    constant = {"b": rng.standard_normal((4, 1, 1)).astype(np.float32)}
    graph = single(Node(op, "n", ("a", "b"), ("y",)), {"a": shapes["a"]}, constant)
    for given_grid in ({}, {"b": grid("uint8", 0.02)}):
        wanted = {n: e for n, e in encodings.items() if n != "b"}
        assert_same(graph, wanted | given_grid, feeds_of(rng, {"a": shapes["a"]}))


@pytest.mark.parametrize("kind", ["plain", "8 bits"])
@pytest.mark.parametrize("x", DTYPES)
def test_batch_normalization(x: str, kind: str, rng: np.random.Generator) -> None:
    """A BatchNormalization that no Conv takes up, its scale and bias on grids or not."""
    constants = {name: rng.uniform(0.5, 2, 5).astype(np.float32) for name in ("scale", "bias", "mean", "variance")}
    graph = single(Node("BatchNormalization", "n", ("x", *constants), ("y",), {"epsilon": 1e-3}), {"x": (2, 5, 9, 8)}, constants)
    given_grids = {} if kind == "plain" else {"scale": grid("uint8", 0.01), "bias": grid("uint8", 0.01)}
    encodings = {"x": grid(x), "y": grid(x, 0.07), **given_grids}
    assert_same(graph, encodings, feeds_of(rng, {"x": (2, 5, 9, 8)}))


@pytest.mark.parametrize("x", DTYPES)
def test_division(x: str, rng: np.random.Generator) -> None:
    """Div by a constant; by an activation, which may be zero, the kernel computes."""
    encodings = {"a": grid(x), "b": grid(x), "y": grid(x, 0.04)}
    constant = {"b": np.array([1.5, -0.3, 7.1, 3.0], np.float32).reshape(4, 1, 1)}
    graph = single(Node("Div", "n", ("a", "b"), ("y",)), {"a": (1, 4, 6, 7)}, constant)
    assert_same(graph, {n: encodings[n] for n in "ay"}, feeds_of(rng, {"a": (1, 4, 6, 7)}))
    shapes = {"a": (1, 4, 6, 7), "b": (1, 4, 6, 7)}
    assert_same(single(Node("Div", "n", ("a", "b"), ("y",)), shapes, {}), encodings, feeds_of(rng, shapes), fast=0)


@pytest.mark.parametrize("step", [0.0001, 0.05, 30.0])
@pytest.mark.parametrize(("shape", "axis"), [((3, 5, 70), -1), ((2, 3, 4, 5), 1), ((40, 6), 0), ((1, 1), -1)])
@pytest.mark.parametrize("x", DTYPES)
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax(op: str, x: str, shape: tuple[int, ...], axis: int, step: float, rng: np.random.Generator) -> None:
    """Along short and long axes, on grids whose powers are all near 1 or all but 0; all bits of the result, and its codes."""
    out = grid("uint8" if x == "int16" else x, 0.004 if op == "Softmax" else 0.3 * step, 0.0 if op == "Softmax" else 0.9)
    graph = single(Node(op, "n", ("x",), ("y",), {"axis": axis}), {"x": shape}, {})
    feeds = feeds_of(rng, {"x": shape}, 60 * step)
    assert_same(graph, {"x": grid(x, step), "y": out}, feeds)
    assert_same(graph, {"x": grid(x, step)}, feeds, kind="int")


NORMS: list[tuple[str, tuple[int, ...], int, dict[str, Any]]] = [
    # op, shape of the input and of the scale and bias, how many of these, attributes
    ("LayerNormalization", (2, 5, 48), 2, {}),
    ("LayerNormalization", (2, 5, 6, 8), 1, {"axis": 2, "epsilon": 1e-3}),
    ("RMSNormalization", (2, 5, 48), 1, {"epsilon": 1e-6}),
    ("SimplifiedLayerNormalization", (2, 5, 48), 1, {}),
    ("InstanceNormalization", (2, 5, 7, 6), 2, {"epsilon": 1e-3}),
]


def norm_case(op: str, shape: tuple[int, ...], count: int, attributes: Mapping[str, Any], rng: np.random.Generator) -> Graph:
    wide = shape[1:2] if op == "InstanceNormalization" else shape[attributes.get("axis", -1) :]
    constants = {n: (k + rng.standard_normal(wide)).astype(np.float32) for k, n in list(enumerate("bw"))[::-1][:count]}
    return single(Node(op, "n", ("x", *constants), ("y",), attributes), {"x": shape}, constants)


@pytest.mark.parametrize("step", [0.0001, 0.05, 30.0])
@pytest.mark.parametrize("x", DTYPES)
@pytest.mark.parametrize("case", NORMS, ids=lambda case: case[0])
def test_norms(case: tuple[Any, ...], x: str, step: float, rng: np.random.Generator) -> None:
    """Normalizations, with a scale on a grid and without, of rows that vary and of rows that do not; to codes and to floats."""
    graph = norm_case(*case, rng)
    feeds = [*feeds_of(rng, {"x": case[1]}, 60 * step), {"x": np.full(case[1], 7 * step, np.float32)}]
    encodings = {"x": grid(x, step), "y": grid("uint8" if x == "int16" else x)}
    assert_same(graph, encodings, feeds)
    assert_same(graph, encodings | {"w": grid("uint8", 0.02)}, feeds)
    assert_same(graph, {"x": grid(x, step)}, feeds, kind="int")


def test_sums_beyond_float64_stay_with_their_kernel() -> None:
    """A mean over 2^23 codes of 16 bits: the sum of their squares may not be a float64 number."""
    graph = norm_case("LayerNormalization", (1, 1 << 23), 1, {}, np.random.default_rng(0))
    assert_same(graph, {"x": grid("uint16"), "y": grid("uint16")}, [], fast=0)
    assert_same(graph, {"x": grid("uint8"), "y": grid("uint8")}, [])


@settings(max_examples=60)
@given(st.data(), st.sampled_from(["Softmax", "LogSoftmax", *(case[0] for case in NORMS)]), st.sampled_from(DTYPES))
def test_random_norms(data: st.DataObject, op: str, x: str) -> None:
    """Any shape, axis, scale and zero point."""
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=3, max_size=4)))
    axis, seed = data.draw(st.integers(-len(shape), len(shape) - 1)), data.draw(st.integers(0, 2**32 - 1))
    step, place = data.draw(st.floats(1e-5, 100)), data.draw(st.floats(0, 1))
    rng = np.random.default_rng(seed)
    if op.endswith("Softmax"):
        graph = single(Node(op, "n", ("x",), ("y",), {"axis": axis}), {"x": shape}, {})
    else:
        attributes = {} if op == "InstanceNormalization" else {"axis": axis}
        graph = norm_case(op, shape, 2 if op in ("LayerNormalization", "InstanceNormalization") else 1, attributes, rng)
    values = (rng.standard_normal(shape) * step * data.draw(st.floats(0.1, 300))).astype(np.float32)
    assert_same(graph, {"x": grid(x, step, place), "y": grid(data.draw(st.sampled_from(DTYPES)), 0.02)}, [{"x": values}])


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


MOVES: dict[str, tuple[str, dict[str, Array], dict[str, Any], int]] = {
    "depth_to_space": ("DepthToSpace", {}, {"blocksize": 2}, 1),
    "depth_to_space_crd": ("DepthToSpace", {}, {"blocksize": 2, "mode": "CRD"}, 1),
    "dropout": ("Dropout", {}, {}, 1),
    "expand": ("Expand", {"c": ints(2, 8, 6, 4)}, {}, 1),
    "flatten": ("Flatten", {}, {"axis": 2}, 1),
    "gather": ("Gather", {"c": ints(3, -1, 0)}, {"axis": 1}, 1),
    "identity": ("Identity", {}, {}, 1),
    "pad": ("Pad", {"c": ints(0, 0, 1, 2, 0, 0, 0, 1), "f": np.array(1.33, np.float32)}, {}, 1),
    "pad_zero": ("Pad", {"c": ints(0, 0, 1, 2, 0, 0, 0, 1)}, {}, 1),
    "pad_reflect": ("Pad", {"c": ints(0, 0, 1, 2, 0, 0, 0, 1)}, {"mode": "reflect"}, 1),
    "pad_edge": ("Pad", {"c": ints(0, 0, 1, 2, 0, 0, 0, 1)}, {"mode": "edge"}, 1),
    "reshape": ("Reshape", {"c": ints(0, -1, 2)}, {}, 1),
    "slice": ("Slice", {"b": ints(1, 5), "e": ints(7, 0), "a": ints(1, 2), "s": ints(2, -1)}, {}, 1),
    "space_to_depth": ("SpaceToDepth", {}, {"blocksize": 2}, 1),
    "split": ("Split", {"c": ints(3, 5)}, {"axis": 1}, 2),
    "squeeze": ("Squeeze", {"c": ints(0)}, {}, 1),
    "tile": ("Tile", {"c": ints(1, 1, 2, 3)}, {}, 1),
    "transpose": ("Transpose", {}, {"perm": (0, 2, 3, 1)}, 1),
    "unsqueeze": ("Unsqueeze", {"c": ints(1)}, {}, 1),
    "max_pool": ("MaxPool", {}, {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1)}, 1),
    "global_max_pool": ("GlobalMaxPool", {}, {}, 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MOVES)
def test_moves(name: str, dtype: str, rng: np.random.Generator) -> None:
    """Ops that only move codes, on one grid."""
    op, constants, attributes, outputs = MOVES[name]
    names = tuple(f"y{i}" for i in range(outputs))
    graph = single(Node(op, "n", ("x", *constants), names, attributes), {"x": (1, 8, 6, 4)}, constants)
    encodings = dict.fromkeys(("x", *names, "f"), grid(dtype))
    assert_same(graph, {n: e for n, e in encodings.items() if n != "f"}, feeds_of(rng, {"x": (1, 8, 6, 4)}))


@pytest.mark.parametrize("dtype", DTYPES)
def test_resize_to_the_nearest(dtype: str, rng: np.random.Generator) -> None:
    """Whole factors are repeated; other factors and other modes stay with the kernel."""
    for scales, options, fast in (
        ((1, 1, 2, 3), {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, 1),
        ((1, 1, 2, 2), {}, 1),
        ((1, 1, 1.5, 2), {}, 0),
        ((1, 1, 2, 2), {"mode": "linear"}, 0),
        ((1, 1, 3, 3), {"coordinate_transformation_mode": "align_corners"}, 0),
    ):
        constants = {"s": np.array(scales, np.float32)}
        graph = single(Node("Resize", "n", ("x", "", "s"), ("y",), options), {"x": (1, 3, 6, 5)}, constants)
        assert_same(graph, {"x": grid(dtype), "y": grid(dtype)}, feeds_of(rng, {"x": (1, 3, 6, 5)}), fast)


@pytest.mark.parametrize("dtype", DTYPES)
def test_concat_on_different_grids(dtype: str, rng: np.random.Generator) -> None:
    """Pieces on other grids and of other types are requantized."""
    shapes = {"a": (1, 2, 5, 4), "b": (1, 3, 5, 4), "c": (1, 1, 5, 4)}
    encodings = {"a": grid(dtype), "b": grid(dtype, 0.033, 0.1), "c": grid("uint16", 0.07), "y": grid(dtype)}
    assert_same(single(Node("Concat", "n", tuple(shapes), ("y",), {"axis": 1}), shapes, {}), encodings, feeds_of(rng, shapes))


MEANS: dict[str, tuple[str, dict[str, Array], dict[str, Any]]] = {
    "average_pool": ("AveragePool", {}, {"kernel_shape": (2, 3), "strides": (2, 1)}),
    "average_pool_padded": ("AveragePool", {}, {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}),
    "average_pool_same": ("AveragePool", {}, {"kernel_shape": (3, 3), "strides": (2, 2), "auto_pad": "SAME_UPPER"}),
    "global_average_pool": ("GlobalAveragePool", {}, {}),
    "reduce_mean": ("ReduceMean", {"c": ints(2, -1)}, {"keepdims": 0}),
    "reduce_mean_kept": ("ReduceMean", {"c": ints(1)}, {"keepdims": 1}),
}


@pytest.mark.parametrize("kind", ["same", "other"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MEANS)
def test_means(name: str, dtype: str, kind: str, rng: np.random.Generator) -> None:
    """Means on one grid round halves up, means on two grids round once."""
    op, constants, attributes = MEANS[name]
    graph = single(Node(op, "n", ("x", *constants), ("y",), attributes), {"x": (1, 8, 6, 9)}, constants)
    encodings = {"x": grid(dtype), "y": grid(dtype) if kind == "same" else grid(dtype, 0.027, 0.6)}
    assert_same(graph, encodings, feeds_of(rng, {"x": (1, 8, 6, 9)}))


def test_every_lowering_is_tested() -> None:
    """No op has a lowering that nothing here runs."""
    sums, moves, means = ({case[0] for case in cases.values()} for cases in (SUMS, MOVES, MEANS))
    others = {"Add", "Sub", "Mul", "Max", "Min", "PRelu", "Sum", "Div", "BatchNormalization", "Concat", "Resize"}
    norms = {"Softmax", "LogSoftmax", *(case[0] for case in NORMS)}
    assert set(lowerings_of(wide)) <= sums | moves | means | others | norms | set(UNARY)


# ---------------------------------------------------------------------------------------------------------------- networks


@st.composite
def networks(draw: st.DrawFn) -> tuple[Graph, dict[str, Encoding]]:
    """Random graphs of convolutions, sums, functions, movement and ops without a fast form, each tensor on a grid of its own."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kinds = ("Conv", "Depthwise", "Add", "Mul", "Relu", "Sigmoid", "Softmax", "Lp", "Concat", "MaxPool", "Transpose")
    nodes, constants, encodings = [], {}, {"x": grid(draw(st.sampled_from(DTYPES)))}
    made = ["x"]
    width = {"x": 4}
    for index in range(draw(st.integers(1, 8))):
        kind, source, out = draw(st.sampled_from(kinds)), draw(st.sampled_from(made)), f"t{index}"
        dtype = draw(st.sampled_from(DTYPES))
        encodings[out] = grid(dtype, draw(st.floats(0.01, 0.2)), draw(st.sampled_from([0.0, 0.3, 0.5])))
        width[out] = width[source]
        inputs, attributes, op = [source], {}, kind
        if kind in ("Conv", "Depthwise"):
            group = width[source] if kind == "Depthwise" else 1
            width[out] = width[source] if kind == "Depthwise" else draw(st.integers(1, 20))
            weight = (rng.standard_normal((width[out], width[source] // group, 3, 3)) * 0.2).astype(np.float32)
            constants[f"w{index}"] = weight
            encodings[f"w{index}"] = encoding_for_weights(weight, draw(st.sampled_from(WEIGHTS)), granularity="channel", axis=0)
            inputs, op, attributes = [source, f"w{index}"], "Conv", {"group": group, "pads": (1, 1, 1, 1)}
        elif kind in ("Add", "Mul"):
            same = [n for n in made if width[n] == width[source]]
            inputs = [source, draw(st.sampled_from(same))]
        elif kind == "Concat":
            other = draw(st.sampled_from(made))
            width[out] += width[other]
            inputs, attributes = [source, other], {"axis": 1}
        elif kind == "Softmax":
            attributes = {"axis": 1}
        elif kind == "Lp":
            op, attributes = "LpNormalization", {"axis": 1}
        elif kind == "MaxPool":
            encodings[out] = encodings[source]
            attributes = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}
        elif kind == "Transpose":
            encodings[out] = encodings[source]
            attributes = {"perm": (0, 1, 3, 2)}
        nodes.append(Node(op, f"n{index}", tuple(inputs), (out,), attributes))
        made.append(out)
    outputs = draw(st.lists(st.sampled_from(made[1:]), min_size=1, max_size=3, unique=True))
    return make_graph(nodes, {"x": ("float32", (1, 4, 6, 6))}, outputs, constants), encodings


@settings(max_examples=60)
@given(networks(), st.integers(0, 2**32 - 1))
def test_random_networks(network: tuple[Graph, dict[str, Encoding]], seed: int) -> None:
    """Whatever is connected, both forms agree on every tensor; only LpNormalization has no fast form."""
    graph, encodings = network
    slow = sum(node.op == "LpNormalization" for node in graph.nodes)
    feeds = feeds_of(np.random.default_rng(seed), {"x": (1, 4, 6, 6)})[:2]
    assert_same(graph, encodings, feeds, fast=len(graph.nodes) - slow)


@pytest.mark.parametrize("activations", ["uint8", "uint16", "float16"])
@pytest.mark.parametrize(
    "name",
    ["ultraface_rfb_320", "resnet20_cifar10", "mobilenetv2s_cifar10", "mlperf_tiny_kws_dscnn", "convvit_cifar10"],
)
def test_real_models(name: str, activations: str, zoo: Path) -> None:
    """Published models, quantized on random inputs."""
    graph = BACKEND.prepare(load(zoo / f"{name}.onnx", batch=1))
    feeds = random_feeds(graph, 0, count=2)
    made = quantize(graph, backend="htp", data=feeds, options=Options(activations=activations, strict=False))
    program = BACKEND.compile(made.graph, made.encodings, BACKEND.soc())
    with BACKEND.open(program, "numpy") as slow, BACKEND.open(program, "fast") as quick:
        assert quick.metrics()["fast"] > 0
        for feed in feeds:
            expected, got = slow.run(feed), quick.run(feed)
            for output in expected:
                np.testing.assert_array_equal(got[output], expected[output], err_msg=output)


# ---------------------------------------------------------------------------------------------------------------- float16


def _weights(*shape: int) -> Array:
    found: Array = np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
    return found


IMAGE: tuple[int, ...] = (2, 4, 9, 10)
IN_FLOAT16: list[tuple[str, tuple[tuple[int, ...], ...], tuple[Array, ...], dict[str, Any]]] = [
    ("Conv", (IMAGE,), (_weights(6, 4, 3, 3), _weights(6)), {"pads": (1, 1, 1, 1)}),
    ("Conv", (IMAGE,), (_weights(6, 4, 3, 2),), {"strides": (2, 1), "dilations": (1, 2), "auto_pad": "SAME_UPPER"}),
    ("Conv", (IMAGE,), (_weights(6, 4, 1, 1), _weights(6)), {}),
    ("Conv", (IMAGE,), (_weights(6, 4, 1, 1),), {"strides": (2, 2)}),
    ("Conv", (IMAGE,), (_weights(4, 1, 3, 3), _weights(4)), {"group": 4, "pads": (1, 0, 1, 2)}),
    ("Conv", (IMAGE,), (_weights(8, 1, 3, 3),), {"group": 4, "auto_pad": "SAME_LOWER", "strides": (2, 2)}),
    ("Gemm", ((3, 16),), (_weights(10, 16), _weights(10)), {"transB": 1}),
    ("Gemm", ((16, 3),), (_weights(16, 10),), {"transA": 1}),
    ("MatMul", ((2, 5, 16),), (_weights(16, 10),), {}),
    ("MatMul", ((2, 5, 16), (2, 16, 3)), (), {}),
    ("Add", (IMAGE, IMAGE), (), {}),
    ("Sub", (IMAGE,), (_weights(4, 1, 1),), {}),
    ("Mul", (IMAGE, (1, 4, 1, 1)), (), {}),
    ("Div", (IMAGE,), (_weights(4, 1, 1),), {}),
    ("Max", (IMAGE, IMAGE), (), {}),
    ("Sum", (IMAGE, IMAGE, IMAGE), (), {}),
    ("PRelu", (IMAGE,), (_weights(4, 1, 1),), {}),
    ("Relu", (IMAGE,), (), {}),
    ("LeakyRelu", (IMAGE,), (), {"alpha": 0.1}),
    ("Clip", (IMAGE,), (np.float32(-0.3), np.float32(1.1)), {}),
    ("MaxPool", (IMAGE,), (), {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (1, 0, 0, 1)}),
    ("GlobalMaxPool", (IMAGE,), (), {}),
    ("GlobalAveragePool", (IMAGE,), (), {}),
    ("ReduceMean", (IMAGE,), (np.array([1, -1]),), {"keepdims": 0}),
    ("Softmax", (IMAGE,), (), {"axis": 1}),
    ("Softmax", ((2, 5, 64),), (), {}),
    ("LogSoftmax", ((2, 5, 64),), (), {}),
    ("LayerNormalization", ((2, 5, 64),), (_weights(64), _weights(64)), {}),
    ("LayerNormalization", (IMAGE,), (_weights(9, 10),), {"axis": 2}),
    ("RMSNormalization", ((2, 5, 64),), (_weights(64),), {}),
    ("InstanceNormalization", (IMAGE,), (_weights(4), _weights(4)), {}),
    ("Concat", (IMAGE, IMAGE), (), {"axis": 1}),
    ("Pad", (IMAGE,), (np.array([0, 0, 1, 2, 0, 0, 0, 1]), np.float32(0.1)), {}),
    ("Reshape", (IMAGE,), (np.array([2, -1]),), {}),
    ("Transpose", (IMAGE,), (), {"perm": (0, 2, 3, 1)}),
    ("Split", (IMAGE,), (np.array([1, 3]),), {"axis": 1}),
    ("Split", (IMAGE,), (), {"axis": 1, "num_outputs": 2}),
]


@pytest.mark.parametrize("case", IN_FLOAT16, ids=lambda case: case[0])
@pytest.mark.parametrize("stored", ["float16", "grids", "float32", "mixed"])
def test_float16_nodes(case: tuple[Any, ...], stored: str) -> None:
    """Nodes that compute in float16 on float16 tensors, as islands between grids, between float32 tensors and between both."""
    op, inputs, constants, attributes = case
    shapes = {f"x{i}": shape for i, shape in enumerate(inputs)}
    fixed = {f"c{i}": np.asarray(data) for i, data in enumerate(constants)}
    node = Node(op, "n", (*shapes, *fixed), ("y", "z") if op == "Split" else ("y",), attributes)
    floats = [*shapes, *(n for n, data in fixed.items() if data.dtype == np.float32), *node.outputs]
    kinds = {"float16": [Encoding("float16")], "grids": [grid("uint8"), grid("uint16", 2.0)], "float32": [None]}
    chosen = kinds.get(stored, [grid("int8"), Encoding("float16"), None])
    encodings = {n: e for i, n in enumerate(floats) if (e := chosen[i % len(chosen)]) is not None}
    feeds = feeds_of(np.random.default_rng(5), shapes)
    assert_same(single(node, shapes, fixed), encodings, feeds, kind="float16")


def test_float16_division() -> None:
    """By a tensor that has zeros: infinite or NaN in float16; on a grid, where NaN has no code, the kernel divides."""
    graph = single(Node("Div", "n", ("a", "b"), ("y",)), {"a": IMAGE, "b": IMAGE}, {})
    feeds = feeds_of(np.random.default_rng(5), {"a": IMAGE, "b": IMAGE})
    feeds += [{n: np.where(v > 0, v, 0).astype(np.float32) for n, v in feeds[0].items()}]
    assert_same(graph, dict.fromkeys("aby", Encoding("float16")), feeds)
    assert_same(graph, dict.fromkeys("aby", grid("uint8")), feeds, fast=0, kind="float16")


def test_float16_overflows_and_underflows() -> None:
    """Results beyond float16 become infinite, tiny ones subnormal, in both forms."""
    nodes = [Node("Mul", "m", ("x", "x"), ("y",)), Node("Relu", "r", ("y",), ("z",))]
    graph = make_graph(nodes, {"x": ("float32", (4, 64))}, ["z"])
    x = np.geomspace(1e-5, 1e3, 256, dtype=np.float32).reshape(4, 64)
    assert_same(graph, dict.fromkeys("xyz", Encoding("float16")), [{"x": x}, {"x": -x}])


def test_a_depthwise_conv_in_another_order_stays_on_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's Conv is taken only where it adds in the order of the kernel, which the lowering tries out."""
    node = Node("Conv", "n", ("x", "w"), ("y",), {"group": 4})
    graph = make_graph([node], {"x": ("float32", (1, 4, 20, 20))}, ["y"], {"w": _weights(4, 1, 3, 3)})
    encodings = dict.fromkeys("xwy", Encoding("float16"))
    feeds = feeds_of(np.random.default_rng(5), {"x": (1, 4, 20, 20)})
    assert_same(graph, encodings, feeds)

    def backwards(x: Array, weight: Array, window: Window) -> Array:
        parts = [window.tap(x, p) * weight[:, 0, i].reshape(-1, 1, 1) for i, p in enumerate(window.taps())]
        return np.add.reduce(parts[::-1])

    monkeypatch.setattr("npukit.backend.library.lower.real.correlate", backwards)
    assert_same(graph, encodings, feeds, fast=0)
