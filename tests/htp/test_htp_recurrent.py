"""LSTM and GRU: the float op between grids, and where the simulator differs from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from npukit.encoding import Array
from npukit.graph import Node, make_graph


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def recurrent(rng: np.random.Generator, op: str, directions: int, *, steps: int = 6) -> list[Any]:
    """The inputs of an LSTM or a GRU of 4 states for a batch of 2: x, W, R, B, no lengths, start states, peepholes."""
    gates, size, hidden = (4 if op == "LSTM" else 3), 5, 4
    x = normal(rng, steps, 2, size)
    w, r = normal(rng, directions, gates * hidden, size), normal(rng, directions, gates * hidden, hidden)
    start = normal(rng, directions, 2, hidden)
    arrays = [x, w, r, normal(rng, directions, 2 * gates * hidden), None, start]
    return [*arrays, normal(rng, directions, 2, hidden), normal(rng, directions, 3 * hidden)] if op == "LSTM" else arrays


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent(
    op: str, direction: str, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]
) -> None:
    """LSTM and GRU, with bias, start states and peepholes, equal the float op between grids."""
    arrays = recurrent(rng, op, 2 if direction == "bidirectional" else 1)
    before = [{}] if op == "LSTM" else [{"linear_before_reset": 0}, {"linear_before_reset": 1}]
    for attributes in before:
        options = {"direction": direction, "hidden_size": 4, **attributes}
        run_op(op, arrays, [grid_of(arrays[0])], "uint16", constants=(1, 2, 3, 7), **options).check(0.98)


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_recurrent_without_its_first_output(op: str, rng: np.random.Generator, emulate: Callable[..., Any]) -> None:
    """The last state alone is that of all steps."""
    arrays = [a for a in recurrent(rng, op, 1)[:4] if a is not None]
    names = ("x", "w", "r", "b")
    constants = dict(zip(names[1:], arrays[1:], strict=True))
    found = {}
    for outputs in (("y", "last"), ("", "last")):
        node = Node(op, "n", names, outputs, {"hidden_size": 4})
        graph = make_graph([node], {"x": ("float32", arrays[0].shape)}, ["last"], constants)
        found[outputs] = emulate(graph, {}, {"x": arrays[0]})["last"]
    np.testing.assert_array_equal(*found.values())
