"""Glow's parameters and its int8 arithmetic, with the figures of Glow's own unit tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npukit.errors import EncodingError, UsageError
from npukit_aic.glow.params import LIMITS, SCHEMAS, Params, choose, dequantise, is_symmetric, quantise

# Glow takes any range whose ends add up to less than 1.2e-7 for a symmetric one, so tiny ends prove nothing.
ENDS = st.just(0.0) | st.floats(1e-4, 1e6) | st.floats(-1e6, -1e-4)


@pytest.mark.parametrize(
    ("schema", "dtype", "low", "high", "scale", "offset"),
    [
        ("asymmetric", "int8", 0, 6, 6 / 255, -128),
        ("asymmetric", "int8", -3, 3, 6 / 255, 0),
        ("asymmetric", "int8", -2, 5, 7 / 255, -55),
        ("asymmetric", "int8", 2, 5, 5 / 255, -128),
        ("asymmetric", "int8", -8, -2, 8 / 255, 127),
        ("symmetric", "int8", 0, 6, 0.047244, 0),
        ("symmetric", "int8", -2, 5, 0.039370, 0),
        ("symmetric", "int8", -8, -2, 0.0625, 0),
        ("asymmetric", "int16", 0, 6, 6 / 65535, -32768),
        ("asymmetric", "int16", -2, 5, 7 / 65535, round(2 * 65535 / 7 - 32768)),
        ("symmetric_with_uint8", "int8", 0, 6, 6 / 255, -128),
        ("symmetric_with_uint8", "int8", -2, 5, 0.039370, 0),
        ("symmetric_with_uint8", "int8", 0, 0, 0.1, 0),
        ("symmetric_with_uint8", "int8", 2, 5, 5 / 255, -128),
        ("symmetric_with_power2_scale", "int8", -3, 6, 2**-4, 0),
        ("symmetric_with_power2_scale", "int16", 3, 6, 2**-12, 0),
        ("symmetric_with_power2_scale", "int32", -6, 0, 2**-26, 0),
    ],
)
def test_parameters_are_those_of_glow(schema: str, dtype: str, low: float, high: float, scale: float, offset: int) -> None:
    found = choose(low, high, schema, dtype)
    assert float(found.scale) == pytest.approx(scale, rel=2e-5 if schema.startswith("symmetric") else 1e-7)
    assert int(found.offset) == offset


def test_zero_away_from_the_ends_rounds_half_away_from_it() -> None:
    assert int(choose(-127.5, 127.5, "asymmetric").offset) == 0  # as wide below as above
    assert int(choose(-126.5, 128.5, "asymmetric").offset) == -2  # -1.5, scale 1
    assert int(choose(-128.5, 126.5, "asymmetric").offset) == 1  # 0.5


@given(st.lists(st.tuples(ENDS, ENDS), min_size=1, max_size=8), st.sampled_from(SCHEMAS), st.sampled_from(sorted(LIMITS)))
def test_any_range_gets_a_grid_that_holds_it(pairs: list[tuple[float, float]], schema: str, dtype: str) -> None:
    low, high = np.sort(np.array(pairs), axis=1).T
    found = choose(low, high, schema, dtype)
    qmin, qmax = LIMITS[dtype]
    assert found.scale.dtype == np.float32
    assert np.all((found.offset >= qmin) & (found.offset <= qmax))
    symmetric = np.array([is_symmetric(schema, one) for one in low])
    assert not found.offset[symmetric].any()
    if schema == "symmetric_with_power2_scale":
        assert np.all(np.frexp(found.scale)[0] == 0.5)
    scale = found.scale.astype(np.float64)
    room = 0.51 * scale + 1e-6 * np.maximum(np.abs(low), np.abs(high))  # the offset is rounded, the scale is float32
    assert np.all(scale * (qmin - found.offset) <= np.minimum(low, 0) + room)
    assert np.all(scale * (qmax - found.offset) >= np.maximum(high, 0) - room)
    # Channels do not look at one another.
    for index, (one_low, one_high) in enumerate(zip(low, high, strict=True)):
        alone = choose(one_low, one_high, schema, dtype)
        assert (float(alone.scale), int(alone.offset)) == (float(found.scale[index]), int(found.offset[index]))


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1), st.floats(0.001953125, 10, width=32), st.integers(-128, 127))
def test_the_error_is_half_a_step_or_saturation(values: list[float], scale: float, offset: int) -> None:
    params = Params(np.float32(scale), np.int64(offset))
    x = np.array(values, np.float32)
    codes = quantise(x, params)
    assert codes.dtype == np.int8
    ends = scale * (np.array([-128, 127]) - offset)
    nearest = np.clip(x, *ends)
    assert np.all(np.abs(dequantise(codes, params) - nearest) <= scale * 0.5 * (1 + 1e-4) + np.abs(x) * 1e-6)


def test_ties_go_to_even_after_the_offset() -> None:
    half = np.array([0.5, 1.5, -0.5], np.float32)
    assert quantise(half, choose(-128, 127, "symmetric")).tolist() == [0, 2, 0]
    assert quantise(half, Params(np.float32(1), np.int64(1))).tolist() == [2, 2, 0]
    assert quantise(np.array([np.inf, -np.inf, 1e38], np.float32), choose(0, 1e-3, "asymmetric")).tolist() == [127, -128, 127]


def test_int32_leaves_room_for_sums() -> None:
    params = choose(-1, 1, "symmetric", "int32")
    assert float(params.scale) == pytest.approx(1 / ((1 << 29) - 1))
    assert quantise(np.array([-5.0, 5.0], np.float32), params, "int32").tolist() == [-(1 << 29), (1 << 29) - 1]


def test_what_makes_no_grid_is_refused() -> None:
    with pytest.raises(UsageError, match=r"schema 'symetric' is not known \(did you mean 'symmetric'\?\)"):
        choose(0, 1, "symetric")
    with pytest.raises(UsageError, match="type 'uint8' has no Glow grid"):
        choose(0, 1, "symmetric", "uint8")
    for low, high in [(1, 0), (0, np.inf), (np.nan, 1)]:
        with pytest.raises(EncodingError, match="finite and ordered"):
            choose(low, high, "asymmetric")
