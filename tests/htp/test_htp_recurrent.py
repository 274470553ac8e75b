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
    """LSTM and GRU, with bias, start states and peepholes, equal the float op between grids on chips with exact gates."""
    arrays = recurrent(rng, op, 2 if direction == "bidirectional" else 1)
    before = [{}] if op == "LSTM" else [{"linear_before_reset": 0}, {"linear_before_reset": 1}]
    for attributes in before:
        options = {"direction": direction, "hidden_size": 4, "soc": "v69", **attributes}
        run_op(op, arrays, [grid_of(arrays[0])], "uint16", constants=(1, 2, 3, 7), **options).check(0.98)


@pytest.mark.parametrize(("steps", "bias"), [(1, 0.0), (6, -0.5)])
def test_recurrent_floors_several_steps(
    steps: int, bias: float, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]
) -> None:
    """8-bit states of several steps are rounded down, those of one step to the nearest."""
    arrays = recurrent(rng, "GRU", 1, steps=steps)
    found = run_op("GRU", arrays, [grid_of(arrays[0])], "uint8", constants=(1, 2, 3), hidden_size=4)
    assert set(np.unique(found.steps())) == ({0} if bias == 0 else {-1, 0})
    assert found.steps().mean() == pytest.approx(bias, abs=0.2)


def test_lstm_gates_are_coarse_from_v73(rng: np.random.Generator, run_op: Callable[..., Any]) -> None:
    """With open gates the cell is tanh of the bias, which is 0.7 % off on v73; the tanh behind a cell that is read is exact."""
    hidden = 64
    wanted = np.linspace(-4, 4, hidden, dtype=np.float32)
    bias = np.concatenate([np.full(2 * hidden, 20), np.full(hidden, -20), wanted, np.zeros(4 * hidden)]).astype(np.float32)
    arrays = [
        normal(rng, 1, 1, 3),
        np.zeros((1, 4 * hidden, 3), np.float32),
        np.zeros((1, 4 * hidden, hidden), np.float32),
        bias[None],
    ]
    apart = {}
    for soc in ("v69", "v73"):
        found = run_op("LSTM", arrays, (), None, constants=(1, 2, 3), outputs=3, hidden_size=hidden, soc=soc)
        apart[soc] = np.abs(found.got - found.expected).max()
    assert apart["v69"] < 1e-6
    assert 0.002 < apart["v73"] < 0.0072


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
