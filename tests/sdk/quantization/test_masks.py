"""Attention masks of any size and spelling leave the scores their resolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import npukit as nk
from npukit.calibration import Range
from npukit.diagnosis import compare
from npukit.errors import DataError, EncodingError
from npukit.graph import Graph, Node, make_graph
from npukit.quantization.masks import lowest_useful

TOKENS, WIDTH = 6, 8
LOWEST = float(np.finfo(np.float32).min)
KEEP = np.tril(np.ones((1, TOKENS, TOKENS), bool))
QK = [Node("MatMul", "qk", ("q", "k"), ("dots",)), Node("Mul", "scale", ("dots", "s"), ("scores",))]
PV = [Node("Softmax", "softmax", ("masked",), ("p",)), Node("MatMul", "pv", ("p", "v"), ("y",))]
ADD = Node("Add", "add", ("scores", "mask"), ("masked",))


def attention(kind: str, low: float) -> tuple[Graph, list[dict[str, Any]]]:
    """Scaled dot-product attention with a causal mask, and samples for it."""
    inputs: dict[str, Any] = {
        "q": ("float32", (1, TOKENS, WIDTH)),
        "k": ("float32", (1, WIDTH, TOKENS)),
        "v": ("float32", (1, TOKENS, WIDTH)),
    }
    constants: dict[str, Any] = {"s": np.float32(WIDTH**-0.5)}
    mask = np.where(KEEP, 0, np.float32(low)).astype(np.float32)
    extra: dict[str, Any] = {}
    if kind == "constant":
        nodes, constants["mask"] = [ADD], mask
    elif kind == "where":
        nodes = [Node("Where", "where", ("keep", "scores", "low"), ("masked",))]
        constants |= {"keep": KEEP, "low": np.float32(low)}
    elif kind == "where of an input":
        nodes = [Node("Where", "where", ("keep", "zero", "low"), ("mask",)), ADD]
        constants |= {"zero": np.float32(0), "low": np.float32(low)}
        inputs["keep"], extra["keep"] = ("bool", KEEP.shape), KEEP
    elif kind == "product":
        nodes = [Node("Sub", "sub", ("one", "keep"), ("left",)), Node("Mul", "mul", ("left", "low"), ("mask",)), ADD]
        constants |= {"one": np.float32(1), "low": np.float32(low)}
        inputs["keep"], extra["keep"] = ("float32", KEEP.shape), KEEP.astype(np.float32)
    else:
        nodes, inputs["mask"], extra["mask"] = [ADD], ("float32", mask.shape), mask
    rng = np.random.default_rng(0)
    samples = [{n: rng.normal(size=inputs[n][1]).astype(np.float32) for n in "qkv"} | extra for _ in range(8)]
    return make_graph([*QK, *nodes, *PV], inputs, ["y"], constants), samples


FORMS = [
    ("constant", -np.inf), ("constant", LOWEST), ("constant", -1e4),
    ("where", -np.inf), ("where", LOWEST), ("where of an input", LOWEST), ("where of an input", -np.inf),
    ("product", -1e4), ("product", LOWEST), ("input", -np.inf), ("input", -1e9),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "low"), FORMS)
@pytest.mark.parametrize("calibration", ["min-max", "sqnr"])
def test_masks_cost_no_accuracy(kind: str, low: float, calibration: str) -> None:
    """Whatever leaves tokens out, attention is nearly as accurate as with a mask of moderate size, and a note says so."""
    options = nk.Options(calibration=calibration)
    moderate, samples = attention("constant", -12.0)
    wanted = compare(moderate, ["htp"], data=samples, options=options).outputs[0].sqnr["htp"]
    graph, samples = attention(kind, low)
    result = nk.quantize(graph, "htp", data=samples, options=options)
    assert any("a Softmax gives 0 anyway" in note for note in result.report.notes)
    found = compare(result, ["htp"], data=samples)
    assert found.outputs[0].sqnr["htp"] > wanted - 3
    assert all(np.isfinite(row.sqnr["htp"]) and row.sqnr["htp"] > 15 for row in found.tensors if row.name in ("masked", "scores"))


def test_a_mask_with_biases_in_it() -> None:
    """A mask from outside that adds a bias of either sign to what it leaves is cut as well."""
    graph, samples = attention("input", -np.inf)
    rng = np.random.default_rng(1)
    biased = [{**feeds, "mask": feeds["mask"] + rng.uniform(-3, 3, KEEP.shape).astype(np.float32)} for feeds in samples]
    result = nk.quantize(graph, "htp", data=biased)
    assert compare(result, ["htp"], data=biased).outputs[0].sqnr["htp"] > 25


def test_what_is_no_mask_keeps_its_range() -> None:
    """Biases of moderate size, and scores that somebody else reads too, are not cut."""
    graph, samples = attention("constant", -8.0)
    result = nk.quantize(graph, "htp", data=samples)
    assert not result.report.notes
    low = (result.encodings["mask"].qmin - result.encodings["mask"].zeros) * result.encodings["mask"].steps
    assert float(low.min()) <= -8
    shown = graph.evolve(outputs=("y", "masked"))
    assert "masked" not in shown.before_softmax
    assert "mask" not in shown.before_softmax


def test_other_infinities_are_refused() -> None:
    """-inf is a mask in front of a Softmax only; NaN never is."""
    graph, samples = attention("input", -np.inf)
    for name, value in (("q", -np.inf), ("mask", np.nan), ("mask", np.inf)):
        broken = {
            n: np.where(np.arange(v.size).reshape(v.shape) == 0, np.float32(value), v) if n == name else v
            for n, v in samples[0].items()
        }
        with pytest.raises(DataError, match="NaN or infinite"):
            nk.quantize(graph, "htp", data=[broken])


def test_an_infinite_constant_is_named() -> None:
    """A mask that somebody else reads as well has no grid; the error says which tensor and where -inf is allowed."""
    graph, _ = attention("constant", -np.inf)
    with pytest.raises(EncodingError, match=r"tensor 'mask': a range must be finite") as caught:
        nk.check(graph.evolve(outputs=("y", "masked")), "htp")
    assert "Softmax" in caught.value.hint


@given(st.integers(2, 40), st.sampled_from([8, 16]), st.integers(0, 1000))
def test_the_cut_keeps_probabilities(size: int, bits: int, seed: int) -> None:
    """With everything below the lowest useful value raised to it, no probability moves by half a step of the output."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(-5, 5, size=(4, size))
    mask = np.where(rng.random((4, size)) < 0.5, 0, LOWEST)
    mask[np.arange(4), rng.integers(0, size, 4)] = 0  # something is left in each row
    nodes = [Node("Add", "add", ("x", "m"), ("t",)), Node("Softmax", "s", ("t",), ("y",))]
    graph = make_graph(nodes, {"x": ("float32", (4, size)), "m": ("float32", (4, size))}, ["y"])
    ranges = {n: Range(float(a.min()), float(a.max())) for n, a in (("x", scores), ("m", mask), ("t", scores + mask))}
    low = lowest_useful(graph, ranges.get, {"y": f"uint{bits}"})

    def softmax(x: Any) -> Any:
        powers = np.exp(x - x.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    cut = np.maximum(np.maximum(scores, low["x"]) + np.maximum(mask, low["m"]), low["t"])
    assert np.abs(softmax(cut) - softmax(scores + mask)).max() <= 0.5 / 2**bits
    assert low["t"] >= -10 - np.log(size * 2.0 ** (bits + 1)) - 1e-6


@given(st.sampled_from([0, 1]), st.sampled_from(["Add", "Where"]), st.integers(0, 1000))
def test_biases_are_not_cut_whatever_the_axis(axis: int, op: str, seed: int) -> None:
    """A bias that is low along the other axis of a Softmax, or in a branch of its own, keeps what its rows need."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(-5, 5, (6, 6))
    bias = np.broadcast_to(-20.0 * np.arange(6.0), (6, 6))  # a column of -100 is a row of the Softmax along axis 0
    chosen = rng.random((6, 6)) < 0.5
    chosen[:, 0] = False
    total = scores + bias if op == "Add" else np.where(chosen, scores, bias)
    inputs = ("x", "b") if op == "Add" else ("c", "x", "b")
    nodes = [Node(op, "op", inputs, ("t",)), Node("Softmax", "s", ("t",), ("y",), {"axis": axis})]
    values = {"b": bias.astype(np.float32), **({"c": chosen} if op == "Where" else {})}
    graph = make_graph(nodes, {"x": ("float32", (6, 6))}, ["y"], values)
    ranges = {n: Range(float(a.min()), float(a.max())) for n, a in (("x", scores), ("b", bias), ("t", total))}
    low = lowest_useful(graph, ranges.get, {"y": "uint8"})

    def softmax(x: Any) -> Any:
        powers = np.exp(x - x.max(axis, keepdims=True))
        return powers / powers.sum(axis, keepdims=True)

    cut_x, cut_b = np.maximum(scores, low.get("x", -np.inf)), np.maximum(bias, low.get("b", -np.inf))
    cut = np.maximum(cut_x + cut_b if op == "Add" else np.where(chosen, cut_x, cut_b), low["t"])
    assert np.abs(softmax(cut) - softmax(total)).max() <= 0.5 / 2**8
