"""The KL search: which bins of a histogram to keep so that 255 levels lose least information.

Source: https://github.com/pytorch/glow (Apache-2.0), optimizeKL in lib/Quantization/Base, after S. Migacz, "8-bit Inference with
TensorRT" (GTC 2017). One thing is mended: Glow may move the lower end of a one-sided range above 0, where no offset can follow, so
that all values shift. Here 0 always stays inside.
"""

from __future__ import annotations

import numpy as np

from npukit.encoding import Array
from npukit_aic.glow.histogram import Histogram

LEVELS = 255
_AT_ONCE = 32  # windows whose temporaries stay in the second-level cache
_LITTLE = 1e-4  # what an empty bin gets, so that the divergence is finite


def optimal_range(histogram: Histogram, *, symmetric: bool) -> tuple[float, float]:
    """The range whose values in 255 levels diverge least from all values; that of the histogram when it has fewer bins or is empty.

    The window begins with all bins and loses two at a time: one at either end, or, unless ``symmetric``, two at the end where fewer
    values are lost. Of equal ones the widest wins.
    """
    bins = histogram.counts.size
    if bins < LEVELS or not histogram.total:
        return histogram.low, histogram.high
    low, high = _ends(histogram, *_best(histogram.counts, *_windows(histogram.counts, symmetric)))
    if symmetric and histogram.low < 0 < histogram.high:  # as it was: the share that more of is kept at the two ends
        share = max(low / histogram.low, high / histogram.high)
        low, high = share * histogram.low, share * histogram.high
    return low, high


def searched_range(histogram: Histogram, *, symmetric: bool) -> tuple[float, float]:
    """The same criterion for more windows: besides those of Glow a grid of all others, which gets finer around the best one so far.

    What KLMinimizationV2 does is not public; this is an experiment in its place. With ``symmetric`` no window is new.
    """
    bins = histogram.counts.size
    if symmetric or bins < LEVELS or not histogram.total:
        return optimal_range(histogram, symmetric=symmetric)
    step = bins // 32
    known, corners = _windows(histogram.counts, symmetric), np.arange(0, bins, step)
    start, end = _best(histogram.counts, *map(np.append, known, _pairs(corners, bins - 1 - corners)))
    while step > 1:
        reach, step = step, max(step // 4, 1)
        moves = np.arange(-reach, reach + 1, step)
        start, end = _best(histogram.counts, *_pairs(start + moves, end + moves))
    return _ends(histogram, start, end)


def _pairs(starts: Array, ends: Array) -> tuple[Array, Array]:
    """Every one of ``starts`` with every one of ``ends``."""
    return np.repeat(starts, ends.size), np.tile(ends, starts.size)


def _best(counts: Array, starts: Array, ends: Array) -> tuple[int, int]:
    """The window with the least divergence, the first of equal ones, among those that have room for all levels."""
    fits = (starts >= 0) & (ends < counts.size) & (ends - starts >= LEVELS - 1)
    starts, ends = starts[fits], ends[fits]
    best = int(np.argmin(divergences(counts, starts, ends)))
    return int(starts[best]), int(ends[best])


def _ends(histogram: Histogram, start: int, end: int) -> tuple[float, float]:
    """The range of a window, with 0 in it."""
    low, high = histogram.low + start * histogram.width, histogram.low + (end + 1) * histogram.width
    return min(low, max(histogram.low, 0.0)), max(high, min(histogram.high, 0.0))


def _windows(counts: Array, symmetric: bool) -> tuple[Array, Array]:
    """First and last bins of the windows that are looked at, each within the one before."""
    if symmetric:
        steps = np.arange((counts.size - LEVELS) // 2 + 1)
        return steps, counts.size - 1 - steps
    values: list[int] = counts.tolist()
    start, end, found = 0, len(values) - 1, []
    while end - start + 1 >= LEVELS:
        found.append((start, end))
        losses = (values[start] + values[end], values[start] + values[start + 1], values[end] + values[end - 1])
        left, right = ((1, 1), (2, 0), (0, 2))[losses.index(min(losses))]
        start, end = start + left, end - right
    starts, ends = np.array(found).T
    return starts, ends


def divergences(counts: Array, starts: Array, ends: Array) -> Array:
    """KL(P||Q) for every window of bins [start, end], (W,) float64; infinite where it is not defined.

    P are the counts in the window, what lies outside added to its ends. Q merges the window into 255 groups, as wide as whole bins
    allow and the rest in the last one, and spreads the counts of each, without what was added, evenly over the bins that P fills.
    """
    parts = np.arange(0, starts.size, _AT_ONCE)
    return np.concatenate([_divergences(counts, starts[i : i + _AT_ONCE], ends[i : i + _AT_ONCE]) for i in parts])


def _divergences(counts: Array, starts: Array, ends: Array) -> Array:
    bins = counts.size
    windows = np.arange(starts.size)
    index = np.arange(bins)
    inside = (index >= starts[:, None]) & (index <= ends[:, None])
    sums = np.concatenate([[0], np.cumsum(counts)]).astype(np.float64)
    p = np.where(inside, counts, 0.0)
    p[windows, starts] += sums[starts]
    p[windows, ends] += sums[-1] - sums[ends + 1]
    filled = p > 0
    # The edges of groups, (W, 256), as bins of the whole histogram.
    width = (ends - starts + 1) // LEVELS
    edges = starts[:, None] + width[:, None] * np.arange(LEVELS + 1)
    edges[:, -1] = ends + 1
    many = np.concatenate([np.zeros((starts.size, 1)), np.cumsum(filled, axis=1)], axis=1)
    filled_in = np.diff(np.take_along_axis(many, edges, axis=1))
    share = np.diff(sums[edges]) / np.maximum(filled_in, 1)
    group = np.clip((index - starts[:, None]) // width[:, None], 0, LEVELS - 1)
    q = np.where(filled, np.take_along_axis(share, group, axis=1), 0.0)
    p, q = _positive(p, inside), _positive(q, inside)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(inside, p * np.log(p / q), 0.0)
    found = terms.sum(axis=1)
    return np.where(np.isfinite(found), found, np.inf)


def _positive(values: Array, inside: Array) -> Array:
    """Distributions without zeros: these get a little, evenly taken from the others; rows where that cannot be are NaN."""
    filled = values > 0
    holes, others = (np.count_nonzero(one, axis=1, keepdims=True) for one in (inside & ~filled, filled))
    taken = _LITTLE * holes / np.maximum(others, 1)
    found = np.where(filled, values - taken, _LITTLE)
    sums = np.sum(found, axis=1, keepdims=True, where=inside)
    bad = (others == 0) | (taken >= 1) | np.any(found <= 0, axis=1, keepdims=True)
    return np.where(bad, np.nan, found / sums)
