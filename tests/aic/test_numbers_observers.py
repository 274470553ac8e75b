"""The compiler's calibrations: what range each one chooses, and their way through profiles and quantize."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import npukit as nk
from npukit.calibration import MIN_MAX, Observer, Range, Seen
from npukit.encoding import Array
from npukit.errors import DataError, UsageError
from npukit.graph import Graph, Node, make_graph
from npukit_aic.glow.histogram import Histogram
from npukit_aic.glow.params import SCHEMAS, choose, dequantise, quantise
from npukit_aic.observers import CALIBRATIONS, least_error_range, memory_name, observer, observers, percentile_range, to_memory

VALUES = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60)


def seen(values: Array, bins: int = 512) -> Seen:
    histogram = Histogram.empty(bins).add(values)
    return Seen(float(values.min()), float(values.max()), values.size, None, {memory_name(bins): to_memory(histogram)})


@cache
def spiky() -> Array:
    """A Gaussian of a million values and five outliers."""
    values = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
    values[:5] = (-9, 12, 11, 10, 8)
    return values


@given(VALUES, st.sampled_from([2, 10, 512]))
def test_all_percent_are_all_values(values: list[float], bins: int) -> None:
    given = seen(np.array(values, np.float32), bins)
    assert observer("Percentile", bins=bins).range(given, "int8", 100) == MIN_MAX.range(given, "int8")


def test_all_percent_do_not_ask_the_histogram() -> None:
    """In files of others the outermost bins may be empty."""
    assert percentile_range(Histogram(np.array([0, 3, 0]), -1.0, 2.0), "asymmetric", "int8", 100) == (-1, 2)


def test_a_percentile_cuts_each_side_that_has_values() -> None:
    """4,000 values evenly between -1 and 3, in bins of a hundredth: 1 % of all of them is 40, the outer 0.04 of each side."""
    even = np.linspace(-1, 3, 4000, dtype=np.float32)
    found = observer("Percentile", bins=400).range(seen(even, 400), "int8", 99)
    assert (found.low, found.high) == pytest.approx((-0.96, 2.96), abs=0.002)
    found = observer("Percentile", bins=400).range(seen(even + 1, 400), "int8", 99)  # nothing below 0
    assert (found.low, found.high) == pytest.approx((0, 3.96), abs=0.002)
    found = observer("Percentile", bins=400).range(seen(even - 3, 400), "int8", 99)  # nothing above 0
    assert (found.low, found.high) == pytest.approx((-3.96, 0), abs=0.002)
    with pytest.raises(UsageError, match=r"90\.\.100, found 89"):
        observer("Percentile").range(seen(even), "int8", 89)


def test_fewer_negative_values_than_are_cut_leave_a_range_from_0() -> None:
    values = np.concatenate([np.linspace(0, 1, 9999), [-5]]).astype(np.float32)
    assert observer("Percentile").range(seen(values), "int8", 99.9).low > -0.02  # the bin that 0 is in


def error(histogram: Histogram, low: float, high: float, schema: str) -> float:
    """The squared error on the grid for [low, high] of values that lie evenly in their bins, 25 in each."""
    params = choose(low, high, schema)
    values = histogram.edges[:-1, None] + histogram.width * (np.arange(25) + 0.5) / 25
    errors = (dequantise(quantise(values, params), params) - values) ** 2
    return float(errors.mean(axis=1) @ histogram.counts)


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("one_sided", [False, True])
def test_the_least_error_is_least(schema: str, one_sided: bool) -> None:
    values = np.abs(spiky()) if one_sided else spiky()
    histogram = Histogram.empty().add(values)
    low, high = least_error_range(histogram, schema, "int8")
    best = error(histogram, low, high, schema)
    assert best < 0.8 * error(histogram, min(histogram.low, 0), histogram.high, schema)
    others = [(min(histogram.low, 0) * share, histogram.high * share) for share in np.arange(512, 0, -8) / 512]
    assert best <= min(error(histogram, a, b, schema) for a, b in others) * 1.01
    if schema == "asymmetric" and not one_sided:  # the ends move apart: the upper outliers are kept longer
        assert abs(low / histogram.low - high / histogram.high) > 1 / 512


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("schema", SCHEMAS)
def test_all_clip_outliers_and_nothing_else(calibration: str, schema: str) -> None:
    values = spiky()
    found = observer(calibration, schema).range(seen(values), "int8", 99.99)
    if calibration == "None":
        assert found == Range(-9, 12)
        return
    step = float(choose(found.low, found.high, schema).scale)
    assert found.low < -2.5
    assert found.high > 2.5
    assert step < 0.75 * float(choose(-9, 12, schema).scale)
    # Values of one size have no outliers.
    assert observer(calibration, schema).range(seen(np.full(9, 2.5, np.float32)), "int8") == Range(2.5, 2.5)


def test_the_schema_decides_what_a_range_is_judged_by() -> None:
    """The rare negative values cost a symmetric grid nothing, an asymmetric one some of its codes."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.uniform(0, 1, 1_000_000), rng.uniform(-0.9, 0, 2)]).astype(np.float32)
    ends = {schema: observer("MSE", schema).range(seen(values), "int8").low for schema in ("asymmetric", "symmetric")}
    assert ends["symmetric"] < 0.99 * values.min() < -0.4
    assert ends["asymmetric"] > -0.1


