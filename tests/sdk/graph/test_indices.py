"""Tensors that only say where or how much, and nodes that only compute such."""

from __future__ import annotations

import numpy as np

from npukit.graph import Graph, Node, bind, host_nodes, make_graph

FLOAT, INT = 1, 7


def bounds(ends: tuple[str, ...] = ("y",)) -> Graph:
    """x[:min(N, 4)]: the bound is computed in float, as exporters do; h is data."""
    nodes = [
        Node("Relu", "relu", ("x",), ("h",)),
        Node("Shape", "shape", ("x",), ("s",), {"start": 0, "end": 1}),
        Node("Cast", "float", ("s",), ("f",), {"to": FLOAT}),
        Node("Min", "min", ("f", "four"), ("m",)),
        Node("Cast", "int", ("m",), ("i",), {"to": INT}),
        Node("Slice", "slice", ("h", "zero", "i"), ("y",)),
    ]
    constants = {"four": np.array([4], np.float32), "zero": np.array([0], np.int64)}
    return make_graph(nodes, {"x": ("float32", ("N", 3))}, list(ends), constants)


def test_bounds_computed_in_float() -> None:
    """f and m only feed a bound: they hold no data, and their nodes are none of the chip's."""
    graph = bounds()
    assert graph.index_tensors == {"f", "m"}
    assert graph.float_activations() == ("x", "h", "y")
    assert host_nodes(graph) == {"shape", "float", "min", "int"}


def test_an_output_is_data() -> None:
    """What a graph gives to its caller is data, even if it is a bound as well."""
    graph = bounds(("y", "m"))
    assert graph.index_tensors == frozenset()
    assert "m" in graph.float_activations()


def test_an_index_made_of_data() -> None:
    """A float input that is rounded to an index holds no data, but its nodes run where the data is."""
    nodes = [
        Node("Floor", "floor", ("p",), ("f",)),
        Node("Cast", "int", ("f",), ("i",), {"to": INT}),
        Node("Gather", "gather", ("x", "i"), ("y",)),
    ]
    graph = make_graph(nodes, {"x": ("float32", (8, 3)), "p": ("float32", (2,))}, ["y"], {})
    assert graph.index_tensors == {"p", "f"}
    assert graph.float_activations() == ("x", "y")
    assert host_nodes(graph) == frozenset()


def test_what_is_used_both_ways_is_data() -> None:
    """A tensor that is multiplied as well as cast to an index keeps its encoding."""
    nodes = [
        Node("Cast", "int", ("p",), ("i",), {"to": INT}),
        Node("Gather", "gather", ("x", "i"), ("g",)),
        Node("Mul", "mul", ("g", "p"), ("y",)),
    ]
    graph = make_graph(nodes, {"x": ("float32", (8,)), "p": ("float32", (2,))}, ["y"], {})
    assert graph.index_tensors == frozenset()


def test_bind_shares_constants() -> None:
    """A bound graph has static shapes, and the very arrays of the symbolic one."""
    graph = bounds()
    bound = bind(graph, {"N": 6})
    assert bound.tensor("h").shape == (6, 3)
    assert bound.tensor("four").data is graph.tensor("four").data
    assert graph.tensor("h").shape == ("N", 3)
