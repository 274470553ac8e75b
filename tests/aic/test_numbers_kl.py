"""The KL search against its definition, one window after the other, and on distributions with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from npukit.encoding import Array
from npukit_aic.glow.histogram import Histogram
from npukit_aic.glow.kl import LEVELS, divergences, optimal_range, searched_range


def divergence(counts: Array, start: int, end: int) -> float:
    """KL(P||Q) of one window, as the definition says it."""
    size = end - start + 1
    window = counts[start : end + 1].astype(float)
    p, q = window.copy(), np.zeros(size)
    p[0] += counts[:start].sum()
    p[-1] += counts[end + 1 :].sum()
    for group in range(LEVELS):
        width = size // LEVELS
        part = slice(group * width, size if group == LEVELS - 1 else (group + 1) * width)
        filled = np.count_nonzero(p[part])
        if filled:
            q[part] = np.where(p[part] > 0, window[part].sum() / filled, 0)
    smooth = []
    for values in (p, q):
        holes = np.count_nonzero(values == 0)
        if holes == size or 1e-4 * holes / (size - holes) >= 1:
            return np.inf
        values = np.where(values == 0, 1e-4, values - 1e-4 * holes / (size - holes))
        smooth.append(values / values.sum() if np.all(values > 0) else values * np.nan)
    result = float(np.sum(smooth[0] * np.log(smooth[0] / smooth[1])))
    return result if np.isfinite(result) else np.inf


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.3, 1.0]), st.sampled_from([300, 512, 777]))
@example(2543, 0.02, 512)  # windows without values
@settings(max_examples=15)
def test_all_windows_at_once_are_each_alone(seed: int, filled: float, bins: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 1000, bins) * (rng.random(bins) < filled)
    starts = rng.integers(0, bins - LEVELS + 1, 40)
    ends = rng.integers(starts + LEVELS - 1, bins)
    expected = [divergence(counts, a, b) for a, b in zip(starts, ends, strict=True)]
    assert divergences(counts, starts, ends) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def of(values: Array) -> Histogram:
    """A histogram that holds 0, as Glow hands it to the search."""
    found = Histogram.empty().add(values)
    return found.rescaled(min(found.low, 0.0), max(found.high, 0.0))


def balanced(histogram: Histogram) -> Histogram:
    step = max(-histogram.low / 128, histogram.high / 127)
    return histogram.rescaled(-128 * step, 127 * step)


def gaussian(seed: int = 0) -> Array:
    """100,000 values around 0, one in ten thousand of them ten times as large."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(100_000)
    values[rng.random(values.size) < 1e-4] *= 5
    return values


@pytest.mark.parametrize("seed", range(3))
def test_outliers_are_clipped(seed: int) -> None:
    """Glow halves the step of a Gaussian with outliers, as published: 0.0821 -> 0.0444, asymmetric 0.0806 -> 0.0523."""
    whole = of(gaussian(seed))
    low, high = optimal_range(whole, symmetric=False)
    assert 0.45 < (high - low) / (whole.high - whole.low) < 0.75
    step = balanced(whole).high / 127
    low, high = optimal_range(balanced(whole), symmetric=True)
    assert 0.45 < high / 127 / step < 0.75
    assert low / 128 == pytest.approx(-high / 127)  # the code of 0 stays 0
    for found in (optimal_range(whole, symmetric=False), searched_range(whole, symmetric=False)):
        assert found[0] < -3
        assert found[1] > 3


def test_half_of_all_values_at_0_hold_the_lower_end() -> None:
    whole = of(np.maximum(gaussian(1), 0))
    low, high = optimal_range(whole, symmetric=False)
    assert low == 0
    assert 0.98 < high / whole.high < 1  # published: 0.04091 -> 0.04059


def test_zero_stays_inside() -> None:
    """Of values around 5, and a few at 0, Glow would drop the lower ones."""
    values = np.concatenate([np.random.default_rng(0).normal(5, 0.3, 50_000), [0.0, 10.0]])
    for search in (optimal_range, searched_range):
        assert search(of(values), symmetric=False)[0] == 0
        assert search(of(-values), symmetric=False)[1] == 0


def test_the_search_over_more_windows_finds_nothing_worse() -> None:
    for seed in range(3):
        whole = of(gaussian(seed))

        def loss(ends: tuple[float, float], whole: Histogram = whole) -> float:
            start, end = np.rint((np.array(ends) - whole.low) / whole.width).astype(int)
            return divergence(whole.counts, start, end - 1)

        assert loss(searched_range(whole, symmetric=False)) <= loss(optimal_range(whole, symmetric=False))


def test_few_bins_or_no_values_leave_the_range() -> None:
    few = Histogram.empty(LEVELS - 1).add(gaussian())
    for search in (optimal_range, searched_range):
        assert search(few, symmetric=False) == (few.low, few.high)
        assert search(Histogram(np.zeros(512, np.int64), -1.0, 2.0), symmetric=False) == (-1.0, 2.0)
