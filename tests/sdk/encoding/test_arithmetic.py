"""Grid arithmetic: what must hold for every encoding, and equality with ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npukit.encoding import (
    INT_BITS,
    Encoding,
    dequantize,
    encoding_for_range,
    encoding_for_weights,
    fake_quantize,
    quantize,
)
from npukit.errors import EncodingError
from npukit.graph import Node, make_graph, serialize

SMALL = sorted(d for d, bits in INT_BITS.items() if bits <= 16)
ranges = st.tuples(st.floats(-1e4, 1e4, width=32), st.floats(0, 1e4, width=32)).map(lambda p: (p[0], p[0] + p[1]))
grids = st.builds(
    lambda r, dtype, symmetric: encoding_for_range(*r, dtype, symmetric=symmetric), ranges, st.sampled_from(SMALL), st.booleans()
)


def inside(encoding: Encoding, count: int = 101) -> Any:
    """Real values over the range of a per-tensor grid."""
    return np.linspace(float(encoding.min), float(encoding.max), count).astype(np.float32)


@given(grids)
@settings(max_examples=200)
def test_codes_survive(encoding: Encoding) -> None:
    """Dequantizing and quantizing gives the same code, for every code."""
    step = max(1, (encoding.qmax - encoding.qmin) // 999)
    codes = np.arange(encoding.qmin, encoding.qmax + 1, step)
    assert np.array_equal(quantize(dequantize(codes, encoding), encoding), codes)


@given(grids)
@settings(max_examples=200)
def test_idempotent_monotone_and_close(encoding: Encoding) -> None:
    """Fake quantization is idempotent and monotone, and errs by at most half a step inside the range."""
    values = inside(encoding)
    once = fake_quantize(values, encoding)
    assert np.array_equal(fake_quantize(once, encoding), once)
    assert np.all(np.diff(once) >= 0)
    # Half a step, plus what float32 loses in the quotient and the product.
    slack = 4e-7 * np.abs(values) + 1e-6 * float(encoding.steps) * (1 << encoding.bits)
    assert np.all(np.abs(once - values) <= 0.5 * float(encoding.steps) + slack)


@given(ranges, st.sampled_from(sorted(INT_BITS)), st.booleans())
@settings(max_examples=200)
def test_zero_is_exact(limits: tuple[float, float], dtype: str, symmetric: bool) -> None:
    """Zero stays zero on every grid made from a range, and the range is covered up to one step."""
    encoding = encoding_for_range(*limits, dtype, symmetric=symmetric)
    assert fake_quantize(np.zeros(1, np.float32), encoding)[0] == 0
    step = float(encoding.steps)
    assert float(encoding.min) <= min(limits[0], 0) * (1 - 1e-5) + step
    assert float(encoding.max) >= max(limits[1], 0) * (1 - 1e-5) - step


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_equals_onnxruntime(dtype: str) -> None:
    """Codes and real values are those of ONNX Runtime, bit for bit, ties and saturation included."""
    rng = np.random.default_rng(3)
    encoding = encoding_for_range(-1.7, 3.1, dtype)
    scale, zero = encoding.steps, encoding.zeros.astype(dtype)
    values = np.concatenate([rng.normal(0, 2, 5000), (np.arange(-600, 600) + 0.5) * float(scale)]).astype(np.float32)
    nodes = [Node("QuantizeLinear", "q", ("x", "s", "z"), ("c",)), Node("DequantizeLinear", "d", ("c", "s", "z"), ("y",))]
    graph = make_graph(nodes, {"x": ("float32", values.shape)}, ["c", "y"], {"s": scale, "z": zero})
    session = onnxruntime.InferenceSession(serialize(graph), providers=["CPUExecutionProvider"])
    codes, real = session.run(None, {"x": values})
    assert np.array_equal(quantize(values, encoding), codes)
    assert np.array_equal(dequantize(codes, encoding), real)


def test_per_channel_equals_one_channel_at_a_time() -> None:
    """A per-channel encoding is the per-tensor one of every slice."""
    data = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32) * np.array([1, 10, 0.1], np.float32)[:, None]
    whole = encoding_for_weights(data, "int8", granularity="channel", axis=1)
    for channel in range(3):
        alone = encoding_for_weights(data[:, channel], "int8")
        assert np.array_equal(fake_quantize(data, whole)[:, channel], fake_quantize(data[:, channel], alone))


@pytest.mark.parametrize("granularity", ["block", "lpbq"])
def test_blocks(granularity: str) -> None:
    """Blocks along an axis have scales of their own, the last one may be short; LPBQ scales are 1..16 times a channel scale."""
    data = np.random.default_rng(0).normal(size=(6, 37)).astype(np.float32)
    data[2, 16:32] *= 20
    encoding = encoding_for_weights(data, "int4", granularity=granularity, axis=1, block_size=16)
    assert encoding.granularity == granularity
    assert encoding.steps.shape == (6, 3)
    error = np.abs(fake_quantize(data, encoding) - data)
    bound = np.repeat(encoding.steps, 16, axis=1)[:, :37]
    if granularity == "block":
        assert np.all(error <= bound / 2 * 1.0001)
    else:
        factors = encoding.block_scale
        assert factors is not None
        assert factors.min() >= 1
        assert factors.max() == 16
        ratio = encoding.steps / factors
        assert np.allclose(ratio, ratio[:, :1], rtol=1e-6)


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_float_encodings(dtype: str, bits: int) -> None:
    """A float encoding keeps so many significant bits, and rounds to nearest."""
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    kept = fake_quantize(values, Encoding(dtype))
    assert np.array_equal(fake_quantize(kept, Encoding(dtype)), kept)
    assert np.max(np.abs(kept - values) / np.abs(values)) <= 2.0**-bits


def test_int32_keeps_large_codes() -> None:
    """32-bit codes beyond what float32 holds are exact."""
    encoding = Encoding("int32", 2.0**-20)
    codes = np.array([(1 << 30) + 1, -(1 << 30) - 1])
    assert np.array_equal(quantize(codes * 2.0**-20, encoding), codes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Encoding("int7", 1.0), "unknown encoding type"),
        (lambda: Encoding("int8"), "needs a scale"),
        (lambda: Encoding("int8", 0.0), "above 0"),
        (lambda: Encoding("uint8", 1.0, 300), r"\[0, 255\]"),
        (lambda: Encoding("float16", 1.0), "no scale"),
        (lambda: encoding_for_range(np.nan, 1, "int8"), "finite"),
        (lambda: encoding_for_range(2, 1, "int8"), "ordered"),
        (lambda: quantize(np.zeros((2, 3)), Encoding("int8", [1.0, 1.0], axis=1)), "do not fit"),
    ],
)
def test_impossible_encodings(make: Any, words: str) -> None:
    """An impossible encoding is refused with what is wrong."""
    with pytest.raises(EncodingError, match=words):
        make()
