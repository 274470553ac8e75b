"""The compiler's calibrations as observers of npukit; they read one Glow histogram per tensor.

KLMinimization is Glow's. How the vendor defines the others is not public: what they do here is an assumption, stated with each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from npukit.calibration import MIN_MAX, Observer, Range, Seen
from npukit.encoding import Array
from npukit.errors import DataError, UsageError, did_you_mean
from npukit_aic.glow import kl
from npukit_aic.glow.histogram import BINS, Histogram
from npukit_aic.glow.params import LIMITS, Params, choose, is_symmetric, widened

SCHEMA = "symmetric_with_uint8"
"""The compiler's default schema of activations."""
_AT_ONCE = 32  # ranges whose temporaries stay in the second-level cache

Method = Callable[[Histogram, str, str, float], tuple[float, float]]
"""(histogram, schema, signed type, percentile) -> range."""


def kl_range(histogram: Histogram, schema: str, dtype: str, percentile: float = 100) -> tuple[float, float]:
    """Glow's KL search, over the range that the schema spans."""
    return kl.optimal_range(_over_grid(histogram, schema, dtype), symmetric=is_symmetric(schema, histogram.low))


def kl_range_v2(histogram: Histogram, schema: str, dtype: str, percentile: float = 100) -> tuple[float, float]:
    """The same criterion for more windows, an experiment."""
    return kl.searched_range(_over_grid(histogram, schema, dtype), symmetric=is_symmetric(schema, histogram.low))


def percentile_range(histogram: Histogram, schema: str, dtype: str, percentile: float) -> tuple[float, float]:
    """On each side of 0, without the outermost (100 - percentile) % of all values, linear inside a bin; with 100 all of them."""
    if not 90 <= percentile <= 100:
        raise UsageError(f"the percentile must lie in 90..100, found {percentile:g}")
    if percentile == 100:
        return histogram.low, histogram.high
    below = np.concatenate([[0], np.cumsum(histogram.counts)])
    cut = (1 - percentile / 100) * histogram.total
    low, high = np.interp([cut, histogram.total - cut], below, histogram.edges)
    # A side that has fewer values than are cut ends at 0; one without values has nothing to cut.
    return min(float(low), max(histogram.low, 0.0)), max(float(high), min(histogram.high, 0.0))


def least_error_range(histogram: Histogram, schema: str, dtype: str, percentile: float = 100) -> tuple[float, float]:
    """The range with the least squared error of quantization and saturation, the values of a bin lying evenly in it.

    Both ends shrink in as many equal steps as there are bins, at most 512, then, where the grid need not be symmetric, each end
    alone. As the power of the signal is the same for all of them, this is the range with the best SQNR as well.
    """
    full_low, full_high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    steps = min(histogram.counts.size, BINS)
    shares = 1 - np.arange(steps) / steps

    def best(lows: Array, highs: Array) -> tuple[float, float]:
        lows, highs = np.broadcast_arrays(lows, highs)
        index = int(np.argmin(_squared_errors(histogram, choose(lows, highs, schema, dtype), dtype)))
        return float(lows[index]), float(highs[index])

    low, high = best(full_low * shares, full_high * shares)
    if low < 0 < high and not is_symmetric(schema, low):
        for _ in range(2):
            low, high = best(full_low * shares, np.asarray(high))
            low, high = best(np.asarray(low), full_high * shares)
    return low, high


