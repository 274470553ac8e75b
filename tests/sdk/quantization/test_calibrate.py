"""Observers remember enough in fixed memory, and choose sensible ranges."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npukit.calibration import OBSERVERS, Observer, Profile, Range, Seen, find_observer, observe, open_data
from npukit.calibration.histogram import Histogram
from npukit.calibration.observers import chosen
from npukit.calibration.profile import Watch
from npukit.encoding import encoding_for_range, fake_quantize
from npukit.errors import DataError, UsageError
from npukit.graph import Node, make_graph
from npukit.quantization import Options, quantize

GRAPH = make_graph([Node("Mul", "m", ("x", "two"), ("y",))], {"x": ("float32", ("n", 1000))}, ["y"], {"two": np.float32(2)})


METHODS = tuple(observer.name for observer in OBSERVERS)


def seen(method: str, values: Any, dtype: str = "uint8", percentile: float = 99.99) -> Range:
    watch = Watch()
    watch.see(np.asarray(values, np.float32))
    return chosen(find_observer(method), watch.seen(), dtype, percentile)


def calibrate(data: Any, tensors: dict[str, str], method: str = "min-max", **how: Any) -> dict[str, Range]:
    """One pass for one method, and the ranges of all tensors."""
    observer = find_observer(method)
    found = observe(GRAPH, data, tensors, (observer,), **how)
    return {name: found.range(name, observer, dtype) for name, dtype in tensors.items()}


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
)
@settings(max_examples=200)
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
    watch = Watch()
    for part in ([1.5, -2.25], [7.0], [-1.0]):
        watch.see(np.array(part, np.float32))
    assert watch.seen().full == Range(-2.25, 7.0)


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
        find_observer("entropi")
    with pytest.raises(UsageError, match=r"90\.\.100"):
        seen("percentile", [1.0, 2.0], percentile=12)


def batches(count: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {"x": rng.normal(size=(200, 1000)).astype(np.float32)}


def test_calibrate() -> None:
    """The float model runs on every batch; events count them."""
    events: list[Any] = []
    found = calibrate(list(batches(3)), {"x": "uint8", "y": "uint8"}, on_event=events.append)
    assert found["y"].high == 2 * found["x"].high
    assert [(e.done, e.total) for e in events] == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(DataError, match="empty"):
        calibrate([], {"x": "uint8"})


@pytest.mark.parametrize("method", METHODS)
def test_memory_is_flat(method: str) -> None:
    """Ten times the batches take no more memory."""
    peaks = []
    calibrate(batches(1), {"x": "uint8", "y": "uint8"}, method=method)  # imports and caches
    for count in (4, 40):
        tracemalloc.start()
        calibrate(batches(count), {"x": "uint8", "y": "uint8"}, method=method)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_infinite_activation_is_named() -> None:
    """A tensor that overflows inside the model is named, with the sample."""
    good, bad = np.ones((1, 1000), np.float32), np.full((1, 1000), 3e38, np.float32)
    with pytest.raises(DataError, match=r"'y'.*sample 1"):
        calibrate([{"x": good}, {"x": bad}], {"y": "uint8"})


def test_one_profile_serves_every_method(tmp_path: Path) -> None:
    """A profile that was saved and read again gives each method the range that a pass of its own gives."""
    data = list(batches(3))
    observe(GRAPH, data, ["x", "y"]).save(tmp_path / "p.npz")
    found = Profile.load(tmp_path / "p.npz")
    assert found.samples == 3
    for observer in OBSERVERS:
        alone = calibrate(data, {"x": "uint8", "y": "uint4"}, observer.name)
        assert found.range("x", observer, "uint8") == alone["x"]
        assert found.range("y", observer, "uint4") == alone["y"]


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_merged_profiles_are_those_of_all_data(cut: int, tmp_path: Path) -> None:
    """Two halves of the data, the second on another scale, merge to the profile of the whole; different tensors are refused."""
    data = [{"x": feeds["x"] * 10.0**-index} for index, feeds in enumerate(batches(3))]
    first, rest = data[: cut + 1], data[cut + 1 :]
    whole = observe(GRAPH, data, ["x", "y"])
    merged = observe(GRAPH, first, ["x", "y"])
    if rest:
        merged = merged.merge(observe(GRAPH, rest, ["x", "y"]))
    assert merged.samples == whole.samples
    for observer in OBSERVERS:
        assert merged.range("y", observer, "uint8") == whole.range("y", observer, "uint8")
    with pytest.raises(DataError, match="'y'"):
        whole.merge(observe(GRAPH, data, ["x"]))


def test_damaged_profiles(tmp_path: Path) -> None:
    """A file that is no profile, cut short, of another version or with broken counts is refused in one line."""
    path = tmp_path / "p.npz"
    observe(GRAPH, batches(1), ["x"]).save(path)
    content = path.read_bytes()
    for broken in (b"", b"text", content[: len(content) // 2]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="is not a profile"):
            Profile.load(path)
    np.savez(path, x=np.zeros(3))
    with pytest.raises(DataError, match="is not a profile"):
        Profile.load(path)
    with pytest.raises(UsageError, match="cannot read"):
        Profile.load(tmp_path / "absent.npz")


class Peak(Observer):
    """An observer that remembers more than the histogram: the largest magnitude of any batch's mean."""

    name = "peak"
    title = "the largest mean of a batch"
    needs_histogram = False

    def begin(self) -> dict[str, Any]:
        return {"peak": np.zeros(())}

    def see(self, memory: Any, values: Any) -> dict[str, Any]:
        return {"peak": np.maximum(memory["peak"], abs(float(values.mean())))}

    def merge(self, first: Any, second: Any) -> dict[str, Any]:
        return {"peak": np.maximum(first["peak"], second["peak"])}

    def range(self, seen: Seen, dtype: str, percentile: float = 99.99) -> Range:
        return Range(0.0, float(seen.memory["peak"]["peak"]))


