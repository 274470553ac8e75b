"""The type of a weight is the one that was asked for, or the model is refused."""

from __future__ import annotations

import numpy as np
import pytest

from npukit.errors import UsageError
from npukit.graph import Graph, Node, make_graph
from npukit.plugins import Registry
from npukit.quantization import Options, Quantized, check, open_session, quantize


def model(op: str, weight: tuple[int, ...]) -> Graph:
    """One node with a constant second input on a 1x4x3x3 image."""
    values = np.linspace(-1, 1, int(np.prod(weight)), dtype=np.float32).reshape(weight)
    return make_graph([Node(op, "node", ("x", "w"), ("y",))], {"x": ("float32", (1, 4, 3, 3))}, ["y"], {"w": values})


@pytest.mark.parametrize(("wished", "got"), [("int8", "int8"), ("uint8", "uint8"), ("int4", "int4")])
def test_a_weight_gets_the_wished_type(wished: str, got: str) -> None:
    """Rows that come first in the table and take another type do not win."""
    data = [{"x": np.ones((1, 4, 3, 3), np.float32)}]
    made = quantize(
        model("Conv", (4, 4, 1, 1)), backend="htp", data=data, options=Options(weights=wished), registry=Registry.load()
    )
    assert made.encodings["w"].dtype == got
    assert made.report.notes == ()


def test_a_wish_that_needs_more_is_refused() -> None:
    """16-bit weights need 16-bit activations: asked for alone they are an error, not 8-bit weights."""
    found = check(model("Conv", (4, 4, 1, 1)), backend="htp", options=Options(weights="int16"))
    assert found.verdict == "refused"
    assert "int16" in found.problems[0].message


def test_an_op_without_any_such_form_keeps_8_bits_and_says_so() -> None:
    """PRelu has no 4-bit slope: it takes 8 bits and a note names it."""
    found = check(model("PRelu", (4, 1, 1)), backend="htp", options=Options(weights="int4"))
    assert found.verdict == "accepted"
    assert any("w int8" in note for note in found.notes)


@pytest.mark.parametrize(("wish", "kind"), [({"lpbq": 8}, "lpbq"), ({"per_block": 8}, "block"), ({}, "channel")])
def test_weights_in_blocks(wish: dict[str, int], kind: str) -> None:
    """A product of matrices gets the blocks that are asked for, along its inputs, and the scales of each follow its values."""
    weight = np.ones((32, 4), np.float32)
    weight[:8] = 0.1
    graph = make_graph([Node("MatMul", "m", ("x", "w"), ("y",))], {"x": ("float32", (1, 32))}, ["y"], {"w": weight})
    options = Options(activations="uint16", weights="int4", **wish)  # type: ignore[arg-type]
    made = quantize(graph, backend="htp", data=[{"x": np.ones((1, 32), np.float32)}], options=options, registry=Registry.load())
    found = made.encodings["w"]
    assert found.granularity == kind
    if wish:
        assert (found.axis, found.block_size, found.steps.shape) == (0, 8, (4, 4))
        assert found.steps[0, 0] < 0.2 * found.steps[1, 0]
    assert made.report.notes == ()


def test_blocks_that_an_op_does_not_take_are_named() -> None:
    """Gemm keeps scales per channel; so does every op when the chip has no blocks of that type."""
    found = quantize_gemm(Options(activations="uint16", weights="int4", lpbq=4))
    assert found.encodings["w"].granularity == "channel"
    assert any("1 of 1 weights have no lpbq form" in note and ": w" in note for note in found.report.notes)


def quantize_gemm(options: Options) -> Quantized:
    """A Gemm with a bias."""
    constants = {"w": np.ones((8, 4), np.float32), "b": np.ones(4, np.float32)}
    graph = make_graph([Node("Gemm", "g", ("x", "w", "b"), ("y",))], {"x": ("float32", (1, 8))}, ["y"], constants)
    return quantize(graph, backend="htp", data=[{"x": np.ones((1, 8), np.float32)}], options=options, registry=Registry.load())


def test_a_bias_behind_weights_in_blocks() -> None:
    """It gets a grid, and the emulator adds it as the model with Q/DQ nodes does."""
    rng = np.random.default_rng(1)
    constants = {"w": rng.normal(size=(8, 16, 1, 1)).astype(np.float32), "b": rng.normal(size=8).astype(np.float32)}
    graph = make_graph([Node("Conv", "c", ("x", "w", "b"), ("y",))], {"x": ("float32", (1, 16, 4, 4))}, ["y"], constants)
    data = [{"x": rng.normal(size=(1, 16, 4, 4)).astype(np.float32)}]
    made = quantize(graph, backend="htp", data=data, options=Options(weights="int4", lpbq=4), registry=Registry.load())
    assert made.encodings["w"].granularity == "lpbq"
    assert made.encodings["b"].origin == "derived"
    found = [open_session(made, backend).run(data[0])["y"] for backend in ("htp", "cpu:qdq")]
    assert np.abs(found[0] - found[1]).max() <= 1.01 * float(made.encodings["y"].steps)


def test_blocks_that_do_not_divide_the_inputs_are_refused() -> None:
    """The vendor's simulator computes them wrongly or refuses them."""
    found = check(model("MatMul", (1, 4, 3, 2)), backend="htp", options=Options(activations="uint16", weights="int4", lpbq=2))
    assert [p.rule for p in found.problems] == ["block-size"]
    assert "blocks of 2 do not divide the 3 weights on axis 2" in found.problems[0].message


@pytest.mark.parametrize("wish", [{"lpbq": 8, "per_block": 8}, {"lpbq": 8, "per_channel": False}, {"per_block": -1}])
def test_one_kind_of_scales(wish: dict[str, int]) -> None:
    """Two kinds at once, or blocks of nothing, are an error."""
    with pytest.raises(UsageError):
        Options(**wish)  # type: ignore[arg-type]
