"""The type of a weight is the one that was asked for, or the model is refused."""

from __future__ import annotations

import numpy as np
import pytest

from npukit.graph import Graph, Node, make_graph
from npukit.plugins import Registry
from npukit.quantization import Options, check, quantize


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
