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
    """Sums over ``count`` columns, float64. ``mean`` and ``float_mean`` (G, K): the means of x~ and x. ``second`` (G, K, K): the
    sum of (x~ - mean) (x~ - mean)'; ``cross`` (G, K, K): that of (x - float_mean) (x~ - mean)'. Centred, because a difference of
    raw products loses what varies behind a large mean, and with it definiteness. Moments of different samples add up."""

    count: float
    second: Array
    cross: Array
    mean: Array
    float_mean: Array

    @staticmethod
    def of(x: Array, quantized: Array) -> Moments:
        """The moments of one sample's columns, (G, K, n) float32 each; the same object twice when both paths agree."""
        count = float(x.shape[2])
        coded = _Centred.of(quantized)
        second = coded.products(coded)
        if x is quantized:
            return Moments(count, second, second, coded.mean, coded.mean)
        plain = _Centred.of(x)
        return Moments(count, second, plain.products(coded), coded.mean, plain.mean)

    def __add__(self, other: Moments) -> Moments:
        """The moments of both (Chan, Golub and LeVeque 1979): each about its own mean, and the two means about the common one."""
        share = other.count / max(self.count + other.count, 1.0)
        apart, float_apart = other.mean - self.mean, other.float_mean - self.float_mean
        return Moments(
            self.count + other.count,
            self.second + other.second + self.count * share * _outer(apart, apart),
            self.cross + other.cross + self.count * share * _outer(float_apart, apart),
            self.mean + share * apart,
            self.float_mean + share * float_apart,
        )

    @property
    def hessian(self) -> Array:
        """E[x~ x~'], (G, K, K); zeros without columns."""
        return self.second / self._divisor + _outer(self.mean, self.mean)

    @property
    def is_finite(self) -> bool:
        """Whether all values are numbers: those of activations that overflowed are not."""
        return all(bool(np.isfinite(part).all()) for part in (self.second, self.cross, self.mean, self.float_mean))

    @property
    def _divisor(self) -> float:
        return max(self.count, 1.0)  # a layer that saw no columns (an empty batch) has nothing to fit

    def problem(self, weights: Array, *, free_bias: bool) -> Problem:
        """The quadratic problem for weights (G, R, K); ``free_bias`` lets the bias follow."""
        second, cross = self.second / self._divisor, self.cross / self._divisor
        if not free_bias:
            second = second + _outer(self.mean, self.mean)
            cross = cross + _outer(self.float_mean, self.mean)
        return Problem(second, np.matmul(weights.astype(np.float64), cross))

    def bias_shift(self, weights: Array, rounded: Array) -> Array:
        """What the best bias adds to the old one, (G, R): W E[x] - V E[x~]."""
        return np.asarray((weights @ self.float_mean[:, :, None] - rounded @ self.mean[:, :, None])[:, :, 0])


@attrs.frozen(eq=False)
class _Centred:
    """Columns about a shift near their mean: ``values`` (G, K, n) float32, of order 1, are in units of ``unit`` (G, K, 1).

    ``rest`` (G, K) is what is left of the mean of the values, ``mean`` that of the columns, float64.
    """

    values: Array
    unit: Array
    rest: Array
    mean: Array

    @staticmethod
    @np.errstate(over="ignore", invalid="ignore")  # columns that are not finite have such moments: whoever uses them looks
    def of(columns: Array) -> _Centred:
        divisor = max(columns.shape[2], 1)
        shift = (columns.sum(axis=2, dtype=np.float64) / divisor).astype(np.float32)
        values = columns - shift[:, :, None]
        peak = np.maximum(values.max(axis=2, initial=0), -values.min(axis=2, initial=0))
        # A power of two per channel: exact, and no product of large or small channels leaves the range of float32.
        exponent = np.clip(np.frexp(peak)[1], -126, 126)[:, :, None]
        unit = np.ldexp(1.0, exponent)
        values *= np.ldexp(np.float32(1), -exponent)
        rest = values.sum(axis=2, dtype=np.float64) / divisor
        return _Centred(values, unit, rest, shift + rest * unit[:, :, 0])

    def products(self, other: _Centred) -> Array:
        """The sum of (a - mean) (b - mean)' over all columns, (G, K, K)."""
        raw = _products(self.values, other.values) - self.values.shape[2] * _outer(self.rest, other.rest)
        return np.asarray(raw * self.unit * other.unit.swapaxes(1, 2))


def _outer(a: Array, b: Array) -> Array:
    """a b' per group, (G, K, K) of (G, K)."""
    return np.asarray(a[:, :, None] * b[:, None, :])


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
