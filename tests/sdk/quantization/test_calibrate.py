"""Observers remember enough in fixed memory, and choose sensible ranges."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npukit.calibration import Range, calibrate
from npukit.calibration.histogram import Histogram
from npukit.calibration.observers import METHODS, observer
from npukit.encoding import encoding_for_range, fake_quantize
from npukit.errors import DataError, UsageError
from npukit.graph import Node, make_graph

GRAPH = make_graph([Node("Mul", "m", ("x", "two"), ("y",))], {"x": ("float32", ("n", 1000))}, ["y"], {"two": np.float32(2)})


def seen(method: str, values: Any, dtype: str = "uint8", percentile: float = 99.99) -> Range:
    watcher = observer(method, dtype, percentile)
    watcher.update(np.asarray(values, np.float32))
    return watcher.range()


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
)
@settings(max_examples=200, deadline=None)
def test_histogram_does_not_depend_on_the_split(values: list[float], cuts: list[int]) -> None:
    """The counts are the same however the stream is cut, and none is lost."""
    data = np.array(values, np.float32)
    whole, parts = Histogram(), Histogram()
    whole.add(data, float(np.max(np.abs(data))))
    for part in np.split(data, sorted(min(c, len(values)) for c in cuts)):
        if part.size:
            parts.add(part, float(np.max(np.abs(part))))
    assert whole.positive.sum() + whole.negative.sum() == len(values)
    if np.any(data):
        assert whole.bound == parts.bound
        assert np.array_equal(whole.linear(), parts.linear())


@pytest.mark.parametrize("method", METHODS)
def test_ranges_stay_inside(method: str) -> None:
    """No method invents values that were not there; zeros give an empty range."""
    values = np.random.default_rng(0).normal(1, 2, 50000)
    found = seen(method, values)
    assert np.float32(values.min()) <= found.low < found.high <= np.float32(values.max())
    assert seen(method, np.zeros(10)) == Range(0.0, 0.0)


def test_min_max_is_exact() -> None:
    """Min-max keeps the extremes over all updates."""
    watcher = observer("min-max", "uint8")
    for part in ([1.5, -2.25], [7.0], [-1.0]):
        watcher.update(np.array(part, np.float32))
    assert watcher.range() == Range(-2.25, 7.0)


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_percentile_equals_numpy(percentile: float) -> None:
    """The percentile is that of the sorted values, to 1 %."""
    values = np.random.default_rng(0).standard_t(3, 100000).astype(np.float32)
    found = seen("percentile", values, percentile=percentile)
    assert found.high == pytest.approx(float(np.percentile(values, percentile)), rel=1e-2)
    assert found.low == pytest.approx(float(np.percentile(values, 100 - percentile)), rel=1e-2)


@pytest.mark.parametrize("dtype", ["uint4", "uint8"])
def test_mse_beats_all_shrunken_ranges(dtype: str) -> None:
    """The mse range has about the least error of all ranges that shrink min-max, by brute force."""
    values = np.random.default_rng(0).laplace(0.3, 1, 100000).astype(np.float32)

    def error(low: float, high: float) -> float:
        return float(np.mean((fake_quantize(values, encoding_for_range(low, high, dtype)) - values) ** 2))

    found = seen("mse", values, dtype)
    full = seen("min-max", values)
    best = min(error(full.low * a, full.high * b) for a in np.linspace(0.05, 1, 20) for b in np.linspace(0.05, 1, 20))
    assert error(found.low, found.high) <= 1.05 * best
    assert error(found.low, found.high) < 0.95 * error(full.low, full.high)


def test_sqnr_clips_less_than_mse() -> None:
    """sqnr weighs saturation more, so its range is at least as wide."""
    values = np.random.default_rng(0).laplace(0, 1, 100000)
    assert seen("sqnr", values, "uint4").high >= seen("mse", values, "uint4").high


def test_entropy_cuts_outliers_only() -> None:
    """The KL threshold drops a far outlier, and keeps a uniform distribution whole."""
    values = np.random.default_rng(0).normal(0, 1, 100000)
    assert seen("entropy", np.append(values, 100)).high < 20
    assert seen("entropy", np.random.default_rng(0).uniform(-1, 1, 100000)).high > 0.95


def test_unknown_method_and_percentile() -> None:
    """Unknown names and impossible percentiles are refused."""
    with pytest.raises(UsageError, match="did you mean 'entropy'"):
        observer("entropi", "uint8")
    with pytest.raises(UsageError, match=r"90\.\.100"):
        observer("percentile", "uint8", 12)


def batches(count: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {"x": rng.normal(size=(200, 1000)).astype(np.float32)}


def test_calibrate() -> None:
    """The float model runs on every batch; events count them."""
    events: list[Any] = []
    found = calibrate(GRAPH, list(batches(3)), {"x": "uint8", "y": "uint8"}, on_event=events.append)
    assert found["y"].high == 2 * found["x"].high
    assert [(e.done, e.total) for e in events] == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(DataError, match="empty"):
        calibrate(GRAPH, [], {"x": "uint8"})


@pytest.mark.parametrize("method", METHODS)
def test_memory_is_flat(method: str) -> None:
    """Ten times the batches take no more memory."""
    peaks = []
    calibrate(GRAPH, batches(1), {"x": "uint8", "y": "uint8"}, method=method)  # imports and caches
    for count in (4, 40):
        tracemalloc.start()
        calibrate(GRAPH, batches(count), {"x": "uint8", "y": "uint8"}, method=method)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_infinite_activation_is_named() -> None:
    """A tensor that overflows inside the model is named, with the sample."""
    good, bad = np.ones((1, 1000), np.float32), np.full((1, 1000), 3e38, np.float32)
    with pytest.raises(DataError, match=r"'y'.*sample 1"):
        calibrate(GRAPH, [{"x": good}, {"x": bad}], {"y": "uint8"})
