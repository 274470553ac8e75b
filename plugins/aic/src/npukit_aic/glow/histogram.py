"""Glow's histogram of one tensor: equal bins between the extremes seen so far, which grow with the data.

Source: https://github.com/pytorch/glow (Apache-2.0), generateTensorHistogram and rescaleHistogram in lib/Quantization/Base. Glow
reckons in float32, this in float64: a value within a rounding error of the edge of a bin may count in the bin beside it.

Which bin a value is counted in depends on how the stream is cut: the first batch decides about the first bins, and when a later one
reaches beyond them, the old counts move as if the values of a bin lay evenly in it. The extremes do not depend on it.
"""

from __future__ import annotations

import attrs
import numpy as np

from npukit.encoding import Array
from npukit.errors import DataError

BINS = 512
"""The default of the compiler's option num-histogram-bins."""
_CHUNK = 1 << 16  # elements whose temporaries stay in the second-level cache


@attrs.frozen(eq=False)
class Histogram:
    """``counts``, int64 of shape (bins,), over equal bins between ``low`` and ``high``, the extremes of what was counted."""

    counts: Array
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def empty(cls, bins: int = BINS) -> Histogram:
        """Nothing counted yet."""
        return cls(np.zeros(bins, np.int64))

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """The width of a bin; 0 when all values are equal."""
        return (self.high - self.low) / self.counts.size

    @property
    def edges(self) -> Array:
        """The bins + 1 real values between bins, float64."""
        return np.linspace(self.low, self.high, self.counts.size + 1)

    def add(self, values: Array) -> Histogram:
        """With the float values of one batch, any shape, counted. Raises DataError for NaN and infinite ones."""
        if not values.size:
            return self
        low, high = float(values.min()), float(values.max())
        if not np.isfinite(low) or not np.isfinite(high):
            raise DataError("a histogram counts finite values, found NaN or infinity")
        grown = self.grown(low, high) if self.total else Histogram(self.counts, low, high)
        counts, flat = grown.counts.copy(), values.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            counts += np.bincount(_bins(flat[start : start + _CHUNK], grown), minlength=counts.size)
        return attrs.evolve(grown, counts=counts)

    def grown(self, low: float, high: float) -> Histogram:
        """The same counts over a range that holds [low, high] too.

        An old bin falls on at most two new ones: its count is split by overlap, rounded in favour of the first, nothing is lost.
        """
        low, high = min(low, self.low), max(high, self.high)
        if (low, high) == (self.low, self.high):
            return self
        found = Histogram(np.zeros_like(self.counts), low, high)
        starts = self.low + self.width * np.arange(self.counts.size)
        first, second = _bins(starts, found), _bins(starts + found.width, found)
        if self.width:
            overlap = (low + found.width * (first + 1) - starts) / self.width
            kept = np.minimum(np.floor(self.counts * overlap + 0.5), self.counts).astype(np.int64)
        else:
            kept = self.counts
        np.add.at(found.counts, first, kept)
        np.add.at(found.counts, second, self.counts - kept)
        return found

    def merge(self, other: Histogram) -> Histogram:
        """The counts of both, over a range that holds both."""
        if not self.total or not other.total:
            return self if self.total else other
        first, second = self.grown(other.low, other.high), other.grown(self.low, self.high)
        return attrs.evolve(first, counts=first.counts + second.counts)

    def rescaled(self, low: float, high: float) -> Histogram:
        """The counts spread over equal bins between ``low`` and ``high``, whatever this range is.

        Every new bin gets the share of an old one that lies in it, rounded and at most what is left of the old one; what lies
        outside or is lost by rounding is gone.
        """
        if (low, high) == (self.low, self.high) or not self.width:
            return attrs.evolve(self, low=low, high=high)
        found = Histogram(np.zeros_like(self.counts), low, high)
        cuts = np.unique(np.clip(np.concatenate([self.edges, found.edges]), max(low, self.low), min(high, self.high)))
        middles = (cuts[:-1] + cuts[1:]) / 2  # of the pieces, each of which lies in one old and one new bin
        old, new = _bins(middles, self), _bins(middles, found)
        shares = np.floor(np.diff(cuts) / self.width * self.counts[old] + 0.5).astype(np.int64)
        taken = np.cumsum(shares)
        taken -= (taken - shares)[np.searchsorted(old, old)]  # of the same old bin, up to and with this piece
        given = np.minimum(taken, self.counts[old]) - np.minimum(taken - shares, self.counts[old])
        np.add.at(found.counts, new, given)
        return found


def _bins(values: Array, of: Histogram) -> Array:
    """The numbers of the bins that values lie in; the last bin has its upper end, equal values all lie in bin 0."""
    if not of.width:
        return np.zeros(values.shape, np.int64)
    places = (values.astype(np.float64) - of.low) / of.width
    return np.clip(places.astype(np.int64), 0, of.counts.size - 1)
