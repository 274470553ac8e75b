"""Integer sums are exact, and the requantized codes are those of ONNX Runtime's integer kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npukit.backend import Accumulator, Call, Value
from npukit.backend.kernels import exact_dtype, integer_weight
from npukit.encoding import Encoding, quantize
from npukit.graph import Node, make_graph, serialize
from npukit_htp.kernels import KERNELS


def accumulate(op: str, values: list[Value | None], **attributes: Any) -> Accumulator:
    node = Node(op, op, tuple("x" for _ in values), ("y",), attributes)
    (found,) = KERNELS[op](Call(node, tuple(values), (Encoding("uint8", 1.0, 0),), {}))
    assert isinstance(found, Accumulator)
    return found


def integer_conv(x: np.ndarray, w: np.ndarray, groups: int, stride: int, pad: int) -> np.ndarray:
    """Convolution of int64 arrays, one window at a time: slow and obvious."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    rows, columns = ((n - k) // stride + 1 for n, k in zip(x.shape[2:], w.shape[2:], strict=True))
    out = np.zeros((x.shape[0], w.shape[0], rows, columns), np.int64)
    per_in, per_out = x.shape[1] // groups, w.shape[0] // groups
    for o in range(w.shape[0]):
        start = (o // per_out) * per_in
        for i in range(rows):
            for j in range(columns):
                window = x[:, start : start + per_in, i * stride : i * stride + w.shape[2], j * stride : j * stride + w.shape[3]]
                out[:, o, i, j] = (window * w[o]).sum((1, 2, 3))
    return out


@given(st.data())
@settings(max_examples=60)
def test_conv_sums_are_exact(data: st.DataObject) -> None:
    """Conv's accumulator equals int64 arithmetic for random shapes, groups and widths."""
    groups = data.draw(st.sampled_from([1, 1, 2, 4]))
    per_in, per_out = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    kernel, stride, pad = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2)), data.draw(st.integers(0, 1))
    dtype = data.draw(st.sampled_from(["uint8", "int8", "uint16"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    encoding = Encoding(dtype, 0.5, int(rng.integers(0, 100)))
    x = rng.integers(encoding.qmin, encoding.qmax + 1, (1, groups * per_in, 6, 5))
    w = rng.integers(-128, 128, (groups * per_out, per_in, kernel, kernel))
    b = rng.integers(-(2**20), 2**20, groups * per_out)
    scale = np.full(len(w), 0.25, np.float32)
    values = [
        Value(x, encoding),
        Value(w.astype(np.int8), Encoding("int8", scale, axis=0)),
        Value(b.astype(np.int32), Encoding("int32", scale * np.float32(0.5), axis=0)),
    ]
    acc = accumulate("Conv", values, group=groups, strides=[stride, stride], pads=[pad] * 4)
    expected = integer_conv(x - int(encoding.zeros), w, groups, stride, pad) + b[:, None, None]
    assert np.array_equal(acc.values.astype(np.int64), expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [64, 512, 2048])
def test_worst_case_is_exact(dtype: str, channels: int) -> None:
    """Inputs and weights at their extremes, odd on purpose, still sum exactly: the bound decides the float type."""
    encoding = Encoding(dtype, 1.0, 0)
    x = np.full((1, channels, 4, 4), encoding.qmax)
    w = np.full((2, channels, 3, 3), 127)
    w[1] = -128
    values = [Value(x, encoding), Value(w.astype(np.int8), Encoding("int8", 1.0, 0)), None]
    acc = accumulate("Conv", values)
    assert np.array_equal(acc.values.astype(np.int64), integer_conv(x, w, 1, 1, 0))
    product = accumulate(
        "MatMul", [Value(x.reshape(16, -1), encoding), Value(w[0].reshape(-1, 9).astype(np.int8), Encoding("int8", 1.0, 0))]
    )
    assert np.all(product.values.astype(np.int64) == channels * encoding.qmax * 127)


@pytest.mark.parametrize("zero", [0, 30000, 65535])
def test_right_activation_of_uint16_is_narrowed(zero: int) -> None:
    """Of two activations of uint16 the right one has the 256 values of uint8 over its range; a constant one keeps its 65,536."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 65536, (4, 8)).astype(np.uint16), rng.integers(0, 65536, (8, 3)).astype(np.uint16)
    left, right = Value(a, Encoding("uint16", 0.5, 100)), Value(b, Encoding("uint16", 0.25, zero))
    acc = accumulate("MatMul", [left, right])
    low, high = -zero * 0.25, (65535 - zero) * 0.25
    step = (high - low) / 255
    bytes_of = np.clip(np.rint((b.astype(np.int64) - zero) * 0.25 / step) + np.rint(-low / step), 0, 255) - np.rint(-low / step)
    assert np.array_equal(acc.values, (a.astype(np.int64) - 100) @ bytes_of)
    assert float(acc.scale) == pytest.approx(0.5 * step)
    constant = accumulate("MatMul", [left, Value(b, Encoding("uint16", 0.25, zero), is_constant=True)])
    assert np.array_equal(constant.values, (a.astype(np.int64) - 100) @ (b.astype(np.int64) - zero))


def test_bound_decides_the_float_type() -> None:
    """Up to 2**24 float32 is exact, up to 2**53 float64, and beyond there is an error instead of a wrong sum."""
    assert exact_dtype(2**24) is np.float32
    assert exact_dtype(2**24 + 1) is np.float64
    with pytest.raises(ValueError, match="exact in no float type"):
        exact_dtype(2.0**54)


def test_float32_would_be_wrong_past_the_bound() -> None:
    """The worst case above really needs float64: float32 sums of it differ from the integers."""
    x, w = np.full(4608, 255.0, np.float32), np.full(4608, 127.0, np.float32)
    assert int(np.float32(np.cumsum(x * w)[-1])) != 4608 * 255 * 127


def test_lpbq_is_an_integer_weight() -> None:
    """Codes times block scales are integers at one scale per channel."""
    codes = np.arange(-8, 8, dtype=np.int8).reshape(2, 8)
    block = np.array([[1, 3], [2, 16]])
    channel = np.array([0.5, 0.25], np.float32)
    encoding = Encoding(
        "int4", channel[:, None] * block.astype(np.float32), np.zeros((2, 2)), axis=1, block_size=4, block_scale=block
    )
    form = integer_weight(Value(codes, encoding), 0)
    assert form is not None
    np.testing.assert_array_equal(form.values, codes * np.repeat(block, 4, axis=1))
    np.testing.assert_array_equal(form.scale, channel)


def _qlinear(op: str, arrays: dict[str, np.ndarray], inputs: list[str], **attributes: Any) -> np.ndarray:
    """One QLinear op of ONNX Runtime, integer inputs and output."""
    fed = {"x": arrays["x"]}
    graph = make_graph(
        [Node(op, "q", tuple(inputs), ("y",), attributes)],
        {"x": (str(arrays["x"].dtype), arrays["x"].shape)},
        ["y"],
        {n: a for n, a in arrays.items() if n not in fed},
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Without this option, CPUs that lack VNNI saturate sums of two uint8 x int8 products to 16 bits.
    options.add_session_config_entry("session.x64quantprecision", "1")
    found = ort.InferenceSession(serialize(graph), options, providers=["CPUExecutionProvider"]).run(None, fed)[0]
    return np.asarray(found)


@pytest.mark.parametrize("seed", range(12))
def test_conv_equals_qlinearconv(seed: int, emulate: Callable[..., Any]) -> None:
    """Codes of Conv with uint8 activations and int8 weights per channel equal QLinearConv's bit for bit."""
    rng = np.random.default_rng(seed)
    groups = (1, 1, 2, 8)[seed % 4]
    channels, out, kernel = 8 * (1 + 4 * (seed % 3)), 8, (1, 3)[seed % 2]
    w = rng.integers(-127, 128, (out, channels // groups, kernel, kernel)).astype(np.int8)
    b = rng.integers(-30000, 30000, out).astype(np.int32)
    x_zero, y_zero = int(rng.integers(0, 256)), int(rng.integers(0, 256))
    x_scale, y_scale = (np.float32(v) for v in rng.uniform(0.001, 0.2, 2))
    w_scale = rng.uniform(0.001, 0.1, out).astype(np.float32)
    # The output grid covers most of the sums, so that few codes saturate.
    y_scale = np.float32(y_scale * x_scale * 1000)
    x = rng.integers(0, 256, (2, channels, 7, 6)).astype(np.uint8)
    attributes: dict[str, Any] = {"group": groups, "pads": [kernel // 2] * 4}
    arrays = {
        "x": x, "xs": np.asarray(x_scale), "xz": np.asarray(x_zero, np.uint8), "w": w, "ws": w_scale,
        "wz": np.zeros(out, np.int8), "ys": np.asarray(y_scale), "yz": np.asarray(y_zero, np.uint8), "b": b,
    }  # fmt: skip
    expected = _qlinear("QLinearConv", arrays, ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], **attributes)

    bias_scale = x_scale * w_scale
    encodings = {
        "x": Encoding("uint8", x_scale, x_zero),
        "w": Encoding("int8", w_scale, axis=0),
        "b": Encoding("int32", bias_scale, axis=0),
        "y": Encoding("uint8", y_scale, y_zero),
    }
    real = {
        "x": ((x.astype(np.float64) - x_zero) * x_scale).astype(np.float32),
        "w": w * w_scale[:, None, None, None],
        "b": (b.astype(np.float64) * bias_scale).astype(np.float32),
    }
    graph = make_graph(
        [Node("Conv", "c", ("x", "w", "b"), ("y",), attributes)],
        {"x": ("float32", x.shape)},
        ["y"],
        {"w": real["w"], "b": real["b"]},
    )
    for name, codes in (("x", x), ("w", w), ("b", b)):
        assert np.array_equal(quantize(real[name], encodings[name]), codes)
    got = quantize(emulate(graph, encodings, {"x": real["x"]})["y"], encodings["y"])
    assert np.array_equal(got, expected)
    assert len(np.unique(got)) > 20


@pytest.mark.parametrize("seed", range(6))
def test_matmul_equals_qlinearmatmul(seed: int, emulate: Callable[..., Any]) -> None:
    """Codes of MatMul with uint8 activations and int8 weights equal QLinearMatMul's bit for bit, past 2**24 too."""
    rng = np.random.default_rng(seed)
    depth = (16, 300, 2000)[seed % 3]
    x = rng.integers(0, 256, (9, depth)).astype(np.uint8)
    w = rng.integers(-127, 128, (depth, 5)).astype(np.int8)
    if seed % 3 == 2:
        x, w = np.maximum(x, 200), np.maximum(w, 90)
    x_scale, w_scale = np.float32(0.013), np.float32(0.0071)
    sums = x.astype(np.int64) @ w.astype(np.int64)
    y_scale = np.float32((sums.max() - sums.min()) * x_scale * w_scale / 255)
    y_zero = int(np.clip(-sums.min() * x_scale * w_scale / y_scale, 0, 255))
    # The weights go in as uint8 with zero point 128, the same integers: without VNNI the int8 kernel saturates.
    unsigned = (w.astype(np.int64) + 128).astype(np.uint8)
    arrays = {
        "x": x,
        "xs": np.asarray(x_scale),
        "xz": np.asarray(0, np.uint8),
        "w": unsigned,
        "ws": np.asarray(w_scale),
        "wz": np.asarray(128, np.uint8),
        "ys": np.asarray(y_scale),
        "yz": np.asarray(y_zero, np.uint8),
    }
    expected = _qlinear("QLinearMatMul", arrays, ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"])
    encodings = {"x": Encoding("uint8", x_scale, 0), "w": Encoding("int8", w_scale, 0), "y": Encoding("uint8", y_scale, y_zero)}
    graph = make_graph([Node("MatMul", "m", ("x", "w"), ("y",))], {"x": ("float32", x.shape)}, ["y"], {"w": w * w_scale})
    got = quantize(emulate(graph, encodings, {"x": x * x_scale})["y"], encodings["y"])
    assert np.array_equal(got, expected)


def test_bias_on_another_grid_is_rounded(emulate: Callable[..., Any]) -> None:
    """A bias without an encoding is rounded to the scale of the sums, as the hardware's int32 bias is."""
    x = np.array([[[[1.0]]]], np.float32)
    w = np.ones((1, 1, 1, 1), np.float32)
    grids = {"x": Encoding("uint8", 1.0, 0), "w": Encoding("int8", 1.0, 0), "y": Encoding("uint8", 0.1, 0)}
    graph = make_graph(
        [Node("Conv", "c", ("x", "w", "b"), ("y",))],
        {"x": ("float32", x.shape)},
        ["y"],
        {"w": w, "b": np.array([0.4], np.float32)},
    )
    assert emulate(graph, grids, {"x": x})["y"].item() == pytest.approx(1.0)


def test_same_sums_from_float64_and_float32_paths(rng: np.random.Generator) -> None:
    """A huge bias pushes the sums to float64 and changes nothing but itself."""
    x, w = rng.integers(0, 256, (1, 6, 8, 8)), rng.integers(-127, 128, (4, 6, 3, 3)).astype(np.int8)
    encoding, weights = Encoding("uint8", 1.0, 7), Encoding("int8", 1.0, 0)
    plain = accumulate("Conv", [Value(x, encoding), Value(w, weights), None])
    bias = Value(np.full(4, 2**30, np.int32), Encoding("int32", 1.0, 0))
    wide = accumulate("Conv", [Value(x, encoding), Value(w, weights), bias])
    assert plain.values.dtype == np.float32
    assert wide.values.dtype == np.float64
    assert np.array_equal(wide.values - 2**30, plain.values)
