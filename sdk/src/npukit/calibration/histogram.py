"""A streaming histogram of float32 values with a fixed number of bins, independent of how the stream is cut.

Bins are those of a floating-point number with few mantissa bits: an octave [2**e, 2**(e+1)) has ``SUB`` equal bins, and the
window holds ``OCTAVES`` octaves below a power of two R above the largest magnitude seen. When a larger value arrives, R doubles as
often as needed and the lowest octaves merge into the lowest bin. As a bin is a prefix of the bits of a float32, counting is exact
integer work (no rounding, so any split of the data gives the same counts), an outlier costs no resolution near zero, and the bins
nest exactly in equal bins of width R / (2 SUB), which the methods that want a linear histogram get without interpolation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from npukit.graph import Array

SUB_BITS = 10
SUB = 1 << SUB_BITS
OCTAVES = 14
HALF = OCTAVES * SUB
"""Bins per sign; bin 0 also counts everything below the lowest octave."""

_MANTISSA_BITS = 23
_EXPONENT_BIAS = 127
_OFFSET = 256  # makes the exponent of R a number that is not negative
_MINUS_ZERO = np.int32(-(1 << 31))
_CHUNK = 1 << 16  # elements whose temporaries stay in the second-level cache


class Histogram:
    """Counts of magnitudes, ``positive`` and ``negative`` (zero is positive), each int64 of shape (HALF,)."""

    def __init__(self) -> None:
        # Calloc'ed pages cost nothing until a value falls in them: tensors without negatives take half of this.
        self._counts = np.zeros(2 * HALF, np.int64)
        self._top: int | None = None  # R = 2 ** _top; None until a value other than zero was seen
        self._zeros = 0

    @property
    def positive(self) -> Array:
        return self._counts[:HALF]

    @property
    def negative(self) -> Array:
        return self._counts[HALF:]

    @property
    def bound(self) -> float:
        """R, the power of two above every magnitude; 0 when all values were zero."""
        return 0.0 if self._top is None else float(2.0**self._top)

    def add(self, values: Array, peak: float) -> None:
        """Count float32 ``values``, finite, of any shape; ``peak`` is their largest magnitude."""
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        if peak == 0:
            self._zeros += flat.size
            self._counts[0] += flat.size
            return
        # Subnormal numbers have no octaves of their own; a window that reaches down to them counts them in its lowest bin.
        self._grow(max(int(np.frexp(np.float32(peak))[1]), OCTAVES - _EXPONENT_BIAS + 1))
        assert self._top is not None
        lowest = ((self._top - OCTAVES + _EXPONENT_BIAS) << SUB_BITS) if self._top is not None else 0
        for start in range(0, flat.size, _CHUNK):
            counts = np.bincount(_bins(flat[start : start + _CHUNK].view(np.int32), lowest))
            self._counts[: counts.size] += counts

    def _grow(self, top: int) -> None:
        if self._top is None:
            self._top = top
        steps = top - self._top
        if steps <= 0:
            return
        self._top = top
        shift = min(steps * SUB, HALF - 1)
        for half in (self.positive, self.negative):
            moved = half[shift:].copy()
            moved[0] += half[:shift].sum()
            half[:] = 0
            half[: moved.size] = moved

    def merge(self, other: Histogram) -> Histogram:
        """The counts of both, as if one had seen all values."""
        found = Histogram()
        for part in (self, other):
            if part._top is not None:
                found._grow(part._top)
        for part in (self, other):
            grown = Histogram()
            grown._counts, grown._top, grown._zeros = part._counts.copy(), part._top, part._zeros
            if found._top is not None:
                grown._grow(found._top)
            found._counts += grown._counts
            found._zeros += part._zeros
        return found

    def to_arrays(self) -> dict[str, Array]:
        """What is left without empty bins: their numbers, their counts, and (exponent of R, number of zeros); for a file."""
        bins = np.flatnonzero(self._counts)
        rest = np.array([-1, self._zeros] if self._top is None else [self._top + _OFFSET, self._zeros], np.int64)
        return {"bins": bins.astype(np.int64), "counts": self._counts[bins], "rest": rest}

    @staticmethod
    def from_arrays(arrays: Mapping[str, Array]) -> Histogram:
        """The histogram that ``to_arrays`` wrote. Raises ValueError for arrays of another form."""
        bins, counts, rest = (np.asarray(arrays[name]) for name in ("bins", "counts", "rest"))
        fits = bins.dtype == counts.dtype == rest.dtype == np.int64 and bins.shape == counts.shape and rest.shape == (2,)
        if not fits or bins.ndim != 1 or np.any(bins < 0) or np.any(bins >= 2 * HALF) or np.any(counts < 0):
            raise ValueError("a histogram is damaged")
        if rest[0] != -1 and not 0 <= rest[0] <= 2 * _OFFSET:
            raise ValueError("a histogram is damaged")
        found = Histogram()
        found._counts[bins] = counts
        found._top, found._zeros = None if rest[0] == -1 else int(rest[0]) - _OFFSET, int(rest[1])
        return found

    def values(self) -> tuple[Array, Array]:
        """(real values, counts) of the bins that are not empty, float64 and int64, ascending; a bin stands for its middle."""
        edges = self.edges()
        middles = (edges[:-1] + edges[1:]) / 2
        middles[0] = 0.0
        values = np.concatenate([-middles[::-1], middles])
        counts = np.concatenate([self.negative[::-1], self.positive])
        kept = counts > 0
        return values[kept], counts[kept]

    def edges(self) -> Array:
        """The HALF + 1 magnitudes between bins, float64, from 0 to R."""
        return magnitudes() * self.bound

    def linear(self) -> tuple[Array, Array]:
        """Counts (negative, positive) over 2 SUB equal bins of magnitude in [0, R), exact."""
        # The top octave has SUB bins of that width; each lower one halves it, so its bins collapse onto SUB / 2**k of them.
        target = np.minimum((magnitudes()[:-1] * (2 * SUB)).astype(np.int64), 2 * SUB - 1)
        negative, positive = (np.bincount(target, half, 2 * SUB) for half in (self.negative, self.positive))
        return negative.astype(np.int64), positive.astype(np.int64)


def magnitudes() -> Array:
    """The HALF + 1 bin edges for R = 1, float64; the first one is 0."""
    lowest = (_EXPONENT_BIAS - OCTAVES) << SUB_BITS
    bits = (np.arange(HALF + 1, dtype=np.int32) + lowest) << (_MANTISSA_BITS - SUB_BITS)
    edges = bits.astype(np.int32).view(np.float32).astype(np.float64)
    edges[0] = 0.0
    return edges


def _bins(bits: Array, lowest: int) -> Array:
    """Bin numbers of float32 values given by their bits; negative ones start at HALF."""
    found = (bits & 0x7FFFFFFF) >> (_MANTISSA_BITS - SUB_BITS)
    found -= lowest
    np.maximum(found, 0, out=found)
    found += ((bits < 0) & (bits != _MINUS_ZERO)) * np.int32(HALF)
    return np.asarray(found)
