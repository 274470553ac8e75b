"""Solvers: which code each weight of a layer gets, given second moments of its input. Arrays are (G, R, K) float64.

All of them minimize Problem.loss over codes. ``descend`` moves one weight at a time while that helps; ``feed_back`` rounds column
by column and lets the columns to come make up for the error of those before (GPTQ, Frantar et al. 2022,
https://arxiv.org/abs/2210.17323, in the equivalent form of successive rounding with a Cholesky factor, Babai 1986);
``enumerate_all`` looks at everything; ``relax`` is AdaRound's rectified sigmoid (Nagel et al. 2020,
https://arxiv.org/abs/2004.10568, equations 22-25) with full-batch gradients.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import attrs
import numpy as np

from npukit.encoding import Array
from npukit_aimet.moments import Problem

_BLOCK = 64
_TRIES = 6
FEW = 10
"""Rows with up to so many weights are solved by looking at all 2^K roundings."""


@attrs.frozen(eq=False)
class Grid:
    """The codes a layer may use: ``scale`` and ``zero`` per weight (G, R, K), and the lowest and highest code of each weight.

    ``qmin`` and ``qmax`` are the ends of the type, or of what a backend uses of it.
    """

    scale: Array
    zero: Array
    low: Array
    high: Array
    qmin: int
    qmax: int

    @staticmethod
    def around(weights: Array, scale: Array, zero: Array, qmin: int, qmax: int) -> Grid:
        """The two codes next to each weight."""
        below = np.floor(weights / scale + zero)
        return Grid(scale, zero, np.clip(below, qmin, qmax), np.clip(below + 1, qmin, qmax), qmin, qmax)

    @property
    def widened(self) -> Grid:
        """The same weights with one more code on each side: still near the float weights, should other inputs come."""
        low, high = np.maximum(self.low - 1, self.qmin), np.minimum(self.high + 1, self.qmax)
        return attrs.evolve(self, low=low, high=high)

    @staticmethod
    def joined(grids: Sequence[Grid]) -> Grid:
        """The rows of several grids of one type, (R, K) each, one below the other."""
        scale, zero = np.concatenate([g.scale for g in grids]), np.concatenate([g.zero for g in grids])
        low, high = np.concatenate([g.low for g in grids]), np.concatenate([g.high for g in grids])
        return Grid(scale, zero, low, high, grids[0].qmin, grids[0].qmax)

    def snap(self, weights: Array) -> Array:
        """The nearest real values on the grid."""
        codes = np.clip(np.rint(weights / self.scale + self.zero), self.low, self.high)
        return np.asarray((codes - self.zero) * self.scale)

    def pick(self, index: Any) -> Grid:
        """A part of the weights."""
        parts = (self.scale[index], self.zero[index], self.low[index], self.high[index])
        return Grid(*parts, self.qmin, self.qmax)


def descend(problem: Problem, grid: Grid, start: Array) -> Array:
    """Steepest coordinate descent: every row makes its best single move, again and again, until no move helps.

    A move takes one weight to the code that is best given all others.
    """
    values = np.empty_like(start)
    for g in range(start.shape[0]):
        values[g] = _descend_rows(problem.hessian[g], problem.target[g], grid.pick(g), start[g])
    return values


def _descend_rows(hessian: Array, target: Array, grid: Grid, start: Array) -> Array:
    """``descend`` for one group, values (R, K). Codes and slopes are float32: a row is finished when its best gain is below their
    noise; losses are in units of each row, so that neither large nor small ones leave the range of float32."""
    size, step_size = _power_of_two(np.diagonal(hessian).max()), _power_of_two(grid.scale.max(axis=1, keepdims=True))
    hessian, relative = hessian / size, grid.scale / step_size
    slope = ((start @ hessian - target / size) / step_size * relative).astype(np.float32)
    bend = np.maximum(np.diagonal(hessian) * relative**2, np.finfo(np.float32).tiny).astype(np.float32)
    least = 1e-6 * np.abs(target / size * start / step_size**2).sum(axis=1)
    finished = np.rint(start / grid.scale + grid.zero)
    codes, low, high, scale = (a.astype(np.float32) for a in (finished, grid.low, grid.high, relative))
    rows, columns = np.arange(len(start)), hessian.astype(np.float32)
    for _ in range(2 * start.shape[1]):  # a bound for rows that would trade rounding errors for ever
        move = np.clip(np.rint(codes - slope / bend), low, high) - codes
        gain = move * (2 * slope + bend * move)
        best = np.argmin(gain, axis=1)
        at = np.arange(len(rows))
        useful = gain[at, best] < -least[rows]
        step = np.where(useful, move[at, best], 0)
        codes[at, best] += step
        slope += (step * scale[at, best])[:, None] * columns[best] * scale
        if np.count_nonzero(useful) > len(rows) // 2:
            continue
        finished[rows] = codes
        rows, codes, slope, bend, low, high, scale = (a[useful] for a in (rows, codes, slope, bend, low, high, scale))
        if not rows.size:
            break
    finished[rows] = codes
    return np.asarray((finished - grid.zero) * grid.scale)


def _power_of_two(values: Array) -> Array:
    """The power of two above each value; 1 for 0."""
    return np.asarray(np.ldexp(1.0, np.frexp(values)[1]))


def feed_back(problem: Problem, grids: Sequence[Grid], weights: Array, *, damping: float) -> list[Array]:
    """Round column by column, most active first, on each of several grids; the columns behind make up for what was lost.

    ``damping``: the share of the mean diagonal that is added to H, with the float weights as the point it pulls to; more where H is
    not definite. Raises LinAlgError when no damping makes it so.
    """
    found = [np.empty_like(weights) for _ in grids]
    for g in range(weights.shape[0]):
        diagonal = np.diagonal(problem.hessian[g])
        extra = damping * float(diagonal.mean()) or 1.0  # an input that is always 0 keeps its float weights
        order = np.argsort(-diagonal, kind="stable")
        # H = U U' with U upper triangular and Z U' = T turn the loss into |V U - Z|^2, which is decided from left to right.
        upper, extra = _upper_factor(problem.hessian[g][np.ix_(order, order)], extra)
        target = _solve_upper(upper, (problem.target[g] + extra * weights[g])[:, order].T).T
        # Rows do not know of one another: those of all grids go through the columns together.
        joined = Grid.joined([grid.pick(g).pick((slice(None), order)) for grid in grids])
        rounded = _successive(upper, np.concatenate([target] * len(grids)), joined)
        for into, part in zip(found, np.split(rounded, len(grids)), strict=True):
            into[g][:, order] = part
    return found


def _upper_factor(hessian: Array, extra: float) -> tuple[Array, float]:
    """The upper triangular U with U U' = H + extra I, and the extra it took: ten times more as long as that is not definite."""
    for power in range(_TRIES):
        more = extra * 10.0**power
        damped = hessian + more * np.eye(len(hessian))
        with suppress(np.linalg.LinAlgError):
            upper = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
            if np.isfinite(upper).all():
                return upper, more
    raise np.linalg.LinAlgError("the second moments are not definite, however much they are damped")


