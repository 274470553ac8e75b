"""The tools for kernels: integer forms, biases, exact types, grids that stay, tables and windows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from npukit.backend import Call, Value
from npukit.backend.kernels import (
    along_channels,
    centered,
    exact_dtype,
    integer_bias,
    integer_weight,
    move,
    remember,
    sliding_window,
    tabulate,
)
from npukit.encoding import Array, Encoding, dequantize, encoding_for_weights, quantize
from npukit.graph import Node

GRID = Encoding("uint8", 0.5, 100)
CODES = np.array([[0, 100, 255]], np.uint8)


def call(value: Value, out: Encoding | None) -> Call:
    return Call(Node("Op", "n", ("x",), ("y",)), (value,), (out,), {})


def test_centered_codes_times_the_scale_are_the_values() -> None:
    """Per tensor and per channel, with zero points, along any axis."""
    for encoding in (GRID, Encoding("uint8", [0.5, 0.25, 1.0], [1, 2, 250], axis=1)):
        found = centered(Value(CODES, encoding))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found * encoding.steps, dequantize(CODES, encoding))


def test_values_along_channels() -> None:
    """One per channel stands along axis 1, one for all has no axis."""
    assert along_channels(np.arange(3), 4).shape == (3, 1, 1)
    assert along_channels(np.ones(1), 4).shape == along_channels(np.array(1.0), 2).shape == ()


def test_an_integer_weight_is_the_weight() -> None:
    """Integers times one scale per output channel give the real weight; other channels have no such form, nor have blocks."""
    weight = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    for granularity, axis in (("tensor", None), ("channel", 0), ("lpbq", 1)):
        encoding = encoding_for_weights(weight, "int4", granularity=granularity, axis=axis, block_size=2 if axis else None)
        value = Value(quantize(weight, encoding), encoding)
        form = integer_weight(value, 0)
        assert form is not None
        assert np.array_equal(form.values, np.rint(form.values))
        np.testing.assert_allclose(form.values * form.scale.reshape(-1, 1), value.real(), rtol=1e-6)
    for granularity in ("channel", "block"):
        encoding = encoding_for_weights(weight, "int4", granularity=granularity, axis=1, block_size=2)
        assert integer_weight(Value(quantize(weight, encoding), encoding), 0) is None
    assert integer_weight(Value(weight), 0) is None


def test_a_bias_is_in_units_of_the_sum() -> None:
    """Codes of the right grid are taken as they are, other biases are rounded to it, none is none."""
    scale = np.array([0.5, 0.25], np.float32)
    codes = np.array([3, -7], np.int32)
    own = Value(codes, Encoding("int32", scale, axis=0))
    for bias in (own, Value(np.array([1.6, -1.8], np.float32))):
        np.testing.assert_array_equal(integer_bias(bias, scale), codes)
    assert integer_bias(None, scale) is None


def test_exact_types() -> None:
    """float32 up to 2**24, float64 up to 2**53, nothing above."""
    assert [exact_dtype(2**24), exact_dtype(2**24 + 1), exact_dtype(2**53)] == [np.float32, np.float64, np.float64]
    with pytest.raises(ValueError, match="exact in no float type"):
        exact_dtype(2.0**54)


def test_moving_keeps_codes_on_one_grid() -> None:
    """With the same grid behind it codes move, with another one real values do."""
    (same,) = move(call(Value(CODES, GRID), GRID), np.transpose)
    assert isinstance(same, Value)
    np.testing.assert_array_equal(same.data, CODES.T)
    (other,) = move(call(Value(CODES, GRID), Encoding("uint8", 1.0, 0)), np.transpose)
    np.testing.assert_array_equal(other, dequantize(CODES, GRID).T)


def test_a_table_is_the_rounded_function() -> None:
    """Codes are looked up, values without codes computed."""
    out = Encoding("uint8", 0.25, 0)
    (looked,) = tabulate(call(Value(CODES, GRID), out), np.abs)
    assert isinstance(looked, Value)
    np.testing.assert_array_equal(looked.data, quantize(np.abs(dequantize(CODES, GRID)), out))
    (real,) = tabulate(call(Value(np.array([-1.5], np.float32)), None), np.abs)
    assert real == np.float32([1.5])


def test_remember_makes_anew_for_another_array() -> None:
    """What was made is kept as long as its source is the same array."""
    made, first, second = [], Value(CODES), Value(CODES.copy())
    one = call(first, None)
    for source in (first, first, second):
        remember(one, "key", (source,), lambda source=source: made.append(source))  # type: ignore[misc]
    assert made == [first, second]


@pytest.mark.parametrize(
    "attributes", [{"pads": (1, 0, 2, 1)}, {"strides": (2, 3)}, {"dilations": (2, 1)}, {"auto_pad": "SAME_UPPER"}]
)
def test_windows_are_numpy_s(attributes: dict[str, object]) -> None:
    """Columns are the windows of numpy's sliding_window_view on the padded array."""
    x: Array = np.arange(2 * 3 * 7 * 8, dtype=np.float32).reshape(2, 3, 7, 8)
    window = sliding_window(Node("Conv", "c", ("x", "w"), ("y",), attributes), (7, 8), (3, 2))
    padded = np.pad(x, ((0, 0), (0, 0), *window.pads))
    (down, across), (high, wide) = window.dilations, window.strides
    view = sliding_window_view(padded, (2 * down + 1, across + 1), (2, 3))[:, :, ::high, ::wide, ::down, ::across]
    columns = window.columns(window.padded(x))
    np.testing.assert_array_equal(columns, view.reshape(2, 3, -1, 6).swapaxes(2, 3))
    assert columns.shape == (2, 3, 6, window.out[0] * window.out[1])
