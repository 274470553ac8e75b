"""Forms that the vendor refuses for values, ranks and attributes that rows cannot tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from npukit.graph import Node, make_graph
from npukit.quantization import Request, check

FORMS = [
    ("LayerNormalization", (2, 4, 4), {"s": np.ones(4, np.float32)}, {"axis": -1}, True),
    ("LayerNormalization", (2, 4, 4), {"s": np.ones(4, np.float32)}, {"axis": 2}, True),
    ("LayerNormalization", (2, 4, 4), {"s": np.ones((4, 4), np.float32)}, {"axis": 1}, False),
    ("ReduceMean", (2, 4), {}, {"noop_with_empty_axes": 1}, False),
    ("ReduceMean", (2, 4), {"axes": np.array([1])}, {"noop_with_empty_axes": 1}, True),
    ("Sum", (2, 4), {}, {}, False),
    ("Max", (2, 4), {"a": np.ones(4, np.float32), "b": np.ones(4, np.float32)}, {}, True),
    ("Pad", (2, 4), {"pads": np.array([0, 3, 0, 0])}, {"mode": "reflect"}, True),
    ("Pad", (2, 4), {"pads": np.array([2, 0, 0, 0])}, {"mode": "reflect"}, False),
    ("Pad", (2, 4), {"pads": np.array([0, 1, 0, 0])}, {"mode": "wrap"}, False),
    ("MatMul", (1, 2, 2, 3, 4), {"w": np.ones((4, 3), np.float32)}, {}, False),
    ("MatMul", (2, 2, 3, 4), {"w": np.ones((4, 3), np.float32)}, {}, True),
    ("MaxPool", (1, 2, 8, 8), {}, {"kernel_shape": (2, 2), "dilations": (2, 2)}, False),
    ("Tanh", (1, 2, 2, 3, 4), {}, {}, False),
    ("ArgMax", (2, 4), {}, {"select_last_index": 1}, False),
    ("Relu", (0, 4), {}, {}, False),
]


@pytest.mark.parametrize(("op", "shape", "constants", "attributes", "accepted"), FORMS)
def test_forms(op: str, shape: tuple[int, ...], constants: dict[str, Any], attributes: dict[str, Any], accepted: bool) -> None:
    """The verdict is the vendor's."""
    node = Node(op, "n", ("x", *constants), ("y",), attributes)
    graph = make_graph([node], {"x": ("float32", shape)}, ["y"], constants)
    assert (check(Request(graph), backend="htp").verdict == "accepted") is accepted


@pytest.mark.parametrize(("lengths", "accepted"), [([6, 6], True), ([6, 3], False)])
def test_sequences_have_one_length(lengths: list[int], accepted: bool) -> None:
    constants = {"w": np.ones((1, 12, 3), np.float32), "r": np.ones((1, 12, 4), np.float32), "l": np.array(lengths, np.int32)}
    node = Node("GRU", "n", ("x", "w", "r", "", "l"), ("y",), {"hidden_size": 4})
    graph = make_graph([node], {"x": ("float32", (6, 2, 3))}, ["y"], constants)
    assert (check(Request(graph), backend="htp").verdict == "accepted") is accepted
