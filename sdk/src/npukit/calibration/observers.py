"""Observers: the calibration methods, each of which turns what a profile saw of a tensor into a range."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import ClassVar

import attrs
import numpy as np

from npukit.calibration.histogram import SUB, Histogram
from npukit.encoding import INT_BITS, Array
from npukit.errors import DataError, UsageError, did_you_mean

_LEVELS = 128  # of the KL search: the magnitudes of an 8-bit signed grid
_GAMMA = 3.0  # weight of the saturation error, as in AIMET's "tf_enhanced" scheme
_SHRINKS = np.linspace(0.02, 1.0, 99)


@attrs.frozen
class Range:
    """The real values a grid should cover."""

    low: float
    high: float


@attrs.frozen(eq=False)
class Seen:
    """All that a profile keeps of one tensor: the extremes and number of its values, their histogram (None: not kept), and by name
    what observers remember beside it."""

    low: float
    high: float
    count: int
    histogram: Histogram | None = None
    memory: Mapping[str, Mapping[str, Array]] = attrs.field(factory=dict)

    @property
    def full(self) -> Range:
        """All that was seen; [0, 0] before anything was."""
        return Range(self.low, self.high) if self.low <= self.high else Range(0.0, 0.0)

    def values(self) -> tuple[Array, Array]:
        """(real values, counts) of the bins that are not empty, float64 and int64, ascending; a bin stands for its middle.

        Raises UsageError when no histogram was kept.
        """
        return self.counts.values()

    @property
    def counts(self) -> Histogram:
        """The histogram, which must be there."""
        if self.histogram is None:
            raise UsageError("the profile has no histograms", hint="npukit profile makes one that has them")
        return self.histogram


class Observer(abc.ABC):
    """A calibration method. ``name`` is what ``--calibration`` takes, ``title`` one line for people; ``backend`` names the backend
    whose compiler it imitates, "" when it is anybody's: what tries all methods leaves it out elsewhere.

    The range and, when ``needs_histogram``, the histogram of every tensor are kept anyway. An observer that needs more keeps arrays
    of fixed size: ``begin`` makes them, ``see`` adds the values of one batch, ``merge`` joins those of two profiles. The answer
    should not depend on how the stream of values is cut.
    """

    name: str
    title: str = ""
    backend: str = ""
    needs_histogram: ClassVar[bool] = True

    @property
    def memory_name(self) -> str:
        """What the arrays are kept by; observers that keep the same ones may share them under one name."""
        return self.name

    def begin(self) -> dict[str, Array]:
        """What to remember before any value was seen."""
        return {}

    def see(self, memory: Mapping[str, Array], values: Array) -> Mapping[str, Array]:
        """The memory after ``values``: float, any shape, finite, at least one."""
        return memory

    def merge(self, first: Mapping[str, Array], second: Mapping[str, Array]) -> Mapping[str, Array]:
        """The memory of both; to be overridden with ``begin``."""
        return first

    @abc.abstractmethod
    def range(self, seen: Seen, dtype: str, percentile: float = 99.99) -> Range:
        """The range for a tensor that will be stored as ``dtype``; npukit cuts it to what was seen."""


def remembered(observer: Observer, seen: Seen) -> Mapping[str, Array]:
    """What an observer keeps of a tensor beside the histogram, in the form that its ``begin`` gives; {} when it keeps nothing.

    Raises DataError when it keeps something and the profile was made without it, or has it in another form.
    """
    form = observer.begin()
    found = seen.memory.get(observer.memory_name, {})
    if not form:
        return {}
    hint = "make the profile again with the plugin of this method"
    if not found:
        message = f"the profile was made without calibration method '{observer.name}', which keeps more than a histogram"
        raise DataError(message, hint=hint)
    here, there = ({n: (np.shape(v), np.asarray(v).dtype.kind) for n, v in part.items()} for part in (found, form))
    if here != there:
        raise DataError(f"the profile is damaged: what method '{observer.name}' keeps there has another form", hint=hint)
    return found


def chosen(observer: Observer, seen: Seen, dtype: str, percentile: float = 99.99) -> Range:
    """The range that an observer chooses, within what was seen. Raises DataError, see ``remembered``."""
    remembered(observer, seen)
    full = seen.full
    if full.low == full.high == 0.0:
        return full
    found = observer.range(seen, dtype, percentile)
    # Both ends within what was seen: the middle of a bin may lie outside of it.
    return Range(min(max(found.low, full.low), full.high), max(min(found.high, full.high), full.low))


class MinMax(Observer):
    """The range of all values."""

    name = "min-max"
    title = "all values"
    needs_histogram = False

    def range(self, seen: Seen, dtype: str, percentile: float = 99.99) -> Range:
        return seen.full


class Percentile(Observer):
    """The range that leaves out at most (100 - percentile) % of the values on either side."""

    name = "percentile"
    title = "all but the outermost values, --percentile P"

    def range(self, seen: Seen, dtype: str, percentile: float = 99.99) -> Range:
        if not 90 <= percentile <= 100:
            raise UsageError(f"the percentile must lie in 90..100, found {percentile:g}")
        values, counts = seen.values()
        below = np.cumsum(counts)
        share = percentile / 100 * below[-1]
        high = values[np.searchsorted(below, share, side="left")]
        above = np.cumsum(counts[::-1])
        low = values[::-1][np.searchsorted(above, share, side="left")]
        return Range(float(low), float(high))


class Entropy(Observer):
    """The magnitude threshold that loses least information (KL divergence) when the rest is saturated.

    The search of S. Migacz, "8-bit Inference with TensorRT" (GTC 2017): for every threshold the clipped histogram P is compared
    with Q, P merged into 128 levels and spread over the bins that are not empty.
    """

    name = "entropy"
    title = "the threshold with the least KL divergence"

    def range(self, seen: Seen, dtype: str, percentile: float = 99.99) -> Range:
        negative, positive = seen.counts.linear()
        counts = (negative + positive).astype(np.float64)
        counts[0] = 0 if counts[1:].any() else counts[0]  # a peak at exactly zero says nothing about thresholds
        best, threshold = np.inf, counts.size
        for size in range(_LEVELS, counts.size + 1, counts.size // _LEVELS):
            divergence = _divergence(counts, size)
            if divergence < best:
                best, threshold = divergence, size
        magnitude = threshold * seen.counts.bound / (2 * SUB)
        return Range(-magnitude, magnitude)


class LeastNoise(Observer):
    """The range with the least expected quantization noise, saturation weighted by ``gamma``."""

    def __init__(self, name: str, title: str, gamma: float) -> None:
        self.name, self.title, self._gamma = name, title, gamma

    def range(self, seen: Seen, dtype: str, percentile: float = 99.99) -> Range:
        return _least_noise(seen, INT_BITS.get(dtype, 8), self._gamma)


MIN_MAX = MinMax()
OBSERVERS: tuple[Observer, ...] = (
    MIN_MAX,
    Percentile(),
    Entropy(),
    LeastNoise("mse", "the least squared error", 1.0),
    LeastNoise("sqnr", "the least squared error, saturation counted three times", _GAMMA),
)
"""The methods that npukit brings; plugins add others by the hook ``register_observers``."""


def all_observers(others: Iterable[Observer] = ()) -> tuple[Observer, ...]:
    """npukit's own and ``others``, which plugins bring; an own one wins over another of the same name."""
    return tuple({observer.name: observer for observer in (*others, *OBSERVERS)}.values())


def find_observer(name: str | Observer, others: Iterable[Observer] = ()) -> Observer:
    """The observer called ``name`` among npukit's own and ``others``, or ``name`` when it is one. Raises UsageError otherwise."""
    if isinstance(name, Observer):
        return name
    known = {observer.name: observer for observer in all_observers(others)}
    if name not in known:
        raise UsageError(f"calibration method '{name}' is not known", hint=did_you_mean(name, known))
    return known[name]


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


def _least_noise(seen: Seen, bits: int, gamma: float) -> Range:
    """The range with the least expected quantization noise, saturation weighted by ``gamma``: ends shrink together, then alone."""
    values, counts = seen.values()
    full = seen.full
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
