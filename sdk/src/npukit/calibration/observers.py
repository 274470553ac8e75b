"""Observers: what calibration remembers of a tensor, in memory that does not grow with the data."""

from __future__ import annotations

import abc
from collections.abc import Callable

import attrs
import numpy as np

from npukit.calibration.histogram import SUB, Histogram
from npukit.encoding import INT_BITS, Array
from npukit.errors import UsageError, did_you_mean

_LEVELS = 128  # of the KL search: the magnitudes of an 8-bit signed grid
_GAMMA = 3.0  # weight of the saturation error, as in AIMET's "tf_enhanced" scheme
_SHRINKS = np.linspace(0.02, 1.0, 99)


@attrs.frozen
class Range:
    """The real values a grid should cover."""

    low: float
    high: float


class Observer(abc.ABC):
    """Sees every value of one tensor once and answers with a range.

    ``update`` gets float arrays of any shape, all finite. The answer must not depend on how the stream is cut into arrays.
    """

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def update(self, values: Array) -> None:
        if values.size:
            self.low = min(self.low, float(values.min()))
            self.high = max(self.high, float(values.max()))

    @abc.abstractmethod
    def range(self) -> Range: ...

    def full(self) -> Range:
        """All that was seen; [0, 0] before anything was."""
        return Range(self.low, self.high) if self.low <= self.high else Range(0.0, 0.0)


class MinMax(Observer):
    """The range of all values."""

    def range(self) -> Range:
        return self.full()


class HistogramObserver(Observer):
    """Counts magnitudes by sign, and leaves the choice of the range to ``choose``."""

    def __init__(self, choose: Callable[[HistogramObserver], Range]) -> None:
        super().__init__()
        self.histogram = Histogram()
        self._choose = choose

    def update(self, values: Array) -> None:
        if values.size:
            low, high = float(values.min()), float(values.max())
            self.low, self.high = min(self.low, low), max(self.high, high)
            self.histogram.add(values, max(abs(low), abs(high)))

    def range(self) -> Range:
        full = self.full()
        if full.low == full.high == 0.0:
            return full
        found = self._choose(self)
        return Range(max(found.low, full.low), min(found.high, full.high))

    def values(self) -> tuple[Array, Array]:
        """(real values, counts) of the bins that are not empty, ascending; a bin stands for its middle."""
        edges = self.histogram.edges()
        middles = (edges[:-1] + edges[1:]) / 2
        middles[0] = 0.0
        values = np.concatenate([-middles[::-1], middles])
        counts = np.concatenate([self.histogram.negative[::-1], self.histogram.positive])
        kept = counts > 0
        return values[kept], counts[kept]


def observer(method: str, dtype: str, percentile: float = 99.99) -> Observer:
    """The observer of a calibration method for a tensor that will be stored as ``dtype``."""
    if method == "min-max":
        return MinMax()
    if method == "percentile":
        if not 90 <= percentile <= 100:
            raise UsageError(f"the percentile must lie in 90..100, found {percentile:g}")
        return HistogramObserver(lambda seen: _percentile(seen, percentile))
    if method == "entropy":
        return HistogramObserver(_entropy)
    if method in ("mse", "sqnr"):
        bits, gamma = INT_BITS.get(dtype, 8), 1.0 if method == "mse" else _GAMMA
        return HistogramObserver(lambda seen: _least_noise(seen, bits, gamma))
    raise UsageError(f"calibration method '{method}' is not known", hint=did_you_mean(method, METHODS))


METHODS = ("min-max", "percentile", "entropy", "mse", "sqnr")


def _percentile(seen: HistogramObserver, percentile: float) -> Range:
    """The range that leaves out at most (100 - percentile) % of the values on either side."""
    values, counts = seen.values()
    below = np.cumsum(counts)
    share = percentile / 100 * below[-1]
    high = values[np.searchsorted(below, share, side="left")]
    above = np.cumsum(counts[::-1])
    low = values[::-1][np.searchsorted(above, share, side="left")]
    return Range(float(low), float(high))


def _entropy(seen: HistogramObserver) -> Range:
    """The magnitude threshold that loses least information (KL divergence) when the rest is saturated.

    The search of S. Migacz, "8-bit Inference with TensorRT" (GTC 2017): for every threshold the clipped histogram P is compared
    with Q, P merged into 128 levels and spread over the bins that are not empty.
    """
    negative, positive = seen.histogram.linear()
    counts = (negative + positive).astype(np.float64)
    counts[0] = 0 if counts[1:].any() else counts[0]  # a peak at exactly zero says nothing about thresholds
    best, threshold = np.inf, counts.size
    for size in range(_LEVELS, counts.size + 1, counts.size // _LEVELS):
        divergence = _divergence(counts, size)
        if divergence < best:
            best, threshold = divergence, size
    magnitude = threshold * seen.histogram.bound / (2 * SUB)
    return Range(-magnitude, magnitude)


def _divergence(counts: Array, size: int) -> float:
    inside = counts[:size]
    total = counts.sum()
    if not inside.any():
        return np.inf
    clipped = inside.copy()
    clipped[-1] += total - inside.sum()
    starts = np.arange(_LEVELS) * size // _LEVELS
    level = np.repeat(np.arange(_LEVELS), np.diff(np.append(starts, size)))
    full = inside > 0
    share = np.bincount(level, inside, _LEVELS) / np.maximum(np.bincount(level, full, _LEVELS), 1)
    spread = np.where(full, share[level], 0.0)
    p, q = clipped / total, spread / spread.sum()
    kept = p > 0
    # A bin that only the clipped tail fills has no counterpart in Q: smoothing keeps its cost finite but high.
    return float(np.sum(p[kept] * np.log(p[kept] / np.maximum(q[kept], 1e-9))))


def _least_noise(seen: HistogramObserver, bits: int, gamma: float) -> Range:
    """The range with the least expected quantization noise, saturation weighted by ``gamma``: ends shrink together, then alone."""
    values, counts = seen.values()
    full = seen.full()
    low, high = min(full.low, 0.0), max(full.high, 0.0)
    noise = _noise(values, counts, low * _SHRINKS, high * _SHRINKS, bits, gamma)
    best = _SHRINKS[int(np.argmin(noise))]
    low, high = low * best, high * best
    for _ in range(2):
        lows = low * np.linspace(0.5, 1.5, 41)
        low = lows[int(np.argmin(_noise(values, counts, lows, np.full(41, high), bits, gamma)))]
        highs = high * np.linspace(0.5, 1.5, 41)
        high = highs[int(np.argmin(_noise(values, counts, np.full(41, low), highs, bits, gamma)))]
    return Range(float(low), float(high))


def _noise(values: Array, counts: Array, lows: Array, highs: Array, bits: int, gamma: float) -> Array:
    """Expected squared error for each range: step^2 / 12 inside (the value itself when it rounds to 0), the excess outside."""
    squares = values * values

    def one(low: float, high: float) -> float:
        step = max((high - low) / ((1 << bits) - 1), 1e-30)
        excess = values - np.clip(values, low, high)
        return float(np.where(excess == 0, np.minimum(squares, step * step / 12), gamma * excess * excess) @ counts)

    return np.array([one(low, high) for low, high in zip(lows, highs, strict=True)])
