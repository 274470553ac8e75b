"""Arithmetic profiles: float islands compute in float16 from v69 on, in float32 before."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np
import pytest

from npukit.backend import Accumulator
from npukit.encoding import Array, Encoding, encoding_for_range, fake_quantize, quantize
from npukit.graph import Graph, Node, make_graph
from npukit_htp.backend import HtpBackend
from npukit_htp.profile import FLOAT_ISLANDS, profile_of

SHAPE = (4, 64)
IN, OUT = encoding_for_range(-1, 1, "uint16"), encoding_for_range(-2, 2, "uint16")


def run(graph: Graph, encodings: Mapping[str, Encoding], feeds: Mapping[str, Array], soc: str) -> dict[str, Array]:
    backend = HtpBackend()
    with backend.open(backend.compile(graph, encodings, backend.soc(soc))) as session:
        return session.run(feeds)


@pytest.fixture
def x() -> Array:
    return np.random.default_rng(3).uniform(-1, 1, SHAPE).astype(np.float32)


def codes(values: Array, encoding: Encoding) -> Array:
    return np.asarray(quantize(values, encoding), np.int64)


def test_profiles_split_at_v69() -> None:
    """v66 and v68 are one family, v69 to v81 the other."""
    backend = HtpBackend()
    families = {soc.arch: profile_of(soc).float_dtype for soc in backend.socs()}
    assert {arch for arch, kind in families.items() if kind == "float32"} == {"v66", "v68"}
    assert {"v69", "v73", "v75", "v79", "v81"} <= {arch for arch, kind in families.items() if kind == "float16"}


def test_a_reshape_that_requantizes_goes_through_float16(x: Array) -> None:
    """On v73 the result is the input rounded to float16, then to the grid; on v68 rounded to the grid only."""
    node = Node("Reshape", "r", ("x", "shape"), ("y",))
    graph = make_graph([node], {"x": ("float32", SHAPE)}, ["y"], {"shape": np.array([64, 4])})
    grids = {"x": IN, "y": OUT}
    rounded = (codes(x, IN) - int(IN.zeros)).astype(np.float32) * np.float32(IN.steps)
    old, new = (codes(run(graph, grids, {"x": x}, soc)["y"], OUT) for soc in ("v68", "v79"))
    np.testing.assert_array_equal(old.ravel(), codes(rounded, OUT).ravel())
    np.testing.assert_array_equal(new.ravel(), codes(rounded.astype(np.float16).astype(np.float32), OUT).ravel())
    assert (old != new).any()


def test_a_reshape_on_one_grid_is_exact(x: Array) -> None:
    """Without a change of grid nothing is rounded on any chip."""
    node = Node("Reshape", "r", ("x", "shape"), ("y",))
    graph = make_graph([node], {"x": ("float32", SHAPE)}, ["y"], {"shape": np.array([64, 4])})
    old, new = (run(graph, {"x": IN, "y": IN}, {"x": x}, soc)["y"] for soc in ("v68", "v79"))
    np.testing.assert_array_equal(old, new)


def test_topk_rounds_values_and_keeps_indices(x: Array) -> None:
    """Values pass through float16, the order and the indices are those of the given values."""
    node = Node("TopK", "t", ("x", "k"), ("y", "i"))
    graph = make_graph([node], {"x": ("float32", SHAPE)}, ["y", "i"], {"k": np.array([5])})
    old, new = (run(graph, {"x": IN, "y": IN}, {"x": x}, soc) for soc in ("v68", "v79"))
    np.testing.assert_array_equal(old["i"], new["i"])
    np.testing.assert_array_equal(codes(new["y"], IN), codes(old["y"].astype(np.float16).astype(np.float32), IN))
    assert (new["y"] != old["y"]).any()


@pytest.mark.parametrize("op", ["Selu", "Tan", "ThresholdedRelu"])
def test_float_models_are_left_alone(op: str, x: Array) -> None:
    """A model without grids has no islands: both families give the float32 result of the kernel."""
    attributes = {"alpha": 0.5} if op == "ThresholdedRelu" else {}
    graph = make_graph([Node(op, "n", ("x",), ("y",), attributes)], {"x": ("float32", SHAPE)}, ["y"])
    old, new = (run(graph, {}, {"x": x}, soc)["y"] for soc in ("v68", "v79"))
    np.testing.assert_array_equal(old, new)
    grids = {"x": IN, "y": encoding_for_range(float(old.min()), float(old.max()), "uint16")}
    assert op in FLOAT_ISLANDS
    old, new = (run(graph, grids, {"x": x}, soc)["y"] for soc in ("v68", "v79"))
    assert (old != new).any()


@pytest.mark.parametrize("op", ["Sum", "Mean", "Max", "Min"])
def test_nodes_of_three_tensors(op: str, x: Array) -> None:
    """From v69 on they are float16 operations one after the other, of which Mean multiplies by a reciprocal."""
    others = {"a": x[::-1].copy(), "b": (x * np.float32(0.7))[:, ::-1].copy()}
    names = ("x", "a", "b")
    graph = make_graph([Node(op, "n", names, ("y",))], dict.fromkeys(names, ("float32", SHAPE)), ["y"])
    found = run(graph, {**dict.fromkeys(names, IN), "y": OUT}, {"x": x, **others}, "v79")["y"]
    halves = [fake_quantize(v, IN).astype(np.float16) for v in (x, *others.values())]
    function = {"Max": np.maximum, "Min": np.minimum}.get(op, np.add)
    wanted = function(function(halves[0], halves[1]), halves[2])
    wanted = wanted * np.float16(1 / 3) if op == "Mean" else wanted
    np.testing.assert_array_equal(codes(found, OUT), codes(wanted.astype(np.float32), OUT))


def test_stft_rounds_its_basis(x: Array) -> None:
    """From v69 on the window times the Fourier basis is float16; a model without grids computes in float32."""
    step, window = np.array(16), np.hanning(32).astype(np.float32)
    constants = {"step": step, "w": window}
    graph = make_graph([Node("STFT", "s", ("x", "step", "w"), ("y",))], {"x": ("float32", (1, 256, 1))}, ["y"], constants)
    signal = x.reshape(1, 256, 1)
    grids = {"x": encoding_for_range(-1, 1, "uint8"), "y": encoding_for_range(-16, 16, "uint16")}
    old, new = (codes(run(graph, grids, {"x": signal}, soc)["y"], grids["y"]) for soc in ("v68", "v69"))
    frames = np.lib.stride_tricks.sliding_window_view(fake_quantize(signal, grids["x"])[0, :, 0], 32)[::16]
    cosines = np.cos(np.outer(np.arange(32), np.arange(17)) * np.pi / 16) * window[:, None]
    half = [v.astype(np.float16).astype(np.float32) for v in (frames, cosines)]
    real = (half[0] @ half[1]).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(new[0, :, :, 0], codes(real, grids["y"]))
    assert (old != new).any()
    plain = [run(graph, {}, {"x": signal}, soc)["y"] for soc in ("v68", "v69")]
    np.testing.assert_array_equal(*plain)


def test_regions_are_positions() -> None:
    """RoiAlign rounds the image to float16 and the regions, which are positions, not at all."""
    image = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    regions = np.array([[0.1, 0.2, 6.7, 5.9], [1.23, 1.1, 3.1, 4.7]], np.float32)
    node = Node("RoiAlign", "r", ("x", "regions", "i"), ("y",), {"output_height": 2, "output_width": 2, "sampling_ratio": 2})
    graph = make_graph([node], {"x": ("float32", image.shape), "regions": ("float32", (2, 4))}, ["y"], {"i": np.zeros(2, np.int64)})
    where, grid = encoding_for_range(0, 8, "uint16"), encoding_for_range(-1, 1, "uint8")
    out = encoding_for_range(-1, 1, "uint16")
    grids = {"x": grid, "regions": where, "y": out}
    got = run(graph, grids, {"x": image, "regions": regions}, "v69")["y"]
    half = fake_quantize(image, grid).astype(np.float16).astype(np.float32)
    wanted = run(graph, {}, {"x": half, "regions": fake_quantize(regions, where)}, "v69")["y"]
    np.testing.assert_array_equal(codes(got, out), codes(wanted.astype(np.float16).astype(np.float32), out))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16"])
@pytest.mark.parametrize("scale", [3e-3, 1.7e-3, 2.93e-5])
def test_the_multiplier_has_11_bits_before_v73(dtype: str, scale: float) -> None:
    """On v68 and v69 the zero point is added to the sum and both are multiplied by a binary16 fraction; v73 has a float32."""
    backend = HtpBackend()
    above, spread = (40_000, 20_000) if dtype == "uint16" else (100, 100)
    sums = np.rint(np.random.default_rng(0).uniform(-spread, spread, 5000) / scale)
    out = Encoding(dtype, 1.0, Encoding(dtype, 1.0, 0).qmin + above)
    found = {soc: backend.requantize(Accumulator(sums, np.asarray(scale)), out, backend.soc(soc)) for soc in ("v68", "v69", "v73")}
    # 2.93e-5 is subnormal in binary16: the fraction keeps its bits, as the exponent is apart.
    half = float(np.float16(scale * 2**12)) / 2**12
    narrow = np.rint((sums + np.rint(above / scale)).astype(np.float32) * np.float32(half)) + out.qmin
    np.testing.assert_array_equal(found["v68"], np.clip(narrow, out.qmin, out.qmax))
    np.testing.assert_array_equal(found["v69"], found["v68"])
    total = sums.astype(np.float32)
    wide = np.rint(total / np.float32(1 / scale) if dtype == "uint16" else total * np.float32(scale)) + int(out.zeros)
    np.testing.assert_array_equal(found["v73"], np.clip(wide, out.qmin, out.qmax))
    assert (found["v69"] != found["v73"]).any()


def test_a_16_bit_output_shows_the_multiplier() -> None:
    """Where codes are large the two multipliers lie many codes apart."""
    backend, out = HtpBackend(), Encoding("uint16", 1.0, 0)
    acc = Accumulator(np.array([6e4 / 0.30015]), np.asarray(0.30015))
    old, new = (int(backend.requantize(acc, out, backend.soc(soc))[0]) for soc in ("v68", "v73"))
    assert new == 60000
    assert 5 < abs(old - new) < 30


def test_types_name_the_islands() -> None:
    """From v69 on a change of grid is a float16 node of the program, a Reshape on one grid and a float Reshape are not."""
    nodes = [Node("Reshape", "r", ("x", "shape"), ("y",)), Node("Relu", "a", ("y",), ("z",))]
    graph = make_graph(nodes, {"x": ("float32", SHAPE)}, ["z"], {"shape": np.array([64, 4])})
    backend = HtpBackend()
    for grids, soc, expected in (
        ({"x": IN, "y": OUT, "z": OUT}, "v69", "float16"),
        ({"x": IN, "y": OUT, "z": OUT}, "v68", "int"),
        ({"x": IN, "y": IN, "z": OUT}, "v79", "int"),
        ({"y": OUT, "z": OUT}, "v79", "int"),
    ):
        types = backend.compile(graph, grids, backend.soc(soc)).types
        assert types == {"r": expected, "a": "int"}
    assert backend.types(graph, {}, backend.soc("v79")) == {"r": "float32", "a": "float32"}


def sum_then(op: str, first: Node, weight: tuple[int, ...], *, read_twice: bool = False) -> Graph:
    nodes = [first, Node(op, "a", ("t",), ("y",)), *([Node("Relu", "other", ("t",), ("z",))] if read_twice else [])]
    shape = (1, 4, *[6] * (len(weight) - 2)) if first.op == "Conv" else (3, weight[0])
    constants = {"w": np.full(weight, 0.03, np.float32)}
    return make_graph(nodes, {"x": ("float32", shape)}, ["y", "z"] if read_twice else ["y"], constants)


CONV = Node("Conv", "c", ("x", "w"), ("t",))


@pytest.mark.parametrize(
    ("soc", "graph", "is_inner"),
    [
        ("v79", sum_then("LeakyRelu", CONV, (5, 4, 3, 3)), True),
        ("v73", sum_then("HardSwish", CONV, (5, 4, 3)), True),
        ("v79", sum_then("HardSwish", Node("MatMul", "m", ("x", "w"), ("t",)), (4, 5)), True),
        ("v79", sum_then("LeakyRelu", Node("Gemm", "m", ("x", "w"), ("t",)), (4, 5)), True),
        ("v69", sum_then("LeakyRelu", CONV, (5, 4, 3, 3)), False),
        ("v79", sum_then("LeakyRelu", CONV, (5, 4, 3, 3, 3)), False),
        ("v79", sum_then("LeakyRelu", attrs.evolve(CONV, attributes={"dilations": (2, 2)}), (5, 4, 3, 3)), False),
        ("v79", sum_then("Sigmoid", CONV, (5, 4, 3, 3)), False),
        ("v79", sum_then("LeakyRelu", CONV, (5, 4, 3, 3), read_twice=True), False),
    ],
)
def test_sums_that_have_no_codes(soc: str, graph: Graph, is_inner: bool) -> None:
    """What an activation reads is rounded to its grid, but for the super groups of v73 and later."""
    encodings = {name: Encoding("uint8", 0.1, 100) for name in ("x", "t", "y", "z")} | {"w": Encoding("int8", 0.01, 0)}
    backend = HtpBackend()
    program = backend.compile(graph, encodings, backend.soc(soc))
    assert ("t" not in program.encodings) == is_inner
    wide = backend.compile(graph, encodings | {"w": Encoding("int16", 0.01, 0)}, backend.soc(soc))
    assert "t" in wide.encodings  # with weights of 16 bits the sum is rounded
    blocks = Encoding("int4", np.full((2, 5), 0.01, np.float32), axis=0, block_size=2)
    if graph.nodes[0].op == "MatMul":
        assert "t" in backend.compile(graph, encodings | {"w": blocks}, backend.soc(soc)).encodings
    real = backend.compile(graph, {n: e for n, e in encodings.items() if n != "y"}, backend.soc(soc))
    assert "t" in real.encodings  # and before an activation in float
    x = np.random.default_rng(0).standard_normal(graph.tensor("x").shape).astype(np.float32)
    with backend.open(program, "numpy") as session:
        found = session.run({"x": x}, ["t"])["t"]
    steps = found / np.float32(0.1)
    assert np.allclose(steps, np.rint(steps), atol=1e-4) != is_inner
