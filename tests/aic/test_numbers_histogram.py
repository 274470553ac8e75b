"""Glow's histogram: counting, growing, spreading over another range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from npukit.errors import DataError
from npukit_aic.glow.histogram import Histogram

VALUES = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40)


def counted(*batches: list[float], bins: int = 16) -> Histogram:
    found = Histogram.empty(bins)
    for batch in batches:
        found = found.add(np.array(batch, np.float32))
    return found


def test_growing_as_in_glow() -> None:
    found = Histogram(np.array([1, 2, 3, 4]), 0.0, 1.0).grown(-1.0, 1.0)
    assert (found.counts.tolist(), found.low, found.high) == ([0, 0, 3, 7], -1.0, 1.0)


def test_rescaling_as_in_glow() -> None:
    found = Histogram(np.array([2, 4, 6, 8]), -1.0, 1.0).rescaled(0.0, 1.0)
    assert (found.counts.tolist(), found.low, found.high) == ([3, 3, 4, 4], 0.0, 1.0)


def test_an_old_bin_is_split_over_two_new_ones() -> None:
    """Bins of 1 become bins of 1.5; the second one, [1, 2], lies half in each, and a half of 3 counts for the first."""
    found = Histogram(np.array([5, 3, 0, 1]), 0.0, 4.0).grown(0.0, 6.0)
    assert found.counts.tolist() == [7, 1, 1, 0]
    found = Histogram(np.array([0, 3, 0, 0]), 0.0, 4.0).grown(0.0, 7.0)  # three quarters of 3
    assert found.counts.tolist() == [2, 1, 0, 0]


def test_rescaling_gives_away_no_more_than_there_is() -> None:
    """Thirds of 2 round to 1 each, and the third one gets nothing; thirds of 1 round to nothing and are lost."""
    assert Histogram(np.array([2, 0, 0]), 0.0, 3.0).rescaled(0.0, 1.0).counts.tolist() == [1, 1, 0]
    assert Histogram(np.array([1, 0, 0]), 0.0, 3.0).rescaled(0.0, 1.0).counts.tolist() == [0, 0, 0]


def test_counting() -> None:
    found = counted([0.0, 0.9, 1.0, 3.9, 4.0], bins=4)
    assert found.counts.tolist() == [2, 1, 0, 2]  # the last bin has its upper end
    assert counted([2.0, 2.0], bins=4).counts.tolist() == [2, 0, 0, 0]
    grown = counted([2.0, 2.0], [0.0, 4.0], bins=4)
    assert (grown.counts.tolist(), grown.low, grown.high) == ([1, 0, 2, 1], 0.0, 4.0)
    assert counted([], [1.0], bins=4).total == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_are_finite(bad: float) -> None:
    with pytest.raises(DataError, match="NaN or infinity"):
        counted([1.0, bad])


@given(st.lists(VALUES, min_size=1, max_size=5))
def test_growing_loses_nothing(batches: list[list[float]]) -> None:
    found = counted(*batches)
    everything = np.array([v for batch in batches for v in batch], np.float32)
    assert found.total == everything.size
    assert (found.low, found.high) == (everything.min(), everything.max())


@given(VALUES, VALUES)
def test_a_stream_within_the_first_batch_may_be_cut_anywhere(first: list[float], second: list[float]) -> None:
    ends = [-1e3, 1e3]
    assert np.array_equal(counted(ends, first, second).counts, counted(ends + first + second).counts)


@given(VALUES, VALUES)
@example([1.0], [0.0, 1.1754943508222875e-38])
def test_merging_is_symmetric_and_complete(first: list[float], second: list[float]) -> None:
    a, b = counted(first), counted(second)
    found, other = a.merge(b), b.merge(a)
    assert found.total == a.total + b.total
    assert np.array_equal(found.counts, other.counts)
    assert (found.low, found.high) == (min(first + second), max(first + second))
    assert a.merge(Histogram.empty(16)) is a
    assert Histogram.empty(16).merge(a) is a


@given(VALUES, st.floats(0.1, 3), st.floats(0.1, 3))
def test_rescaling_follows_the_definition(values: list[float], below: float, above: float) -> None:
    """Bin by bin: a new bin takes round(overlap / width x count) of an old one, at most what is left of it."""
    histogram = counted([-1e3, *values, 1e3])
    low, high = -1e3 * below, 1e3 * above
    found = histogram.rescaled(low, high)
    expected = np.zeros(16, int)
    for start, count in zip(histogram.edges, histogram.counts.tolist(), strict=False):
        left = count
        for place, edge in enumerate(found.edges[:-1]):
            overlap = max(0.0, min(start + histogram.width, edge + found.width) - max(start, edge))
            taken = min(int(overlap / histogram.width * count + 0.5), left)
            expected[place] += taken
            left -= taken
    # A half may round either way after another order of the same divisions.
    assert np.abs(found.counts - expected).sum() <= 2
    assert found.total <= histogram.total