def test_an_observer_with_a_memory_of_its_own(tmp_path: Path) -> None:
    """What an observer remembers is kept in the profile, on disk too, and merged its way."""
    data = [{"x": np.full((1, 1000), value, np.float32)} for value in (1.0, -3.0, 2.0)]
    (peak,) = (Peak(),)
    halves = [observe(GRAPH, part, ["y"], (peak,)) for part in (data[:1], data[1:])]
    merged = halves[0].merge(halves[1], (peak,))
    merged.save(tmp_path / "p.npz")
    # Cut to what was seen: the range is [-6, 4], the peak 6.
    assert Profile.load(tmp_path / "p.npz").range("y", peak, "uint8") == Range(0.0, 4.0)
    assert merged.tensors["y"].memory["peak"]["peak"] == 6
    with pytest.raises(UsageError, match="'peak' remembers"):
        halves[0].merge(halves[1])
    with pytest.raises(DataError, match="made without calibration method 'peak'"):
        observe(GRAPH, data, ["y"]).range("y", peak, "uint8")


@pytest.mark.parametrize("memory", [{"paek": np.zeros(())}, {"peak": np.zeros(2)}, {"peak": np.array("x")}])
def test_a_memory_of_another_form(memory: Any) -> None:
    """What a file says in the place of an observer's arrays never gets to the observer."""
    seen = Seen(0.0, 1.0, 3, None, {"peak": memory})
    profile = Profile({"y": seen}, 1)
    with pytest.raises(DataError, match="the profile is damaged: what method 'peak' keeps"):
        profile.range("y", Peak(), "uint8")
    with pytest.raises(DataError, match="the profile is damaged: what method 'peak' keeps"):
        profile.merge(profile, (Peak(),))


@pytest.mark.parametrize(
    ("shape", "words"), [((1 << 40,), "takes 8796093022208 bytes, found 16"), ((-2,), "-2"), ((1 << 62, 0, -1), "takes")]
)
def test_an_array_that_claims_more_than_it_has(shape: tuple[int, ...], words: str, tmp_path: Path) -> None:
    """The header of an array is not believed before there is room made for it, in profiles and in data."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "p.npz", "w") as archive:
        archive.writestr("profile.npy", header.getvalue() + bytes(16))
    with pytest.raises(DataError, match=words):
        Profile.load(tmp_path / "p.npz")
    with pytest.raises(DataError, match=words):
        open_data(tmp_path / "p.npz", GRAPH)


def test_observers_that_keep_the_same_share_it() -> None:
    """Arrays under one name are kept once, by the last of their observers, and read by all."""

    class Half(Peak):
        name = "half"

        @property
        def memory_name(self) -> str:
            return "peak"

        def range(self, seen: Seen, dtype: str, percentile: float = 99.99) -> Range:
            return Range(0.0, float(seen.memory["peak"]["peak"]) / 2)

    data = [{"x": np.full((1, 1000), value, np.float32)} for value in (1.0, 3.0)]
    found = observe(GRAPH, data, ["y"], (Half(), Peak()))
    assert list(found.tensors["y"].memory) == ["peak"]
    assert [found.range("y", one, "uint8").high for one in (Peak(), Half())] == [6, 3]
    assert found.merge(found, (Half(),)).tensors["y"].memory["peak"]["peak"] == 6


def test_options_take_an_observer() -> None:
    """An object in place of a name; the manifest keeps its name."""
    data = [{"x": np.full((1, 1000), value, np.float32)} for value in (-1.0, 3.0)]
    peak = Peak()
    made = quantize(GRAPH, "cpu", data=data, options=Options(calibration=peak))
    assert made.package.manifest.options["calibration"] == "peak"
    assert made.encodings["x"].same_grid(encoding_for_range(0, 3, "uint8"))
    assert find_observer(peak) is peak


def test_a_range_is_ordered_whatever_the_histogram_says() -> None:
    """Ends lie within what was seen, also where the middle of a bin does not, or a file contradicts itself."""
    for low, high in ((1.0, 1.0), (5.0, 6.0), (-6.0, -5.0)):
        watch = Watch(OBSERVERS)
        watch.see(np.ones(4, np.float32))
        seen = attrs.evolve(watch.seen(), low=low, high=high)
        for observer in OBSERVERS:
            found = chosen(observer, seen, "uint8")
            assert low <= found.low <= found.high <= high, (observer.name, found)