def _squared_errors(histogram: Histogram, params: Params, dtype: str) -> Array:
    """The sums of the squared errors on K grids, (K,) float64.

    The integral over a bin, not the error of its middle: steps that are a multiple of the bins would seem to have none. In codes t
    the integral of (t - q)^2, with q the code that t gets, is q / 12 + (t - q)^3 / 3, within the grid and beyond it.
    """
    found = []
    for start in range(0, params.scale.size, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        scale = params.scale[part, None].astype(np.float64)
        t = histogram.edges / scale + params.offset[part, None]
        codes = np.clip(np.rint(t), *LIMITS[dtype])
        off = t - codes
        integral = codes / 12 + off * off * off / 3
        found.append(scale[:, 0] ** 3 / histogram.width * (np.diff(integral, axis=1) @ histogram.counts))
    return np.concatenate(found)


def _over_grid(histogram: Histogram, schema: str, dtype: str) -> Histogram:
    low, high = widened(histogram.low, histogram.high, schema, dtype)
    return histogram.rescaled(float(low), float(high))


class GlowObserver(Observer):
    """A calibration of the compiler for one schema of activations and one number of bins.

    All of them share one memory per tensor. Other than npukit's own histogram, Glow's depends on how the stream is cut
    (``npukit_aic.glow.histogram``): the same samples in other batches may give slightly another range.
    """

    backend = "aic"
    needs_histogram = False

    def __init__(self, name: str, title: str, method: Method, schema: str = SCHEMA, bins: int = BINS) -> None:
        self.name, self.title, self._method, self._schema, self._bins = name, title, method, schema, bins

    @property
    def memory_name(self) -> str:
        return memory_name(self._bins)

    def begin(self) -> dict[str, Array]:
        return to_memory(Histogram.empty(self._bins))

    def see(self, memory: Mapping[str, Array], values: Array) -> Mapping[str, Array]:
        return to_memory(from_memory(memory).add(values))

    def merge(self, first: Mapping[str, Array], second: Mapping[str, Array]) -> Mapping[str, Array]:
        return to_memory(from_memory(first).merge(from_memory(second)))

    def range(self, seen: Seen, dtype: str, percentile: float = 99.99) -> Range:
        if seen.low == seen.high:
            return seen.full
        signed = f"int{dtype.partition('int')[2]}"
        return Range(*self._method(from_memory(seen.memory[self.memory_name]), self._schema, signed, percentile))


def memory_name(bins: int = BINS) -> str:
    """What the memory of observers with so many bins is called in a profile."""
    return f"glow-{bins}"


def to_memory(histogram: Histogram) -> dict[str, Array]:
    """A histogram as a profile keeps it."""
    return {"counts": histogram.counts, "ends": np.array([histogram.low, histogram.high])}


def from_memory(memory: Mapping[str, Array]) -> Histogram:
    """The histogram that a profile keeps. Raises DataError for one that no data gives."""
    counts, (low, high) = memory["counts"], memory["ends"].tolist()
    if not -np.inf < low <= high < np.inf or np.any(counts < 0):
        raise DataError(
            f"the profile is damaged: a histogram of Glow counts from {low:g} to {high:g}, at least {counts.min()} a bin"
        )
    return Histogram(counts, low, high)


_METHODS: Mapping[str, tuple[str, str, Method]] = {
    "KLMinimization": ("KLMinimization", "Glow's search for the least KL divergence, 255 levels", kl_range),
    "KLMinimizationV2": ("KLMinimizationV2", "experimental: KLMinimization over more windows", kl_range_v2),
    "Percentile": ("aic-percentile", "all but the outermost values of each side, --percentile P", percentile_range),
    "MSE": ("aic-mse", "the least squared error on the grid of the compiler's schema", least_error_range),
    "SQNR": ("aic-sqnr", "the best SQNR on that grid, which is the range of aic-mse", least_error_range),
}
"""The compiler's names -> name and title of the observer, method."""
CALIBRATIONS = ("None", *_METHODS)
"""The values of the compiler's option quantization-calibration."""


def observer(calibration: str, schema: str = SCHEMA, bins: int = BINS) -> Observer:
    """The observer for the compiler's options quantization-calibration, quantization-schema-activations, num-histogram-bins.

    Raises UsageError for an unknown calibration, and for a KL search with fewer bins than it has levels.
    """
    if calibration not in CALIBRATIONS:
        raise UsageError(f"calibration '{calibration}' is not known", hint=did_you_mean(calibration, CALIBRATIONS))
    if calibration == "None":
        return MIN_MAX
    if calibration.startswith("KL") and bins < kl.LEVELS:
        raise UsageError(f"{calibration} needs {kl.LEVELS} histogram bins or more, found {bins}", hint="set num_histogram_bins")
    return GlowObserver(*_METHODS[calibration], schema, bins)


def observers() -> list[Observer]:
    """All calibrations but the plain minimum and maximum, for the compiler's default schema and number of bins."""
    return [observer(calibration) for calibration in _METHODS]
