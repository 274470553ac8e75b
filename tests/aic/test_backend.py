"""The backend: what computes in which type, and its sums."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npukit
from npukit.backend import Session
from npukit.encoding import Encoding
from npukit.graph import Graph, Node, make_graph
from npukit.quantization import Options, Quantized, open_session
from npukit_aic.backend import FLOAT_FORM, AicBackend, integer_ops
from npukit_aic.requantize import glow


def chain() -> Graph:
    """x (4, 8): a product, two functions that have no int8 form, another product."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((8, 8)).astype(np.float32), "v": rng.standard_normal((8, 3)).astype(np.float32)}
    nodes = [
        Node("MatMul", "first", ("x", "w"), ("a",), {}),
        Node("Erf", "erf", ("a",), ("b",), {}),
        Node("Softmax", "soft", ("b",), ("c",), {"axis": -1}),
        Node("MatMul", "last", ("c", "v"), ("y",), {}),
    ]
    return make_graph(nodes, {"x": ("float32", (4, 8))}, ["y"], weights)


def samples(count: int = 8) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((4, 8)).astype(np.float32)} for _ in range(count)]


def quantized(settings: dict[str, object], **options: object) -> Quantized:
    return npukit.quantize(chain(), npukit.target("aic", settings=settings), data=samples(), options=Options(**options))  # type: ignore[arg-type]


def test_ops_without_int8_form_are_islands() -> None:
    """Grids stand around them, and nothing between two of them has one."""
    made = quantized({"convert_to_fp16": True})
    assert {n for n, e in made.package.encodings.items() if e.dtype == "int8"} == {"x", "w", "a", "c", "v", "y"}
    assert "b" not in made.package.encodings
    with npukit.Session(made) as session:
        assert dict(session.program.types) == {"first": "int", "erf": "float16", "soft": "float16", "last": "int"}
        values = session.run(samples(1)[0], ["b", "c"])
    assert np.array_equal(values["b"], values["b"].astype(np.float16))
    assert not np.array_equal(values["c"], values["c"].astype(np.float16))  # which is on its grid


def test_a_node_that_shall_compute_in_float_keeps_its_weight() -> None:
    made = quantized({}, node_types={"last": "float16"})
    assert not {"v", "y", "c"} & made.package.encodings.keys()
    with npukit.Session(made) as session:
        assert session.program.types["last"] == "float16"


def test_check_names_what_computes_in_float() -> None:
    found = npukit.check(chain(), "aic").problems
    assert [(p.node, p.severity, p.rule) for p in found] == [
        ("erf", "warning", "float-island"),
        ("soft", "warning", "float-island"),
    ]
    bad = make_graph([Node("Einsum", "e", ("x", "x"), ("y",), {"equation": "ij,ij->i"})], {"x": ("float32", (2, 3))}, ["y"], {})
    assert [(p.node, p.rule) for p in npukit.check(bad, "aic").problems] == [("e", "unsupported-op")]


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_positions_are_whole_numbers_in_every_type(dtype: str) -> None:
    """Beyond what float32 holds exactly, and without an island that a quantized model would be warned of."""
    nodes = [
        Node("CumSum", "places", ("ids", "axis"), ("p",), {}),
        Node("Add", "shift", ("p", "one"), ("q",), {}),
        Node("Unsqueeze", "column", ("q", "axes"), ("y",), {}),
        Node("Erf", "erf", ("x",), ("z",), {}),
    ]
    constants = {"axis": np.array(0), "one": np.array(1, dtype), "axes": np.array([1])}
    graph = make_graph(nodes, {"ids": (dtype, (2,)), "x": ("float32", (2,))}, ["y", "z"], constants)
    target = npukit.target("aic", settings={"convert_to_fp16": True})
    ids, x = np.array([1 << 24, 2], dtype), np.zeros(2, np.float32)
    with open_session(graph, target) as session:
        assert session.run({"ids": ids, "x": x})["y"].tolist() == [[(1 << 24) + 1], [(1 << 24) + 3]]
    grid = Encoding("int8", 0.1, 0)
    assert [p.node for p in target.problems(graph, {"x": grid, "z": grid})] == ["erf"]


def test_accumulate_in_half_is_worse_and_has_no_effect_on_float32() -> None:
    """Every addition is rounded, which ``accumulate`` float32 does once."""
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((512, 4)).astype(np.float32)
    graph = make_graph([Node("MatMul", "m", ("x", "w"), ("y",), {})], {"x": ("float32", (3, 512))}, ["y"], {"w": weight})
    x = rng.standard_normal((3, 512)).astype(np.float32)
    real = x.astype(np.float16).astype(np.float64) @ weight.astype(np.float16).astype(np.float64)

    def error(**chosen: object) -> float:
        with open_session(graph, npukit.target("aic", settings=chosen)) as session:
            return float(np.abs(session.run({"x": x})["y"] - real).max())

    once, each = (error(convert_to_fp16=True, accumulate=kind) for kind in ("float32", "float16"))
    assert 0 < 3 * once < each
    assert error(accumulate="float16") == error(accumulate="float32")


