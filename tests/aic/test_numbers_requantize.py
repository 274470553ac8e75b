"""From sums to codes: Glow's shifts and multipliers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from npukit.encoding import Array
from npukit.errors import EncodingError
from npukit_aic.glow.requantize import multiplier, scaled_by

FACTORS = st.floats(-29, 9).map(lambda power: 2.0**power)


def as_glow_says(m: float) -> tuple[int, int, int]:
    """(pre, post, mul) by doubling step by step."""
    if np.frexp(m)[0] == 0.5:
        return (0, 0, int(m)) if m >= 1 else (0, int(-np.log2(m)), 1)
    pre = post = 0
    while m < 0.5 or (m < 256 and post < 15):
        m, post = 2 * m, post + 1
    while m < 255 and pre < post // 2:
        m, pre = 2 * m, pre + 1
    return pre, post, int(m + 0.5)


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (0.000721, (4, 15, 378)),
        (0.0931, (0, 12, 381)),
        (0.412, (0, 10, 422)),
        (1.13, (0, 8, 289)),
        (1.596e-7, (9, 22, 343)),
        (4.0, (0, 0, 4)),
        (0.125, (0, 3, 1)),
    ],
)
def test_factors_become_shifts_and_a_multiplier(factor: float, expected: tuple[int, int, int]) -> None:
    found = multiplier(factor)
    assert (int(found.pre), int(found.post), int(found.mul)) == expected


@given(st.lists(FACTORS, min_size=1, max_size=8))
@example([127.7 * 2**-15, 127.5 * 2**-15])  # doubled once: to 255.4, and to 255 exactly
def test_channels_get_what_each_would_alone(factors: list[float]) -> None:
    found = multiplier(np.array(factors))
    assert [tuple(map(int, row)) for row in zip(found.pre, found.post, found.mul, strict=True)] == list(map(as_glow_says, factors))


@given(FACTORS, st.integers(0, 2**32 - 1))
@settings(max_examples=200)
def test_no_code_is_off_by_more_than_one(factor: float, seed: int) -> None:
    """All sums whose result is an int8 code, those next to ties among them; each one when there are not too many."""
    top = min(int(129 / factor) + 1, 2**31 - 1)
    dense = np.arange(-min(top, 1 << 15), min(top, 1 << 15) + 1)
    ties = np.rint((np.arange(-129, 129) + 0.5) / factor)
    ties = ties[np.abs(ties) <= top]
    anywhere = np.random.default_rng(seed).integers(-top, top + 1, 1 << 14)
    sums = np.concatenate([dense, anywhere, ties - 1, ties, ties + 1]).astype(np.int64)
    glow, plain = scaled_by(sums, multiplier(factor)), np.rint(sums * factor)
    assert np.abs(saturated(glow) - saturated(plain)).max() <= 1


def saturated(codes: Array) -> Array:
    return np.clip(codes, -128, 127)


def test_the_form_is_shift_multiply_round_shift() -> None:
    sums = np.array([-100000, -3, 0, 3, 99999], np.int32)
    by = multiplier(0.000721)
    assert scaled_by(sums, by).tolist() == [((x >> 4) * 378 + (1 << 14)) >> 15 for x in sums.tolist()]
    assert scaled_by(sums, multiplier(4.0)).tolist() == [4 * x for x in sums.tolist()]


def test_channels_broadcast_and_ties_go_up() -> None:
    sums = np.array([[[1000, -1000]], [[1000, -1000]]], np.float32)  # two channels, exact in float32
    assert scaled_by(sums, multiplier(np.array([0.1, 1.13]).reshape(2, 1, 1))).tolist() == [[[100, -100]], [[1129, -1129]]]
    assert scaled_by(np.array([1, 3, -1]), multiplier(0.5)).tolist() == [1, 2, 0]


@pytest.mark.parametrize("factor", [0.0, -1.0, np.nan, np.inf])
def test_a_factor_is_finite_and_positive(factor: float) -> None:
    with pytest.raises(EncodingError, match="finite and above 0"):
        multiplier(factor)


def test_a_tiny_factor_leaves_nothing() -> None:
    assert scaled_by(np.array([2**31 - 1, -(2**31)]), multiplier(1e-30)).tolist() == [0, 0]
