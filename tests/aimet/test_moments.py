"""Second moments of unusual inputs, and what rounding makes of them: large means, dead channels, wildly scaled channels."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npukit as nk
from npukit.encoding import Array
from npukit.graph import Node, make_graph
from npukit_aimet import adaround as adaround_module
from npukit_aimet import rounding
from npukit_aimet.adaround import AdaRound
from npukit_aimet.moments import Gatherer, Moments, Problem
from npukit_aimet.rounding import Grid, descend, feed_back, relax

W4 = nk.Options(weights="int4", activations="float32", strict=False)


def columns(seed: int, *, mean: float = 0.0, spread: float = 0.0, dead: int = 0, groups: int = 1, width: int = 12) -> Array:
    """Correlated columns (G, K, 600) with means up to ``mean`` and scales of 10^-spread to 10^spread; the first ``dead`` channels
    are constant, every other one of them zero."""
    random = np.random.default_rng(seed)
    mix = random.standard_normal((groups, width, width)) / np.sqrt(width) + np.eye(width)
    x = np.matmul(mix, random.standard_normal((groups, width, 600)))
    x *= 10.0 ** random.uniform(-spread, spread, (groups, width, 1))
    x += mean * random.uniform(-1, 1, (groups, width, 1))
    x[:, :dead] = x[:, :dead, :1]
    x[:, :dead:2] = 0
    return x.astype(np.float32)


def gathered(x: Array, quantized: Array, part: int = 100) -> Moments:
    """The moments as the walk gathers them: sample by sample."""
    gatherer = Gatherer()
    for start in range(0, x.shape[2], part):
        piece = x[:, :, start : start + part]
        gatherer.add(piece, piece if quantized is x else quantized[:, :, start : start + part])
        gatherer._collect()
    found = gatherer.moments()
    assert found is not None
    return found


def exact(x: Array, quantized: Array) -> tuple[Array, Array]:
    """E[x~ x~'] and E[x x~'] about the means, in float64."""
    a, b = (v.astype(np.float64) - v.astype(np.float64).mean(axis=2, keepdims=True) for v in (x, quantized))
    return b @ b.swapaxes(1, 2) / x.shape[2], a @ b.swapaxes(1, 2) / x.shape[2]


unusual = {
    "seed": st.integers(0, 10**6),
    "mean": st.sampled_from([0.0, 1.0, 1e3, 1e6]),
    "spread": st.sampled_from([0.0, 3.0, 15.0]),
    "dead": st.integers(0, 4),
    "groups": st.integers(1, 3),
}


@settings(max_examples=40, deadline=None)
@given(**unusual)
def test_covariances_are_exact_behind_any_mean(seed: int, mean: float, spread: float, dead: int, groups: int) -> None:
    """Each entry is right relative to its two channels, however large the means and far apart the scales; dead channels are 0."""
    x = columns(seed, mean=mean, spread=spread, dead=dead, groups=groups)
    noise = np.random.default_rng(seed).standard_normal(x.shape)
    noise[:, :dead] = 0
    quantized = (x + 0.1 * x.std(axis=2, keepdims=True) * noise).astype(np.float32)
    problem = gathered(x, quantized).problem(np.eye(12)[None].repeat(groups, 0), free_bias=True)
    second, cross = exact(x, quantized)
    size, other = (
        np.sqrt((v.astype(np.float64) - v.mean(axis=2, keepdims=True, dtype=np.float64)) ** 2).max(2) for v in (quantized, x)
    )
    assert np.all(np.abs(problem.hessian - second) <= 1e-6 * size[:, :, None] * size[:, None, :])
    assert np.all(np.abs(problem.target - cross) <= 1e-6 * other[:, :, None] * size[:, None, :])
    assert not problem.hessian[:, :dead].any()


@settings(max_examples=40, deadline=None)
@given(free_bias=st.booleans(), **unusual)
def test_rounding_survives_unusual_inputs(free_bias: bool, seed: int, mean: float, spread: float, dead: int, groups: int) -> None:
    """Every solver ends on the grid, with finite weights and without a warning; dead channels of a free bias stay within a code."""
    x = columns(seed, mean=mean, spread=spread, dead=dead, groups=groups)
    weights = np.random.default_rng(seed).uniform(-2, 2, (groups, 4, 12))
    scale = np.full(weights.shape, 0.3)
    grid = Grid.around(weights, scale, np.zeros_like(scale), -8, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem = gathered(x, x).problem(weights, free_bias=free_bias)
        starts = [
            grid.snap(weights),
            *feed_back(problem, (grid,), weights, damping=0.01),
            relax(problem, grid, weights, iterations=20),
        ]
        found = [descend(problem, grid, start) for start in starts]
    for start, values in zip(starts, found, strict=True):
        for part in (start, values):
            assert np.isfinite(part).all()
            np.testing.assert_allclose(grid.snap(part), part, atol=1e-9)
    if free_bias:
        assert np.all(np.abs(starts[1] - weights)[:, :, :dead] <= 0.3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e2, 1e4, 1e6]))
def test_a_mean_that_the_bias_takes_up_changes_nothing(seed: int, mean: float) -> None:
    """With a free bias a layer is rounded as well behind a large mean as without it."""
    x = columns(seed)
    shift = np.float32(mean)
    moved = x + shift  # what float32 keeps of the columns
    x = moved - shift
    weights = np.random.default_rng(seed).standard_normal((1, 4, 12))
    scale = np.full(weights.shape, 0.3)
    grid = Grid.around(weights, scale, np.zeros_like(scale), -8, 7)
    plain, far = (gathered(v, v).problem(weights, free_bias=True) for v in (x, moved))
    np.testing.assert_allclose(far.hessian, plain.hessian, rtol=1e-3, atol=1e-5)
    losses = [plain.loss(descend(plain, grid, feed_back(p, (grid,), weights, damping=0.01)[0])) for p in (plain, far)]
    np.testing.assert_allclose(losses[1] - plain.loss(weights), losses[0] - plain.loss(weights), rtol=0.05, atol=1e-4)


def test_more_damping_where_a_factorization_fails() -> None:
    """A matrix that is not definite is damped more and more; one that never becomes so is an error of its own kind."""
    weights = np.random.default_rng(0).standard_normal((1, 2, 3))
    grid = Grid.around(weights, np.full(weights.shape, 0.3), np.zeros(weights.shape), -8, 7)
    indefinite = np.array([[[1.0, 1.1, 0.0], [1.1, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    found = feed_back(Problem(indefinite, weights @ indefinite), (grid,), weights, damping=0.01)[0]
    assert np.isfinite(found).all()
    with pytest.raises(np.linalg.LinAlgError, match="damped"):
        feed_back(Problem(np.full((1, 3, 3), np.nan), weights), (grid,), weights, damping=0.01)


def product(first: Array) -> nk.Graph:
    """Two products of vectors; the second one is as usual, whatever the first does."""
    random = np.random.default_rng(0)
    nodes = [Node("MatMul", "m", ("x", "w"), ("t",)), Node("MatMul", "n", ("t", "v"), ("y",))]
    constants = {"w": first, "v": random.standard_normal((16, 4)).astype(np.float32)}
    return make_graph(nodes, inputs={"x": ("float32", (1, 16))}, outputs=["y"], constants=constants)


def rows(count: int = 9) -> list[dict[str, Array]]:
    return [{"x": np.random.default_rng(s).standard_normal((1, 16)).astype(np.float32)} for s in range(count)]


def test_a_layer_that_cannot_be_solved_is_rounded_to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no damping helps, one layer keeps its nearest codes, a note says so, and the others are still improved."""
    first = np.random.default_rng(1).standard_normal((16, 16)).astype(np.float32)
    calls = []

    def failing(problem: Problem, *args: object, **settings: object) -> list[Array]:
        calls.append(problem)
        if len(calls) == 1:
            raise np.linalg.LinAlgError("the second moments are not definite")
        return feed_back(problem, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(adaround_module, "feed_back", failing)
    model = nk.quantize(product(first), backend="cpu", data=rows(), options=W4, optimize=[AdaRound()])
    assert [n for n in model.report.notes if "leaves out m" in n and "nearest" in n]
    assert np.array_equal(model.graph.constant("w"), first)  # type: ignore[arg-type]
    assert model.encodings["w"].origin != "optimizer:adaround"
    assert model.encodings["v"].origin == "optimizer:adaround"


@pytest.mark.parametrize("optimize", ["adaround", "seq-mse", "bias-correction", "cle,adaround"])
def test_activations_that_overflow(optimize: str) -> None:
    """A layer with an infinite input is left out with a note, without NaN in any constant."""
    first = np.full((16, 16), 2e38, np.float32)
    model = nk.quantize(product(first), backend="cpu", data=rows(), options=W4, optimize=optimize)
    assert any("leaves out n" in note and "finite" in note for note in model.report.notes)
    assert all(np.isfinite(model.graph.constant(name)).all() for name in ("w", "v"))  # type: ignore[arg-type]


@pytest.mark.parametrize("power", [-18, 18])
def test_activations_near_the_ends_of_float32(power: int) -> None:
    """Inputs of 1e18 and 1e-18, whose squares leave float32, are rounded as well as those of order 1."""
    first = np.random.default_rng(1).standard_normal((16, 16)).astype(np.float32)
    scaled = [{"x": feeds["x"] * np.float32(2.0 ** (power * 10 // 3))} for feeds in rows(64)]
    plain, far = (nk.quantize(product(first), backend="cpu", data=d, options=W4, optimize="adaround") for d in (rows(64), scaled))
    assert np.array_equal(plain.graph.constant("w"), far.graph.constant("w"))  # type: ignore[arg-type]


def test_the_damping_stays_where_it_is_enough() -> None:
    """A definite matrix is factored with the damping asked for."""
    assert rounding._upper_factor(np.eye(3), 0.5)[1] == 0.5
