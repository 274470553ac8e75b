"""A part of a graph computes what the whole computes there."""

from __future__ import annotations

import numpy as np
import pytest

from npukit.backend.ort import OrtModel
from npukit.errors import ModelError
from npukit.graph import Graph, Node, make_graph, subgraph


def split_graph() -> Graph:
    """x -> Relu -> Split -> (a, b); y = Sigmoid(a) + b."""
    nodes = [
        Node("Relu", "relu", ("x",), ("r",)),
        Node("Split", "split", ("r", "sizes"), ("a", "b"), {"axis": 1}),
        Node("Sigmoid", "sigmoid", ("a",), ("s",)),
        Node("Add", "add", ("s", "b"), ("y",)),
    ]
    return make_graph(nodes, {"x": ("float32", (2, 6))}, ["y"], {"sizes": np.array([3, 3])})


@pytest.mark.parametrize("cut", [("r",), ("s", "b"), ("a", "b"), ("s",), ("a",)])
def test_a_part_continues_the_whole(cut: tuple[str, ...]) -> None:
    """From any cut on, also one between the outputs of a node: the same result from the values at the cut."""
    graph = split_graph()
    x = {"x": np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)}
    with OrtModel(graph, ["y", *cut]) as whole:
        values = whole.run(x)
    part = subgraph(graph, cut, ["y"])
    feeds = {n: values[n] for n in cut} | {n: x[n] for n in part.inputs if n in x}
    with OrtModel(part) as rest:
        np.testing.assert_allclose(rest.run(feeds)["y"], values["y"], rtol=1e-5)


def test_what_is_not_needed_is_left_out() -> None:
    """Nodes before the cut and the inputs that only they read are gone."""
    part = subgraph(split_graph(), ("a", "b"), ["y"])
    assert [node.op for node in part.nodes] == ["Sigmoid", "Add"]
    assert part.inputs == ("a", "b")
    assert "sizes" not in part.tensors


def test_an_unknown_tensor() -> None:
    with pytest.raises(ModelError, match="'nothing'"):
        subgraph(split_graph(), ("nothing",), ["y"])