def test_what_the_compiler_asks_for_exists() -> None:
    assert observer("None") is MIN_MAX
    with pytest.raises(UsageError, match="did you mean 'KLMinimization'"):
        observer("KLMinimisation")
    with pytest.raises(UsageError, match="needs 255 histogram bins or more, found 254"):
        observer("KLMinimizationV2", bins=254)
    assert observer("KLMinimization", bins=255).name == "KLMinimization"


# --------------------------------------------------------------------------------------------------------- profile, quantize


def graph() -> Graph:
    """x (1, 64) times a weight, with a Relu."""
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    nodes = [Node("MatMul", "product", ("x", "w"), ("h",), {}), Node("Relu", "clamp", ("h",), ("y",), {})]
    return make_graph(nodes, {"x": ("float32", (1, 64))}, ["y"], {"w": weight})


def samples(count: int = 24) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    data = [{"x": rng.standard_normal((1, 64)).astype(np.float32)} for _ in range(count)]
    data[3]["x"][0, 0] = 40  # an outlier that all but None cut
    return data


@pytest.mark.parametrize("one", observers(), ids=lambda one: one.name)
def test_quantize_by_name_and_by_object(one: Observer) -> None:
    """The registered method, the object, and both from a profile give one result; the manifest names the method."""
    seen = nk.profile(graph(), "cpu", data=samples())
    made = [
        nk.quantize(graph(), "cpu", data=data, options=nk.Options(calibration=method))
        for data in (samples(), seen)
        for method in (one.name, one)
    ]
    for other in made:
        assert other.package.manifest.options["calibration"] == one.name
        assert other.encodings["x"].same_grid(made[0].encodings["x"])
    plain = nk.quantize(graph(), "cpu", data=samples())
    assert made[0].encodings["x"].steps < plain.encodings["x"].steps


def test_all_methods_share_one_memory() -> None:
    found = nk.profile(graph(), "cpu", data=samples()).tensors["x"]
    assert [name for name in found.memory if name.startswith("glow")] == ["glow-512"]
    assert found.memory["glow-512"]["counts"].sum() == found.count


def test_profiles_are_saved_loaded_and_merged(tmp_path: Path) -> None:
    data = samples()
    first, second = (nk.profile(graph(), "cpu", data=part) for part in (data[:12], data[12:]))
    first.save(tmp_path / "p.npz")
    merged = nk.Profile.load(tmp_path / "p.npz").merge(second)
    memory = merged.tensors["x"].memory["glow-512"]
    assert memory["counts"].sum() == merged.tensors["x"].count
    assert memory["ends"].tolist() == [merged.tensors["x"].low, merged.tensors["x"].high]


@pytest.mark.parametrize(("count", "ends"), [(-1, (0.0, 1.0)), (1, (1.0, 0.0)), (1, (0.0, np.inf)), (1, (np.nan, 1.0))])
def test_a_histogram_that_no_data_gives(count: int, ends: tuple[float, float]) -> None:
    memory = {memory_name(): {"counts": np.full(512, count), "ends": np.array(ends)}}
    with pytest.raises(DataError, match="the profile is damaged"):
        nk.Profile({"x": Seen(0.0, 1.0, 512, None, memory)}, 1).range("x", observer("MSE"), "int8")


def test_a_profile_without_the_histogram_says_so() -> None:
    seen = nk.profile(graph(), "cpu", data=samples())
    with pytest.raises(DataError, match="made without calibration method 'KLMinimization'"):
        nk.quantize(graph(), "cpu", data=seen, options=nk.Options(calibration=observer("KLMinimization", bins=1024)))