def _successive(upper: Array, rest: Array, grid: Grid) -> Array:
    """V on the grid with a small |V U - Z|^2: ``rest`` (R, K) is Z, and becomes what the decided columns leave of it."""
    rounded = np.empty_like(rest)
    count = rest.shape[1]
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        for j in range(start, stop):
            rounded[:, j] = grid.pick((slice(None), j)).snap(rest[:, j] / upper[j, j])
            rest[:, j:stop] -= rounded[:, j, None] * upper[j, j:stop]
        rest[:, stop:] -= rounded[:, start:stop] @ upper[start:stop, stop:]
    return rounded


def _solve_upper(upper: Array, right: Array) -> Array:
    """X with upper @ X = right, block by block from below."""
    found = right.copy()
    for stop in range(len(upper), 0, -_BLOCK):
        start = max(stop - _BLOCK, 0)
        found[start:stop] -= upper[start:stop, stop:] @ found[stop:]
        found[start:stop] = np.linalg.solve(upper[start:stop, start:stop], found[start:stop])
    return found


def enumerate_all(problem: Problem, grid: Grid) -> Array:
    """The best of all roundings, for grids with two codes per weight and at most FEW columns."""
    count = grid.low.shape[2]
    low, high = ((codes - grid.zero) * grid.scale for codes in (grid.low, grid.high))
    choice = np.array(list(itertools.product((0.0, 1.0), repeat=count)))
    step = high - low
    # loss(low + c * step) as a quadratic in c: c' (H o step step') c + 2 c . (step * (low H - T))
    slope = step * (np.matmul(low, problem.hessian) - problem.target)
    best = np.empty_like(low)
    for g in range(low.shape[0]):
        scaled = choice[None] * step[g][:, None, :]  # (R, 2^K, K)
        loss = ((scaled @ problem.hessian[g]) * scaled).sum(-1) + 2 * slope[g] @ choice.T
        best[g] = low[g] + choice[np.argmin(loss, axis=1)] * step[g]
    return best


def relax(problem: Problem, grid: Grid, weights: Array, *, iterations: int) -> Array:
    """AdaRound's soft rounding: minimize loss(low + h(V) step) + 0.01 sum(1 - |2 h - 1|^beta) over V with Adam, then round h.

    h is the rectified sigmoid, stretched to [-0.1, 1.1]. The regularizer starts after a fifth of the iterations; beta falls from 20
    to 2 along a cosine (the constants of aimet-onnx 2.42, BSD-3-Clause). Gradients are of all data at once, so Adam's rate is ten
    times that of mini-batches. ``grid`` has two codes per weight.
    """
    low, high = ((codes - grid.zero) * grid.scale for codes in (grid.low, grid.high))
    step = high - low
    free = step > 0
    share = np.clip((weights - low) / np.where(free, step, 1), 0.01, 0.99)
    soft = -np.log(_STRETCH / (share - _BELOW) - 1)
    first, second = np.zeros_like(soft), np.zeros_like(soft)
    warm = iterations // 5
    for t in range(iterations):
        sigmoid = 1 / (1 + np.exp(-soft))
        h = np.clip(sigmoid * _STRETCH + _BELOW, 0, 1)
        slope = 2 * (np.matmul(low + h * step, problem.hessian) - problem.target) * step
        if t >= warm:
            beta = 2 + 9 * (1 + np.cos(np.pi * (t - warm) / max(iterations - warm, 1)))
            distance = 2 * h - 1
            slope -= 0.01 * beta * 2 * np.sign(distance) * np.abs(distance) ** (beta - 1)
        inside = (h > 0) & (h < 1)
        slope *= inside * sigmoid * (1 - sigmoid) * _STRETCH
        first += 0.1 * (slope - first)
        second += 0.001 * (slope * slope - second)
        soft -= _RATE * (first / (1 - 0.9 ** (t + 1))) / (np.sqrt(second / (1 - 0.999 ** (t + 1))) + 1e-8)
    return np.asarray(np.where(free & (soft > 0), high, low))


_BELOW, _STRETCH = -0.1, 1.2  # gamma, and zeta - gamma
_RATE = 1e-2
