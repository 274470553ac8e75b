"""A GatherND that moves nothing becomes a Reshape, any other stays."""

from __future__ import annotations

import numpy as np
import pytest

from npukit.graph import Graph, Node, evaluate_node, make_graph, reshape_gather_nd


def gather(indices: list[object], **attributes: int) -> Graph:
    node = Node("GatherND", "n", ("x", "i"), ("y",), dict(attributes))
    return make_graph([node], {"x": ("bool", (2, 3, 4))}, ["y"], {"i": np.array(indices)})


ROWS = [[b, t] for b in range(2) for t in range(3)]


@pytest.mark.parametrize("indices", [[ROWS], [[b - 2, t - 3] for b, t in ROWS], [[[0], [1]]]])
def test_identity_becomes_a_reshape(indices: list[object]) -> None:
    """The Reshape keeps name and values, whatever the shape of the indices and their sign."""
    graph = gather(indices)
    made = reshape_gather_nd(graph)
    assert [(n.op, n.name) for n in made.nodes] == [("Reshape", "n")]
    x = np.random.default_rng(0).random((2, 3, 4)) < 0.5
    (expected,) = evaluate_node(graph.nodes[0], [x, np.array(indices)], graph)
    (got,) = evaluate_node(made.nodes[0], [x, made.constant(made.nodes[0].inputs[1])], made)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("indices", [ROWS[::-1], ROWS[:-1], [ROWS[0]] * 6, [[0, 3]]])
def test_others_stay(indices: list[object]) -> None:
    """Another order, fewer elements, the same one several times, and indices outside of the data."""
    graph = gather(indices)
    assert reshape_gather_nd(graph) is graph


def test_batches_stay() -> None:
    graph = gather([[[0], [1], [2]], [[0], [1], [2]]], batch_dims=1)
    assert reshape_gather_nd(graph) is graph