@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
def test_half_sums_add_term_by_term(op: str) -> None:
    """Against a plain loop over terms."""
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(shape).astype(np.float16) for shape in ((2, 6), (6, 5)))
    total = np.zeros((2, 5), np.float16)
    for k in range(6):
        total = (total + (x[:, k : k + 1] * w[k]).astype(np.float16)).astype(np.float16)
    shape, weight = ((2, 6, 1), w.T[..., None]) if op == "Conv" else ((2, 6), w)
    graph = make_graph([Node(op, "m", ("x", "w"), ("y",), {})], {"x": ("float32", shape)}, ["y"], {"w": weight.astype(np.float32)})
    target = npukit.target("aic", settings={"convert_to_fp16": True, "accumulate": "float16"})
    with open_session(graph, target) as session:
        assert session.metrics()["fast"] == 0
        found = session.run({"x": x.astype(np.float32).reshape(shape)})["y"]
    assert np.array_equal(found.reshape(2, 5), total.astype(np.float32))


def _product(scale: float, zero: int) -> tuple[Session, Session]:
    """x int8 times 1 in steps of 1 onto a grid of ``scale`` and ``zero``: on kernels and in the fast form."""
    graph = make_graph(
        [Node("Gemm", "g", ("x", "w", "b"), ("y",), {})],
        {"x": ("float32", (64, 1))},
        ["y"],
        {"w": np.full((1, 1), 127, np.float32), "b": np.zeros(1, np.float32)},
    )
    grids = {"x": Encoding("int8", 1.0, 0), "w": Encoding("int8", 1.0, 0), "b": Encoding("int32", 1.0, 0)}
    made = npukit.quantize(npukit.Request(graph, overrides=grids | {"y": Encoding("int8", scale, zero)}), "aic")
    return open_session(made, kernels="numpy"), open_session(made, kernels="fast")


@given(st.floats(1 / 3, 2.0**15), st.integers(-128, 127))
@settings(max_examples=40, deadline=None)
def test_the_fast_form_requantizes_as_the_kernels(scale: float, zero: int) -> None:
    x = np.linspace(-128, 127, 64).astype(np.float32).reshape(64, 1)
    slow, fast = _product(scale, zero)
    with slow, fast:
        assert fast.metrics()["fast"] == 1
        assert np.array_equal(slow.run({"x": x})["y"], fast.run({"x": x})["y"])


@given(st.floats(2.0**-15, 2.0), st.integers(-128, 127), st.integers(0, 1 << 32))
def test_float32_holds_glows_requantization(factor: float, zero: int, seed: int) -> None:
    """The float32 steps that segments are written in give the codes of the integer steps, for every sum of 32 bits."""
    out = Encoding("int8", 1.0, zero)
    how = glow(np.asarray(factor), out)
    rng = np.random.default_rng(seed)
    sums = np.concatenate([rng.integers(-(2**bits), 2**bits, 500) for bits in (8, 12, 16, 20, 24, 30)])
    steps = np.floor(sums.astype(np.float32) * np.ldexp(np.float32(1), -how.by.pre))
    scaled = (steps * how.factor).astype(np.float32) + np.float32(2**-16)
    assert np.array_equal(np.clip(np.rint(scaled) + zero, -128, 127), how.codes_of(sums, out))


def test_every_row_says_what_an_op_does() -> None:
    """An op computes in int8, in float, or on indices; none has both an int8 form and a float form."""
    rows = AicBackend().constraints()
    islands = {row.op for row in rows if row.variant == FLOAT_FORM}
    assert not islands & integer_ops()
    assert {"Conv", "Gemm", "MatMul", "Add", "Concat", "MaxPool"} <= integer_ops()
    assert {"Softmax", "Erf", "LayerNormalization"} <= islands


def test_bench_reports_the_modelled_rate() -> None:
    """Of the card as a whole; more activations give more of it."""
    found = {}
    for activations in (1, 14):
        target = npukit.target("aic", settings={"convert_to_fp16": True, "num_activations": activations})
        speed = target.speed(chain(), {})
        assert speed is not None
        found[activations] = speed.rate
        assert f"{activations} activations of 1 cores" in speed.setup
    assert found[14] > found[1]


def test_islands_round_what_no_island_made() -> None:
    """In the fast form as on kernels: a value from a float16 island is not rounded again, one from a float32 node is."""
    rng = np.random.default_rng(5)
    nodes = [
        Node("Sqrt", "single", ("x",), ("a",), {}),
        Node("Mul", "half", ("a", "x"), ("b",), {}),
        Node("Relu", "pick", ("b",), ("c",), {}),
        Node("Add", "wide", ("c", "a"), ("y",), {}),
    ]
    graph = make_graph(nodes, {"x": ("float32", (64,))}, ["y"], {})
    x = {"x": rng.random(64).astype(np.float32)}
    target = npukit.target("aic", settings={"convert_to_fp16": True})
    for singles in ({"single": "float32"}, {"single": "float32", "wide": "float32"}, {"half": "float32"}, {}):
        made = npukit.convert(npukit.Request(graph), target)
        manifest = attrs.evolve(made.package.manifest, options={**made.package.manifest.options, "node_types": singles})
        package = attrs.evolve(made.package, manifest=manifest, types={**made.package.types, **singles})
        runs = []
        for kernels in ("numpy", "fast"):
            with open_session(package, kernels=kernels) as session:
                assert singles.items() <= dict(session.program.types).items()
                runs.append(session.run(x, ["a", "b", "c", "y"]))
        for name, values in runs[0].items():
            assert np.array_equal(values, runs[1][name]), (singles, name)
