"""Grid arithmetic at every width and granularity: properties of each channel and block, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npukit.backend.ort import OrtModel
from npukit.encoding import (
    FLOAT_BITS,
    INT_BITS,
    Encoding,
    dequantize,
    encoding_for_range,
    encoding_for_weights,
    fake_quantize,
    quantize,
    spread,
)
from npukit.errors import EncodingError
from npukit.graph import Node, make_graph

tensors = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, max_side=7),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


@st.composite
def weights(draw: st.DrawFn) -> tuple[Any, Encoding]:
    """A tensor and an encoding made for it."""
    data = draw(tensors)
    granularity = draw(st.sampled_from(["tensor", "channel", "block", "lpbq"]))
    encoding = encoding_for_weights(
        data,
        draw(st.sampled_from(sorted(INT_BITS))),
        granularity=granularity,
        axis=draw(st.integers(-data.ndim, data.ndim - 1)),
        block_size=draw(st.integers(1, 8)),
        symmetric=granularity == "lpbq" or draw(st.booleans()),
    )
    return data, encoding


@given(weights())
@settings(max_examples=300)
def test_fake_quantization_is_idempotent(made: tuple[Any, Encoding]) -> None:
    """What is on the grid stays where it is, whatever the granularity."""
    data, encoding = made
    once = fake_quantize(data, encoding)
    assert once.dtype == np.float32
    assert once.shape == data.shape
    assert np.array_equal(fake_quantize(once, encoding), once)


@given(weights())
@settings(max_examples=300)
def test_weights_err_by_half_a_step(made: tuple[Any, Encoding]) -> None:
    """A min-max grid holds its own tensor: no value errs by more than half a step of its channel or block."""
    data, encoding = made
    if encoding.granularity == "lpbq":
        return  # block scales are rounded to 16 levels, see below
    step = np.broadcast_to(spread(encoding.steps, encoding, data.shape), data.shape).astype(np.float64)
    error = np.abs(fake_quantize(data, encoding).astype(np.float64) - data)
    # float32 quotients of 16-bit codes are off by up to 0.4 % of a step, real values are float32, and a scale rounded to float32
    # moves the ends of a 32-bit range by many steps.
    lost = 1e-6 * np.abs(data if encoding.bits < 32 else np.abs(data).max())
    assert np.all(error <= step / 2 * 1.01 + lost)


@given(tensors, st.sampled_from(["int2", "int4", "int8"]), st.integers(1, 8))
@settings(max_examples=150)
def test_lpbq_scales(data: Any, dtype: str, size: int) -> None:
    """LPBQ steps are 1 to 16 times one float per channel, the largest block gets 16, and none is off by more than half a unit."""
    wide = encoding_for_weights(data, dtype, granularity="block", axis=0, block_size=size)
    encoding = encoding_for_weights(data, dtype, granularity="lpbq", axis=0, block_size=size)
    factors = encoding.block_scale
    assert factors is not None
    assert np.all(factors.max(axis=0) == 16)
    assert factors.min() >= 1
    unit = wide.steps.max(axis=0, keepdims=True) / 16
    assert np.allclose(encoding.steps, unit * factors, rtol=1e-6)
    assert np.all(np.abs(encoding.steps - np.maximum(wide.steps, unit)) <= 0.5001 * unit)


@given(weights(), st.integers(0, 2**32 - 1))
@settings(max_examples=200)
def test_codes_survive_in_every_channel(made: tuple[Any, Encoding], seed: int) -> None:
    """Random codes of every channel and block come back from their real values (those float32 can tell apart)."""
    data, encoding = made
    codes = np.random.default_rng(seed).integers(encoding.qmin, encoding.qmax + 1, data.shape)
    back = quantize(dequantize(codes, encoding), encoding).astype(np.int64)
    # A real value is a float32: 24 bits of the distance from zero are kept.
    zeros = np.broadcast_to(spread(encoding.zeros, encoding, data.shape), data.shape)
    lost = np.abs(codes - zeros) >> 23
    assert np.all(np.abs(back - codes) <= lost)


@given(tensors, st.sampled_from(sorted(INT_BITS)), st.booleans(), st.integers(0, 3))
@settings(max_examples=100)
def test_channels_are_independent(data: Any, dtype: str, symmetric: bool, axis: int) -> None:
    """Each channel of a per-channel encoding is what a per-tensor encoding of its slice gives."""
    axis %= data.ndim
    whole = fake_quantize(data, encoding_for_weights(data, dtype, granularity="channel", axis=axis, symmetric=symmetric))
    for index in range(data.shape[axis]):
        part = np.take(data, index, axis)
        alone = fake_quantize(part, encoding_for_weights(part, dtype, symmetric=symmetric))
        assert np.array_equal(np.take(whole, index, axis), alone)


@given(tensors, st.sampled_from(["int4", "int8", "int16"]), st.integers(0, 3))
@settings(max_examples=100)
def test_one_block_over_the_axis_is_one_scale_per_line(data: Any, dtype: str, axis: int) -> None:
    """A block as long as the axis gives every line along it a scale of its own; blocks of one value keep every value."""
    axis %= data.ndim
    long = encoding_for_weights(data, dtype, granularity="block", axis=axis, block_size=data.shape[axis])
    assert long.steps.shape == tuple(1 if d == axis else n for d, n in enumerate(data.shape))
    single = encoding_for_weights(data, dtype, granularity="block", axis=axis, block_size=1)
    close = np.abs(fake_quantize(data, single) - data) <= np.maximum(1e-6 * np.abs(data), single.steps / 2)
    assert np.all(close)


@given(st.sampled_from(sorted(FLOAT_BITS)), hnp.arrays(np.float32, 20, elements=st.floats(-3e4, 3e4, width=32)))
def test_float_types_are_idempotent_monotone_and_odd(dtype: str, data: Any) -> None:
    """Narrowing to a float type keeps the order, zero and the sign, and a second time changes nothing."""
    ordered = np.sort(data)
    kept = fake_quantize(ordered, Encoding(dtype))
    assert kept.dtype == np.float32
    assert np.all(np.diff(kept) >= 0)
    assert np.array_equal(fake_quantize(kept, Encoding(dtype)), kept)
    assert np.array_equal(fake_quantize(-ordered, Encoding(dtype)), -kept)
    assert fake_quantize(np.zeros(1, np.float32), Encoding(dtype))[0] == 0


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("granularity", ["channel", "block"])
def test_equals_onnxruntime_per_channel(dtype: str, granularity: str) -> None:
    """Channels and blocks have the codes and real values of ONNX Runtime, bit for bit."""
    data = np.random.default_rng(1).normal(size=(6, 32)).astype(np.float32) * np.float32([[1], [9], [0.1], [3], [1e-3], [50]])
    encoding = encoding_for_weights(data, dtype, granularity=granularity, axis=0, block_size=2, symmetric=False)
    constants = {"s": encoding.steps, "z": encoding.zeros.astype(dtype)}
    form = {"axis": 0} | ({"block_size": 2} if granularity == "block" else {})
    nodes = [
        Node("QuantizeLinear", "q", ("x", "s", "z"), ("c",), form),
        Node("DequantizeLinear", "d", ("c", "s", "z"), ("y",), form),
    ]
    with OrtModel(make_graph(nodes, {"x": ("float32", data.shape)}, ["c", "y"], constants), optimize=False) as model:
        found = model.run({"x": data * 1.1})
    codes = quantize(data * np.float32(1.1), encoding)
    assert np.array_equal(codes, found["c"])
    assert np.array_equal(dequantize(codes, encoding), found["y"])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_not_numbers_equal_onnxruntime(dtype: str) -> None:
    """NaN gets the lowest code, infinities and overflowing quotients saturate, as in ONNX Runtime; nothing warns."""
    values = np.tile(np.float32([0, np.nan, np.inf, -np.inf, 3e38, -3e38, 1]), 9)
    encoding = Encoding(dtype, 1e-3, 3)
    nodes = [Node("QuantizeLinear", "q", ("x", "s", "z"), ("c",))]
    constants = {"s": encoding.steps, "z": encoding.zeros.astype(dtype)}
    with OrtModel(make_graph(nodes, {"x": ("float32", values.shape)}, ["c"], constants)) as model:
        expected = model.run({"x": values})["c"]
    assert np.array_equal(quantize(values, encoding), expected)
    assert quantize(np.float32(np.nan), encoding) == encoding.qmin


def test_two_bits() -> None:
    """2-bit grids have four codes, whole or shifted by half a step."""
    values = np.float32([-3, -1, -0.6, 0, 0.5, 1, 3])
    assert fake_quantize(values, Encoding("int2", 1.0)).tolist() == [-2, -1, -1, 0, 0, 1, 1]
    assert fake_quantize(values, Encoding("int2", 1.0, -0.5)).tolist() == [-1.5, -0.5, -0.5, -0.5, 0.5, 1.5, 1.5]
    assert fake_quantize(values, Encoding("uint2", 1.0, 1)).tolist() == [-1, -1, -1, 0, 0, 1, 2]


def test_one_scale_has_no_dimensions() -> None:
    """A per-tensor encoding is the same however its one scale is written."""
    plain = Encoding("uint8", 0.5, 3)
    for scale, zero in (([0.5], [3]), ([[0.5]], 3), (0.5, [[3]])):
        assert Encoding("uint8", scale, zero).same_grid(plain)
        assert Encoding("uint8", scale, zero).steps.shape == ()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Encoding("uint8", []), "found none"),
        (lambda: Encoding("uint8", [0.1, 0.2]), "2 scales need an axis"),
        (lambda: Encoding("uint8", "big"), "must be numbers"),
        (lambda: Encoding("uint8", [[1.0], [1.0, 2.0]], axis=0), "must be numbers"),
        (lambda: Encoding("uint8", 1e300), "finite and above 0, found inf"),
        (lambda: Encoding("uint8", np.nan), "finite"),
        (lambda: Encoding("uint8", 0.1, np.nan), "finite"),
        (lambda: Encoding("uint8", 0.1, np.inf), "finite"),
        (lambda: Encoding("uint8", 0.1, [1, 2]), "1 scales, but 2 zero points"),
        (lambda: Encoding("uint8", [0.1] * 3, [1, 2], axis=0), "3 scales, but 2 zero points"),
        (lambda: Encoding("int8", [[0.1]], axis=0, block_size=0), "at least 1"),
        (lambda: Encoding("int8", 0.1, block_size=4), "axis None"),
        (lambda: Encoding("int8", 0.1, axis=0.5), "axis and block size are integers"),
        (lambda: Encoding("int8", [[0.1]], axis=0, block_size=1, block_scale=[[0]]), "block scales"),
        (lambda: Encoding("int8", [[0.1]], axis=0, block_size=1, block_scale=[1, 2]), "block scales"),
        (lambda: encoding_for_range(-1, 1, "int7"), "int7"),
        (lambda: encoding_for_range(-1e300, 1e300, "uint8"), "finite"),
        (lambda: encoding_for_range(-np.inf, 1, "uint8"), "finite"),
        (lambda: encoding_for_range([-1, -2], [1, 2, 3], "uint8", axis=0), "as many lower as upper"),
        (lambda: encoding_for_range([-1, -2], [1, 2], "uint8"), "need an axis"),
        (lambda: encoding_for_range([], [], "uint8", axis=0), "at least one"),
        (lambda: encoding_for_weights(np.float32([1, np.nan]), "int8"), "finite"),
        (lambda: encoding_for_weights(np.ones((2, 3)), "int8", granularity="moon", axis=0), "'moon'"),
        (lambda: encoding_for_weights(np.ones((2, 3)), "int8", granularity="channel"), "needs an axis"),
        (lambda: encoding_for_weights(np.ones((2, 3)), "int8", granularity="channel", axis=2), "found 2"),
        (lambda: encoding_for_weights(np.ones(()), "int8", granularity="channel", axis=0), "found 0"),
        (lambda: encoding_for_weights(np.ones((2, 3)), "int8", granularity="block", axis=0), "block size"),
        (lambda: encoding_for_weights(np.ones((2, 3)), "int8", granularity="block", axis=0, block_size=0), "block size"),
        (
            lambda: encoding_for_weights(np.ones((2, 3)), "int8", granularity="lpbq", axis=0, block_size=2, symmetric=False),
            "symmetric",
        ),
        (lambda: quantize(np.ones((2, 2)), Encoding("int8", [0.1, 0.2], axis=5)), "axis 5"),
        (lambda: quantize(np.ones((2, 2)), Encoding("int8", [0.1, 0.2], axis=-3)), "axis -3"),
        (lambda: quantize(np.float32(1), Encoding("int8", [0.1], axis=0)), r"shape \[\]"),
        (lambda: quantize(np.ones((5, 2)), Encoding("int8", [[0.1], [0.2]], axis=0, block_size=2)), "blocks of shape"),
        (lambda: quantize(np.ones((4, 2)), Encoding("int8", [0.1, 0.2], axis=0, block_size=2)), "blocks of shape"),
        (lambda: quantize(np.ones(2), Encoding("float16")), "no scale"),
        (lambda: dequantize(np.ones(2), Encoding("float16")), "no zero point"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, words: str) -> None:
    """Every impossible scale, zero point, axis, block or range is one EncodingError, never another exception or a warning."""
    with pytest.raises(EncodingError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
