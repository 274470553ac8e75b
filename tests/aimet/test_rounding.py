"""Solvers on second moments: better than nearest, and the best where that can be counted out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npukit.encoding import Array
from npukit_aimet.moments import Gatherer, Moments, Problem
from npukit_aimet.rounding import FEW, Grid, descend, enumerate_all, feed_back, relax


def example(seed: int, groups: int = 1, rows: int = 3, columns: int = 6) -> tuple[Problem, Grid, Array]:
    """A problem with correlated inputs whose float optimum is the weights themselves."""
    random = np.random.default_rng(seed)
    mix = random.standard_normal((groups, columns, columns))
    x = np.matmul(mix, random.standard_normal((groups, columns, 200))).astype(np.float32)
    weights = random.standard_normal((groups, rows, columns))
    scale = np.full(weights.shape, 0.3)
    problem = Moments.of(x, x).problem(weights, free_bias=False)
    return problem, Grid.around(weights, scale, np.zeros_like(scale), -8, 7), weights


def brute_force(problem: Problem, grid: Grid) -> Array:
    """The least loss of every row over all roundings, (G, R)."""
    low, high = ((codes - grid.zero) * grid.scale for codes in (grid.low, grid.high))
    losses = [problem.loss(np.where(np.array(choice), high, low)) for choice in itertools.product((0, 1), repeat=low.shape[2])]
    return np.asarray(np.min(losses, axis=0))


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 4), st.integers(1, 7))
def test_solvers(seed: int, groups: int, rows: int, columns: int) -> None:
    """Enumeration finds the optimum; descent never ends above its start; all stay on the grid."""
    problem, grid, weights = example(seed, groups, rows, columns)
    best = brute_force(problem, grid)
    np.testing.assert_allclose(problem.loss(enumerate_all(problem, grid)), best, rtol=1e-6, atol=1e-6)
    nearest = grid.snap(weights)
    fed_back = feed_back(problem, (grid,), weights, damping=0.01)[0]
    for start in (nearest, fed_back):
        better = descend(problem, grid, start)
        noise = 1e-5 * np.abs(problem.target * start).sum(-1) + 1e-6
        assert np.all(problem.loss(better) <= problem.loss(start) + noise)
        assert np.all(problem.loss(better) >= best - noise)
        np.testing.assert_allclose(grid.snap(better), better)


def test_no_single_move_is_left() -> None:
    """After descent no change of one weight of a row helps."""
    problem, grid, weights = example(1, rows=4, columns=12)
    found = descend(problem, grid, grid.snap(weights))
    low, high = ((codes - grid.zero) * grid.scale for codes in (grid.low, grid.high))
    for column in range(12):
        for end in (low, high):
            other = found.copy()
            other[:, :, column] = end[:, :, column]
            assert np.all(problem.loss(other) >= problem.loss(found) - 1e-4 * np.abs(problem.loss(found)))


def test_feed_back_beats_nearest_and_wide_grids_beat_narrow_ones() -> None:
    """On correlated inputs error feedback is better than rounding, and more codes are no worse on the whole."""
    total = np.zeros(4)
    for seed in range(20):
        problem, grid, weights = example(seed, rows=8, columns=40)
        fed_back, wide = feed_back(problem, (grid, grid.widened), weights, damping=0.01)
        solutions = (grid.snap(weights), fed_back, wide, relax(problem, grid, weights, iterations=300))
        ideal = problem.loss(weights)
        total += [float((problem.loss(s) - ideal).sum()) for s in solutions]
    nearest, fed, wide_loss, relaxed = total
    assert fed < 0.7 * nearest
    assert wide_loss < 0.7 * nearest
    assert relaxed < 0.8 * nearest


def test_relaxed_weights_are_two_codes() -> None:
    """Soft rounding ends on the codes next to each weight."""
    problem, grid, weights = example(3)
    found = relax(problem, grid, weights, iterations=50)
    low, high = ((codes - grid.zero) * grid.scale for codes in (grid.low, grid.high))
    assert np.all((found == low) | (found == high))


def test_moments_add_up_and_free_the_bias() -> None:
    """Moments of parts are those of the whole; with a free bias the mean of the input does not matter."""
    random = np.random.default_rng(0)
    x, q = (random.standard_normal((2, 5, 300)).astype(np.float32) for _ in range(2))
    gatherer = Gatherer()
    for part in range(3):
        gatherer.add(x[:, :, part::3], q[:, :, part::3])
    found, whole = gatherer.moments(), Moments.of(x, q)
    assert found is not None
    for name in ("count", "second", "cross", "mean", "float_mean"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-5, atol=1e-2)
    weights = random.standard_normal((2, 3, 5))
    moved = Moments.of(x + np.float32(2), q + np.float32(3)).problem(weights, free_bias=True)
    fixed = whole.problem(weights, free_bias=True)
    np.testing.assert_allclose(moved.hessian, fixed.hessian, atol=1e-3)
    np.testing.assert_allclose(moved.target, fixed.target, atol=1e-3)


@pytest.mark.parametrize("free_bias", [False, True])
def test_the_loss_is_the_error_of_the_output(free_bias: bool) -> None:
    """Differences of Problem.loss are differences of the mean squared output error."""
    random = np.random.default_rng(0)
    x = random.standard_normal((1, 5, 400)).astype(np.float32) + np.float32(0.5)
    q = (x + 0.1 * random.standard_normal(x.shape)).astype(np.float32)
    weights, a, b = (random.standard_normal((1, 3, 5)) for _ in range(3))
    moments = Moments.of(x, q)

    def error(values: Array) -> Array:
        rest = weights @ x - values @ q
        shift = moments.bias_shift(weights, values)[:, :, None] if free_bias else 0.0
        return np.asarray(((rest - shift) ** 2).mean(-1))

    problem = moments.problem(weights, free_bias=free_bias)
    np.testing.assert_allclose(problem.loss(a) - problem.loss(b), error(a) - error(b), rtol=1e-3, atol=1e-3)


def test_few_columns_are_counted_out() -> None:
    """A depthwise 3x3 kernel is among the rows that are solved exactly."""
    assert FEW >= 9
