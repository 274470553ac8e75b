"""Schemes: ranges, weights and biases become the grids that a chip has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npukit.backend import Scheme
from npukit.encoding import Encoding, encoding_for_range, encoding_for_weights, quantize
from npukit.errors import EncodingError
from npukit.graph import Tensor

RANGES = st.tuples(st.floats(-1e4, 0, width=32), st.floats(0.125, 1e4, width=32))


@given(RANGES, st.sampled_from(["uint8", "int8", "uint16", "int16", "int4"]))
def test_the_default_is_the_arithmetic_of_old(span: tuple[float, float], dtype: str) -> None:
    """Without choices activations are asymmetric, signed weights symmetric, unsigned ones asymmetric."""
    scheme = Scheme()
    assert scheme.activation(*span, dtype).same_grid(encoding_for_range(*span, dtype))
    data = np.linspace(*span, 12).reshape(3, 4).astype(np.float32)
    expected = encoding_for_weights(data, dtype, granularity="channel", axis=0, symmetric=not dtype.startswith("u"))
    assert scheme.weight(data, dtype, granularity="channel", axis=0).same_grid(expected)


@pytest.mark.parametrize(
    ("schema", "low", "high", "dtype", "zero", "scale"),
    [
        ("symmetric", -2.0, 5.0, "int8", 0, 5 / 127),
        ("symmetric", 0.0, 6.0, "uint8", 128, 6 / 127),
        ("unsigned-symmetric", 0.0, 6.0, "uint8", 0, 6 / 255),
        ("unsigned-symmetric", -2.0, 5.0, "int8", 0, 5 / 127),
        ("symmetric-with-uint8", 0.0, 6.0, "int8", -128, 6 / 255),
        ("symmetric-with-uint8", -2.0, 5.0, "int8", 0, 5 / 127),
    ],
)
def test_schemas(schema: str, low: float, high: float, dtype: str, zero: int, scale: float) -> None:
    """Each schema by hand; the schemas with a choice take it by the sign of the range, whatever type was planned."""
    planned = "uint8" if schema == "symmetric" and dtype == "uint8" else "int8"
    found = Scheme(activations=schema).activation(low, high, planned)
    assert (found.dtype, int(found.zeros)) == (dtype, zero)
    assert float(found.steps) == pytest.approx(scale)


def test_unknown_schemas_are_refused() -> None:
    """A schema that does not exist is named, with those that do."""
    with pytest.raises(EncodingError, match="no schema 'symetric'"):
        Scheme(activations="symetric")


@given(RANGES, st.sampled_from(["asymmetric", "symmetric"]))
def test_powers_of_two(span: tuple[float, float], schema: str) -> None:
    """Scales are powers of two, at least as large as without and less than twice, so the range stays covered."""
    plain, found = (Scheme(activations=schema, power_of_two=p).activation(*span, "int8") for p in (False, True))
    mantissa, _ = np.frexp(float(found.steps))
    assert mantissa == 0.5
    assert float(found.steps) / float(plain.steps) * (1 + 1e-6) >= 1
    assert float(found.steps) < 2 * float(plain.steps)
    assert float(found.min) - float(found.steps) <= span[0]
    assert span[1] <= float(found.max) + float(found.steps)


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=20))
def test_limited_codes(values: list[float]) -> None:
    """With limits no weight gets a code outside of them: restricted steps of 8 and 16 bits."""
    data = np.array(values, np.float32)
    for dtype, limits in (("int8", (-127, 127)), ("int16", (-0x8000, 0x7F7F))):
        scheme = Scheme(limits={dtype: limits})
        codes = quantize(data, scheme.weight(data, dtype))
        assert limits[0] <= codes.min()
        assert codes.max() <= limits[1]


def test_minimum_width() -> None:
    """A range of nothing gets the least width of the chip."""
    assert float(Scheme(min_range=25.5).activation(0, 0, "uint8").steps) == pytest.approx(0.1)


def test_bias() -> None:
    """int32 biases take the product of scales, int8 ones a grid of their own range; behind float there is none."""
    x, w = Encoding("uint8", 0.5, 3), Encoding("int8", [0.25, 0.125], axis=0)
    bias = Tensor.constant("b", np.array([1.0, -12.7], np.float32))
    wide = Scheme().bias(x, w, bias)
    assert wide is not None
    np.testing.assert_array_equal(wide.steps, [0.125, 0.0625])
    narrow = Scheme().bias(x, w, bias, "int8")
    assert narrow is not None
    assert (narrow.dtype, float(narrow.steps)) == ("int8", pytest.approx(0.1))
    assert Scheme().bias(Encoding("float16"), w, bias) is None


def test_room_for_the_bias_stays_a_power_of_two() -> None:
    """A weight scale that grows for the bias is still one that the chip has."""
    x = Encoding("uint16", 1e-6)
    bias = Tensor.constant("b", np.array([3000.0], np.float32))
    w = Encoding("int8", 2.0**-20, symmetric=True)
    found = Scheme(power_of_two=True).with_room_for_bias(x, w, bias)
    assert float(found.steps) > float(w.steps)
    assert np.frexp(float(found.steps))[0] == 0.5
