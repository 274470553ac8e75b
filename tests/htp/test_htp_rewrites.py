"""Rewrites keep what the model computes and the names of its tensors."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from npukit.graph import Graph, Node, make_graph, serialize
from npukit_htp.backend import HtpBackend

CONSTANTS = {
    "root": np.array(np.sqrt(2), np.float32),
    "inverse": np.array([1 / np.sqrt(2)], np.float32),
    "one": np.array(1, np.float32),
    "half": np.array(0.5, np.float32),
    "two": np.array([2.0], np.float32),
    "third": np.array(0.333, np.float32),
}


def build(*rows: tuple[str, str, str, str]) -> Graph:
    """Nodes as (op, first input, second input or "", output); x in, y out."""
    nodes = [Node(op, f"n{i}", (a, b) if b else (a,), (out,)) for i, (op, a, b, out) in enumerate(rows)]
    used = {name for node in nodes for name in node.inputs}
    return make_graph(nodes, {"x": ("float32", (3, 5))}, ["y"], {n: v for n, v in CONSTANTS.items() if n in used})


FORMS = {
    "product first": build(
        ("Div", "x", "root", "d"),
        ("Erf", "d", "", "e"),
        ("Add", "e", "one", "a"),
        ("Mul", "x", "a", "m"),
        ("Mul", "m", "half", "y"),
    ),
    "half and sum first": build(
        ("Div", "x", "root", "d"),
        ("Erf", "d", "", "e"),
        ("Add", "e", "one", "a"),
        ("Mul", "half", "a", "h"),
        ("Mul", "x", "h", "y"),
    ),
    "divided by two": build(
        ("Div", "x", "root", "d"),
        ("Erf", "d", "", "e"),
        ("Add", "e", "one", "a"),
        ("Mul", "a", "x", "m"),
        ("Div", "m", "two", "y"),
    ),
    "half first": build(
        ("Mul", "x", "inverse", "d"),
        ("Erf", "d", "", "e"),
        ("Add", "one", "e", "a"),
        ("Mul", "half", "x", "h"),
        ("Mul", "a", "h", "y"),
    ),
}


def run(graph: Graph, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(serialize(graph), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("form", FORMS)
def test_gelu_is_put_together(form: str, rng: np.random.Generator) -> None:
    """The orders and groupings that exporters write become one Gelu with the same values and the same output name."""
    graph = FORMS[form]
    fused = HtpBackend().prepare(graph)
    assert [(node.op, node.outputs) for node in fused.nodes] == [("Gelu", ("y",))]
    x = rng.normal(size=(3, 5)).astype(np.float32)
    np.testing.assert_allclose(run(fused, x), run(graph, x), atol=1e-6)


def test_other_uses_of_erf_stay() -> None:
    """An Erf with another factor is not a Gelu and stays as it is."""
    graph = build(
        ("Div", "x", "root", "d"),
        ("Erf", "d", "", "e"),
        ("Add", "e", "one", "a"),
        ("Mul", "x", "a", "m"),
        ("Mul", "m", "third", "y"),
    )
    assert [node.op for node in HtpBackend().prepare(graph).nodes] == ["Div", "Erf", "Add", "Mul", "Mul"]


def test_inner_tensors_that_others_read_stay() -> None:
    """When another node reads the Erf too, nothing is fused away under it."""
    graph = build(
        ("Div", "x", "root", "d"),
        ("Erf", "d", "", "e"),
        ("Add", "e", "one", "a"),
        ("Mul", "x", "a", "m"),
        ("Mul", "m", "half", "g"),
        ("Sub", "g", "e", "y"),
    )
    assert "Erf" in [node.op for node in HtpBackend().prepare(graph).nodes]
