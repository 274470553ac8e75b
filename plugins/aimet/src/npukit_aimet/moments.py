"""Second moments of a layer's input: all that rounding needs to know of the data.

With y = W x the float output and x~ the input in the quantized network, the error of other weights V is

    E |V x~ - W x|^2 = tr(V H V') - 2 tr(V T') + constant,   H = E[x~ x~'],   T = W E[x x~']

(the quadratic form behind AdaRound, Nagel et al. 2020, https://arxiv.org/abs/2004.10568, and GPTQ, Frantar et al. 2022,
https://arxiv.org/abs/2210.17323; with the inputs of both networks, as in AdaRound's asymmetric reconstruction).
Where the bias may follow (b + W E[x] - V E[x~]), covariances take the place of the raw moments.
"""

from __future__ import annotations

import attrs
import numpy as np

from npukit.encoding import Array

_ENOUGH = 1024
"""Columns that are worth a product of their own."""


@attrs.frozen(eq=False)
class Moments:
    """Sums over ``count`` columns, float64. ``second`` (G, K, K): x~ x~'; ``cross`` (G, K, K): x x~'; ``mean`` and ``float_mean``
    (G, K): x~ and x. Sums of different samples add up."""

    count: float
    second: Array
    cross: Array
    mean: Array
    float_mean: Array

    @staticmethod
    def of(x: Array, quantized: Array) -> Moments:
        """The moments of one sample's columns, (G, K, n) float32 each; the same object twice when both paths agree."""
        second = _products(quantized, quantized)
        mean = quantized.sum(axis=2, dtype=np.float64)
        if x is quantized:
            return Moments(float(x.shape[2]), second, second, mean, mean)
        return Moments(float(x.shape[2]), second, _products(x, quantized), mean, x.sum(axis=2, dtype=np.float64))

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, f.name) + getattr(other, f.name) for f in attrs.fields(Moments)))

    @property
    def hessian(self) -> Array:
        """E[x~ x~'], (G, K, K); zeros without columns."""
        return self.second / self._divisor

    @property
    def _divisor(self) -> float:
        return max(self.count, 1.0)  # a layer that saw no columns (an empty batch) has nothing to fit

    def problem(self, weights: Array, *, free_bias: bool) -> Problem:
        """The quadratic problem for weights (G, R, K); ``free_bias`` lets the bias follow."""
        second, cross = self.hessian, self.cross / self._divisor
        if free_bias:
            mean, float_mean = self.mean / self._divisor, self.float_mean / self._divisor
            second = second - mean[:, :, None] * mean[:, None, :]
            cross = cross - float_mean[:, :, None] * mean[:, None, :]
        return Problem(second, np.matmul(weights.astype(np.float64), cross))

    def bias_shift(self, weights: Array, rounded: Array) -> Array:
        """What the best bias adds to the old one, (G, R): W E[x] - V E[x~]."""
        mean, float_mean = self.mean / self._divisor, self.float_mean / self._divisor
        return np.asarray((weights @ float_mean[:, :, None] - rounded @ mean[:, :, None])[:, :, 0])


def _products(a: Array, b: Array) -> Array:
    """a b' per group, (G, K, K) float64; numpy computes half of it when both are one array of two dimensions."""
    if len(a) == 1:
        return np.asarray((a[0] @ b[0].T)[None], np.float64)
    return np.asarray(np.matmul(a, b.swapaxes(1, 2)), np.float64)


class Gatherer:
    """Adds up the moments of many samples, a few thousand columns at a time: one large product beats many small ones."""

    def __init__(self) -> None:
        self._total: Moments | None = None
        self._waiting: list[tuple[Array, Array]] = []

    def add(self, x: Array, quantized: Array) -> None:
        """The columns of one sample, (G, K, n) float32 each."""
        self._waiting.append((x, quantized))
        if sum(part.shape[2] for part, _ in self._waiting) >= max(2 * x.shape[1], _ENOUGH):
            self._collect()

    def moments(self) -> Moments | None:
        """The sums so far; None when nothing was added."""
        self._collect()
        return self._total

    def _collect(self) -> None:
        if not self._waiting:
            return
        same = all(x is quantized for x, quantized in self._waiting)
        x = np.concatenate([part for part, _ in self._waiting], axis=2)
        found = Moments.of(x, x if same else np.concatenate([part for _, part in self._waiting], axis=2))
        self._total = found if self._total is None else self._total + found
        self._waiting = []


@attrs.frozen(eq=False)
class Problem:
    """Minimize tr(V H V') - 2 tr(V T') over V (G, R, K): ``hessian`` H (G, K, K), ``target`` T (G, R, K), float64."""

    hessian: Array
    target: Array

    def loss(self, weights: Array) -> Array:
        """The error of every row up to a constant of the row, (G, R)."""
        return np.asarray(((np.matmul(weights, self.hessian) - 2 * self.target) * weights).sum(-1))
