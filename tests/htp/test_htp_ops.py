"""Every kernel against the float op between the same grids, as ONNX Runtime computes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest

from npukit.backend import Call, Value
from npukit.backend.library.kernels.unary import erf
from npukit.encoding import Encoding, encoding_for_weights, fake_quantize
from npukit.graph import Node
from npukit_htp.kernels import KERNELS

ACTIVATIONS = ("uint8", "int8", "uint16")


def weight_grid(w: np.ndarray, dtype: str = "int8", axis: int | None = 0, **options: Any) -> Encoding:
    granularity = options.pop("granularity", "tensor" if axis is None else "channel")
    return encoding_for_weights(w, dtype, granularity=granularity, axis=axis, **options)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


CONVS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "3x3": ((2, 5, 9, 11), (6, 5, 3, 3), {"pads": [1, 1, 1, 1]}),
    "stride": ((1, 4, 12, 10), (8, 4, 3, 3), {"strides": [2, 2], "pads": [0, 1, 1, 0]}),
    "dilation": ((1, 3, 14, 13), (4, 3, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    "1x1": ((2, 16, 6, 5), (7, 16, 1, 1), {}),
    "1x1 stride": ((1, 8, 6, 5), (7, 8, 1, 1), {"strides": [2, 2]}),
    "depthwise": ((1, 8, 9, 9), (8, 1, 3, 3), {"group": 8, "pads": [1, 1, 1, 1]}),
    "depth multiplier": ((1, 4, 9, 9), (8, 1, 3, 3), {"group": 4, "strides": [2, 1]}),
    "groups": ((2, 12, 7, 7), (9, 4, 3, 3), {"group": 3}),
    "same upper": ((1, 3, 10, 9), (4, 3, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same lower": ((1, 3, 10, 9), (4, 3, 4, 3), {"auto_pad": "SAME_LOWER"}),
    "valid": ((1, 3, 10, 9), (4, 3, 4, 3), {"auto_pad": "VALID"}),
    "one dimension": ((2, 6, 30), (5, 6, 4), {"strides": [3], "pads": [2, 1]}),
    "three dimensions": ((1, 2, 5, 6, 7), (3, 2, 2, 3, 2), {"pads": [1, 0, 1, 0, 1, 1]}),
}


@pytest.mark.parametrize("case", CONVS)
@pytest.mark.parametrize("dtype", ACTIVATIONS)
def test_conv(case: str, dtype: str, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Conv with per-channel int8 weights and a bias equals the float op between grids up to one step."""
    shape, weights, attributes = CONVS[case]
    x, w, b = normal(rng, *shape), normal(rng, *weights), normal(rng, weights[0])
    run_op("Conv", [x, w, b], [grid_of(x, dtype), weight_grid(w)], dtype, constants=(1, 2), **attributes).check(0.985)


TRANSPOSED: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((1, 5, 6, 7), (5, 4, 3, 3), {}),
    "stride": ((2, 5, 6, 7), (5, 4, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "output padding": ((1, 5, 6, 7), (5, 4, 3, 3), {"strides": [2, 3], "output_padding": [1, 2], "pads": [1, 0, 0, 1]}),
    "dilation": ((1, 3, 6, 7), (3, 4, 3, 3), {"dilations": [2, 2]}),
    "output shape": ((1, 3, 6, 7), (3, 4, 3, 3), {"strides": [2, 2], "output_shape": [12, 14]}),
    "same upper": ((1, 3, 6, 7), (3, 4, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "groups": ((1, 6, 6, 7), (6, 4, 3, 3), {"group": 2}),
    "one dimension": ((1, 6, 9), (6, 4, 5), {"strides": [3]}),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_conv_transpose(case: str, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """ConvTranspose equals the float op between grids up to one step, per channel on axis 1 without groups."""
    shape, weights, attributes = TRANSPOSED[case]
    x, w = normal(rng, *shape), normal(rng, *weights)
    groups = attributes.get("group", 1)
    b = normal(rng, weights[1] * groups)
    grids = [grid_of(x), weight_grid(w, axis=1 if groups == 1 else None)]
    run_op("ConvTranspose", [x, w, b], grids, constants=(1, 2), **attributes).check(0.985)


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("dtype", ACTIVATIONS)
def test_gemm(trans_b: int, dtype: str, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Gemm takes per-channel weights on the output axis, whichever way they are stored."""
    x, w, b = normal(rng, 5, 40), normal(rng, *((16, 40) if trans_b else (40, 16))), normal(rng, 16)
    grids = [grid_of(x, dtype), weight_grid(w, axis=0 if trans_b else 1)]
    run_op("Gemm", [x, w, b], grids, dtype, constants=(1, 2), transB=trans_b).check(0.98)


def test_gemm_scaled(rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Gemm with alpha, beta and transA is computed in float and still right."""
    x, w, b = normal(rng, 40, 5), normal(rng, 40, 16), normal(rng, 1, 16)
    run_op("Gemm", [x, w, b], [grid_of(x), grid_of(w)], alpha=0.5, beta=2.0, transA=1).check()


@pytest.mark.parametrize(
    ("left", "right"),
    [((4, 6, 20), (20, 9)), ((3, 4, 6, 20), (3, 4, 20, 5)), ((20,), (20, 9)), ((4, 20), (20,)), ((1, 4), (4, 1))],
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_matmul_of_activations(
    left: tuple[int, ...],
    right: tuple[int, ...],
    dtype: str,
    rng: np.random.Generator,
    run_op: Callable[..., Any],
    grid_of: Callable[..., Any],
) -> None:
    """MatMul of two quantized activations of any rank equals the float op between grids up to one step.

    The right one has no more than 256 values: at 16 bits it is narrowed to that.
    """
    a, b = normal(rng, *left), normal(rng, *right)
    b = fake_quantize(b, grid_of(b))
    run_op("MatMul", [a, b], [grid_of(a, dtype), grid_of(b, dtype)], dtype).check(0.97)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("int8", {"axis": 1}),
        ("uint8", {"axis": None, "symmetric": False}),
        ("int4", {"axis": 1}),
        ("int16", {"axis": 1}),
        ("int4", {"axis": 0, "granularity": "lpbq", "block_size": 16}),
        ("int4", {"axis": 0, "granularity": "block", "block_size": 16}),
    ],
)
def test_matmul_weights(
    dtype: str, options: dict[str, Any], rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]
) -> None:
    """MatMul takes constant weights of every width and granularity."""
    x, w = normal(rng, 7, 64), normal(rng, 64, 12)
    run_op("MatMul", [x, w], [grid_of(x, "uint16"), weight_grid(w, dtype, **options)], constants=(1,)).check(0.98)


def test_conv_lpbq(rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Conv with LPBQ weights, blocks along the input channels, equals the float op between grids."""
    x, w = normal(rng, 1, 32, 5, 6), normal(rng, 8, 32, 1, 1)
    grids = [grid_of(x), weight_grid(w, "int4", axis=1, granularity="lpbq", block_size=16)]
    run_op("Conv", [x, w], grids, constants=(1,)).check(0.98)


def test_float_island(rng: np.random.Generator, run_op: Callable[..., Any]) -> None:
    """A Conv whose tensors have no grid is a plain float Conv; a float16 output is rounded to float16."""
    x, w, b = normal(rng, 1, 4, 6, 6), normal(rng, 5, 4, 3, 3), normal(rng, 5)
    plain = run_op("Conv", [x, w, b], out=None, constants=(1, 2))
    np.testing.assert_allclose(plain.got, plain.expected, rtol=1e-5, atol=1e-5)
    half = run_op("Conv", [x, w, b], out=Encoding("float16"), constants=(1, 2))
    np.testing.assert_allclose(half.got, half.expected, rtol=1e-3)
    assert np.array_equal(half.got, half.got.astype(np.float16).astype(np.float32))


UNARY: dict[str, tuple[float, float, dict[str, Any]]] = {
    "Abs": (-3, 3, {}),
    "Asin": (-1, 1, {}),
    "Atan": (-3, 3, {}),
    "Ceil": (-3, 3, {}),
    "Cos": (-3, 3, {}),
    "Elu": (-3, 3, {"alpha": 0.7}),
    "Exp": (-3, 2, {}),
    "Floor": (-3, 3, {}),
    "Gelu": (-3, 3, {}),
    "HardSigmoid": (-4, 4, {"alpha": 0.15, "beta": 0.4}),
    "HardSwish": (-4, 4, {}),
    "LeakyRelu": (-3, 3, {"alpha": 0.1}),
    "Log": (0.1, 9, {}),
    "Mish": (-3, 3, {}),
    "Neg": (-3, 2, {}),
    "Relu": (-3, 3, {}),
    "Round": (-3, 3, {}),
    "Selu": (-3, 3, {}),
    "Sigmoid": (-5, 5, {}),
    "Sign": (-3, 3, {}),
    "Sin": (-3, 3, {}),
    "Softplus": (-5, 5, {}),
    "Sqrt": (0, 7, {}),
    "Tan": (-1, 1, {}),
    "Tanh": (-3, 3, {}),
    "ThresholdedRelu": (-3, 3, {"alpha": 0.5}),
}


@pytest.mark.parametrize("op", UNARY)
@pytest.mark.parametrize("dtype", ACTIVATIONS)
def test_unary(op: str, dtype: str, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """A function of one value is the correctly rounded float result at every width (float islands: before v69)."""
    low, high, attributes = UNARY[op]
    x = rng.uniform(low, high, (3, 400)).astype(np.float32)
    grid = grid_of(x, dtype)
    if op == "Log":
        # Zero is on every grid; keep the logarithm away from it.
        x = np.maximum(x, np.float32(2 * float(grid.steps)))
    run_op(op, [x], [grid], dtype, soc="v68", **attributes).check(0.985)


@pytest.mark.parametrize("dtype", ACTIVATIONS)
def test_what_has_no_logarithm_is_the_lowest_code(dtype: str, run_op: Callable[..., Any]) -> None:
    """Zero and negative numbers lie below the logarithm of the least positive one, not at 0."""
    step = np.float32(0.01)
    lowest, out = Encoding(dtype, step, Encoding(dtype, 1.0).qmin + 100), Encoding(dtype, step, Encoding(dtype, 1.0).qmin + 200)
    found = run_op("Log", [np.array([[-0.5, -0.01, 0.0, 1.0]], np.float32)], [lowest], out, soc="v73").got
    np.testing.assert_allclose(found, [[-2.0, -2.0, -2.0, 0.0]], atol=1e-6)


def test_gelu_tanh(rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Gelu has its tanh approximation."""
    x = normal(rng, 4, 50)
    run_op("Gelu", [x], [grid_of(x)], approximate="tanh").check()


def test_erf() -> None:
    """The error function is good to 2e-7, so that no 16-bit grid sees the difference except at a tie."""
    x = np.linspace(-5, 5, 2001)
    np.testing.assert_allclose(erf(x), [math.erf(v) for v in x], atol=2e-7)


@pytest.mark.parametrize("op", ["Reciprocal"])
def test_reciprocal(op: str, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Reciprocal away from zero is the correctly rounded result, and zero saturates without a warning."""
    x = rng.uniform(0.5, 4, (3, 40)).astype(np.float32)
    run_op(op, [x], [grid_of(x)]).check()
    zero = run_op(op, [np.zeros((1, 3), np.float32)], [grid_of(x)], Encoding("uint8", 0.1, 0))
    assert np.all(zero.got == np.float32(255) * np.float32(0.1))


def test_clip(rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Clip takes both bounds, one of them, or none."""
    x, low, high = normal(rng, 4, 50), np.float32(0), np.float32(1.5)
    for bounds in ([low, high], [None, high], [low], []):
        arrays = [x, *(None if v is None else np.asarray(v) for v in bounds)]
        run_op("Clip", arrays, [grid_of(x)], constants=(1, 2)).check()


BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Pow", "Mod", "Sum", "Mean")


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("dtype", ACTIVATIONS)
def test_binary(op: str, dtype: str, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Element-by-element ops broadcast and equal the float op between grids (float islands: before v69)."""
    a = rng.uniform(0.2 if op == "Pow" else -3, 3, (2, 5, 4, 6)).astype(np.float32)
    b = rng.uniform(0.5, 3, (5, 1, 1)).astype(np.float32)
    attributes = {"fmod": 1} if op == "Mod" else {}
    run_op(op, [a, b], [grid_of(a, dtype), grid_of(b, dtype)], dtype, soc="v68", **attributes).check(0.98)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Mod"])
def test_integer_arithmetic(op: str, rng: np.random.Generator, run_op: Callable[..., Any]) -> None:
    """int64 tensors keep their type and their exact values; Div truncates toward zero."""
    a, b = rng.integers(-50, 50, (4, 9)), rng.integers(1, 7, (1, 9))
    outcome = run_op(op, [a, b], out=None)
    assert outcome.got.dtype == np.int64
    assert np.array_equal(outcome.got, outcome.expected)


@pytest.mark.parametrize("op", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_comparison(op: str, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Comparisons see the rounded values."""
    a, b = normal(rng, 6, 50), normal(rng, 6, 50)
    grid = grid_of(np.stack([a, b]))
    outcome = run_op(op, [a, b], [grid, grid], None)
    assert np.array_equal(outcome.got, outcome.expected)


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op: str, rng: np.random.Generator, run_op: Callable[..., Any]) -> None:
    """Boolean ops work on bool tensors."""
    a, b = rng.random((5, 6)) > 0.5, rng.random((5, 6)) > 0.5
    outcome = run_op(op, [a, b], out=None)
    assert np.array_equal(outcome.got, outcome.expected)
    assert np.array_equal(run_op("Not", [a], out=None).got, ~a)


def test_nan_and_infinity(run_op: Callable[..., Any], rng: np.random.Generator) -> None:
    """A tensor of finite values has neither NaN nor infinity."""
    x = normal(rng, 3, 4)
    assert not run_op("IsNaN", [x], out=None).got.any()
    assert not run_op("IsInf", [x], out=None).got.any()


def test_where(rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Where chooses codes on one grid, and rounds when the grids differ."""
    condition, a, b = rng.random((3, 1, 5)) > 0.5, normal(rng, 3, 4, 5), normal(rng, 1, 4, 5)
    run_op("Where", [condition, a, b], [None, grid_of(a), grid_of(b)]).check()
    grid = grid_of(np.concatenate([a, b]))
    run_op("Where", [condition, a, b], [None, grid, grid], grid).check(1, 0)


POOLS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "max": ("MaxPool", (2, 3, 9, 11), {"kernel_shape": [2, 3], "strides": [2, 2]}),
    "max padded": ("MaxPool", (1, 3, 9, 9), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "max ceil": ("MaxPool", (1, 3, 10, 9), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "max ceil padded": (
        "MaxPool",
        (1, 2, 6, 6),
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
    ),
    "max dilated": ("MaxPool", (1, 2, 10, 10), {"kernel_shape": [2, 2], "dilations": [2, 2]}),
    "max same": ("MaxPool", (1, 2, 9, 9), {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "max one dimension": ("MaxPool", (1, 2, 19), {"kernel_shape": [4], "strides": [3]}),
    "average": ("AveragePool", (2, 3, 9, 11), {"kernel_shape": [2, 3], "strides": [2, 2]}),
    "average padded": ("AveragePool", (1, 3, 9, 9), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "average counts pads": (
        "AveragePool",
        (1, 3, 9, 9),
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    "average ceil": ("AveragePool", (1, 3, 10, 9), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "average same": ("AveragePool", (1, 3, 10, 9), {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    "global average": ("GlobalAveragePool", (2, 5, 7, 6), {}),
    "global max": ("GlobalMaxPool", (2, 5, 7, 6), {}),
}


@pytest.mark.parametrize("case", POOLS)
@pytest.mark.parametrize("dtype", ACTIVATIONS)
def test_pool(case: str, dtype: str, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Maxima are exact on one grid; averages are within a step (ties round up, not to even) and exact on another grid."""
    op, shape, attributes = POOLS[case]
    x = normal(rng, *shape)
    grid = grid_of(x, dtype)
    if "Max" in op:
        run_op(op, [x], [grid], grid, **attributes).check(1, 0)
    else:
        run_op(op, [x], [grid], grid, **attributes).check(0.9)
    run_op(op, [x], [grid], dtype, **attributes).check(0.97)


def test_average_pool_rounds_half_up(emulate: Callable[..., Any], run_op: Callable[..., Any]) -> None:
    """The mean of codes 0, 1, 1, 0 is 1 and that of 2, 3, 2, 3 is 3: halves go up."""
    x = np.array([[[[0, 1, 2, 3], [1, 0, 2, 3]]]], np.float32)
    grid = Encoding("uint8", 1.0, 0)
    got = run_op("AveragePool", [x], [grid], grid, kernel_shape=[2, 2], strides=[2, 2]).got
    assert got.ravel().tolist() == [1, 3]


NORMS: dict[str, tuple[tuple[int, ...], int, dict[str, Any]]] = {
    "Softmax": ((3, 4, 7), 0, {"axis": 1}),
    "LogSoftmax": ((3, 4, 7), 0, {}),
    "LRN": ((2, 7, 4, 5), 0, {"size": 3, "alpha": 0.1, "beta": 0.6, "bias": 1.2}),
    "LpNormalization": ((3, 4, 7), 0, {"p": 1, "axis": 1}),
    "LayerNormalization": ((3, 4, 7), 7, {"axis": -1, "epsilon": 1e-3}),
    "InstanceNormalization": ((3, 4, 7, 6), 4, {}),
    "GroupNormalization": ((3, 4, 7, 6), 4, {"num_groups": 2}),
}


@pytest.mark.parametrize("op", NORMS)
def test_normalization(op: str, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Normalizations are float between grids."""
    shape, channels, attributes = NORMS[op]
    x = normal(rng, *shape)
    parameters = [normal(rng, channels), normal(rng, channels)] if channels else []
    run_op(op, [x, *parameters], [grid_of(x)], constants=(1, 2), **attributes).check()


def test_lp_normalization_of_zero(run_op: Callable[..., Any], grid_of: Callable[..., Any], rng: np.random.Generator) -> None:
    """A zero vector stays zero, and p = 2 is the Euclidean length."""
    x = normal(rng, 3, 8)
    x[1] = 0
    outcome = run_op("LpNormalization", [x], out=None)
    assert not outcome.got[1].any()
    np.testing.assert_allclose(np.square(outcome.got[0]).sum(), 1, rtol=1e-5)


def test_batch_normalization(rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """BatchNormalization that could not be folded."""
    x = normal(rng, 2, 5, 4, 3)
    parameters = [normal(rng, 5), normal(rng, 5), normal(rng, 5), rng.uniform(0.5, 2, 5).astype(np.float32)]
    run_op("BatchNormalization", [x, *parameters], [grid_of(x)], constants=(1, 2, 3, 4)).check()


def test_batch_normalization_folds_on_small_grids(
    rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]
) -> None:
    """Scale and shift given in 8 bits are folded with the statistics and rounded to 8 bits again, by hand here."""
    x, channels = normal(rng, 1, 4, 8, 8), np.arange(4)
    scale, bias = 0.5 + 0.3 * channels, 0.2 * channels - 0.3
    mean, variance = 0.1 * channels, 0.5 + 0.1 * channels
    arrays = [x, *(v.astype(np.float32) for v in (scale, bias, mean, variance))]
    grids = [grid_of(x), *(grid_of(np.append(v, 0)) for v in arrays[1:3])]
    outcome = run_op("BatchNormalization", arrays, grids, "uint16", constants=(1, 2, 3, 4))
    rounded = [fake_quantize(v, g) for v, g in zip(arrays, [*grids, None, None], strict=True) if g is not None]
    factor = rounded[1] / np.sqrt(variance + 1e-5)
    shift = rounded[2] - mean * factor
    factor, shift = (fake_quantize(v.astype(np.float32), grid_of(np.append(v, 0))) for v in (factor, shift))
    wanted = rounded[0] * factor[:, None, None] + shift[:, None, None]
    attrs.evolve(outcome, expected=fake_quantize(wanted, outcome.encoding)).check(exact=0)
    assert np.abs(outcome.steps()).max() > 20  # which the float op is far from


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare"])
@pytest.mark.parametrize("axes", [(1,), (0, -1), None])
def test_reduce(
    op: str, axes: tuple[int, ...] | None, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]
) -> None:
    """Reductions over some or all axes, with and without keeping them."""
    x = normal(rng, 3, 4, 5, 6)
    given = [] if axes is None else [np.array(axes)]
    for keep in (0, 1):
        run_op(op, [x, *given], [grid_of(x)], constants=(1,), keepdims=keep).check()


def test_reduce_nothing(rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Empty axes with noop_with_empty_axes reduce nothing."""
    x = normal(rng, 3, 4)
    for op in ("ReduceMean", "ReduceMax"):
        run_op(op, [x], [grid_of(x)], grid_of(x), noop_with_empty_axes=1).check(1, 0)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("attributes", [{"axis": 1}, {"axis": -1, "keepdims": 0}, {"axis": 0, "select_last_index": 1}])
def test_arg(
    op: str, attributes: dict[str, Any], rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]
) -> None:
    """ArgMax and ArgMin work on codes, ties included."""
    x = rng.integers(0, 5, (4, 9, 7)).astype(np.float32)
    outcome = run_op(op, [x], [grid_of(x)], None, **attributes)
    assert np.array_equal(outcome.got, outcome.expected)


@pytest.mark.parametrize("attributes", [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}])
def test_cum_sum(
    attributes: dict[str, Any], rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]
) -> None:
    """CumSum in its four forms."""
    x = normal(rng, 3, 9)
    run_op("CumSum", [x, np.array(1)], [grid_of(x)], constants=(1,), **attributes).check()


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(largest: int, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """TopK gives the values in order; on one grid they are codes."""
    x = normal(rng, 3, 9)
    grid = grid_of(x)
    run_op("TopK", [x, np.array([4])], [grid], grid, constants=(1,), outputs=2, largest=largest).check(1, 0)


def test_one_hot_and_non_zero(run_op: Callable[..., Any]) -> None:
    """OneHot and NonZero equal the reference exactly."""
    indices = np.array([[0, 2], [-1, 1]])
    for axis in (-1, 0, 1):
        outcome = run_op("OneHot", [indices, np.array(3), np.array([-1, 2], np.float32)], out=None, constants=(1, 2), axis=axis)
        assert np.array_equal(outcome.got, outcome.expected)
    outcome = run_op("NonZero", [np.array([[0, 1], [2, 0]], np.float32)], out=None)
    assert np.array_equal(outcome.got, outcome.expected)


MOVES: dict[str, tuple[str, tuple[int, ...], list[Any], dict[str, Any]]] = {
    "identity": ("Identity", (2, 3), [], {}),
    "reshape": ("Reshape", (2, 3, 4), [np.array([0, -1, 2])], {}),
    "flatten": ("Flatten", (2, 3, 4), [], {"axis": 2}),
    "flatten negative": ("Flatten", (2, 3, 4), [], {"axis": -1}),
    "flatten all": ("Flatten", (2, 3, 4), [], {"axis": 0}),
    "squeeze": ("Squeeze", (1, 3, 1, 4), [np.array([0, 2])], {}),
    "squeeze all": ("Squeeze", (1, 3, 1, 4), [], {}),
    "unsqueeze": ("Unsqueeze", (3, 4), [np.array([0, -1])], {}),
    "transpose": ("Transpose", (2, 3, 4), [], {"perm": [2, 0, 1]}),
    "transpose plain": ("Transpose", (2, 3, 4), [], {}),
    "expand": ("Expand", (3, 1), [np.array([2, 1, 4])], {}),
    "tile": ("Tile", (3, 2), [np.array([2, 3])], {}),
    "slice": ("Slice", (5, 7, 9), [np.array([1, -3]), np.array([4, 100]), np.array([0, 2])], {}),
    "slice backward": ("Slice", (5, 7), [np.array([-1]), np.array([-1000]), np.array([1]), np.array([-2])], {}),
    "gather": ("Gather", (5, 7, 3), [np.array([[0, -1], [3, 2]])], {"axis": 1}),
    "gather elements": ("GatherElements", (3, 3), [np.array([[0, -1, 2], [2, 0, 0]])], {"axis": 0}),
    "gather nd": ("GatherND", (3, 4, 5), [np.array([[0, 1], [2, -1]])], {}),
    "gather nd batch": ("GatherND", (3, 4, 5), [np.array([[1], [0], [3]])], {"batch_dims": 1}),
    "depth to space": ("DepthToSpace", (2, 12, 3, 4), [], {"blocksize": 2}),
    "depth to space crd": ("DepthToSpace", (2, 12, 3, 4), [], {"blocksize": 2, "mode": "CRD"}),
    "space to depth": ("SpaceToDepth", (2, 3, 6, 4), [], {"blocksize": 2}),
    "pad": ("Pad", (3, 4), [np.array([1, 0, 2, 3]), np.float32(0.5)], {}),
    "pad some axes": ("Pad", (3, 4), [np.array([1, 2]), np.float32(0), np.array([1])], {}),
    "pad reflect": ("Pad", (3, 4), [np.array([1, 1, 2, 3])], {"mode": "reflect"}),
    "pad edge": ("Pad", (3, 4), [np.array([1, 1, 2, 3])], {"mode": "edge"}),
    "pad negative": ("Pad", (5, 6), [np.array([-1, 2, 1, -3])], {}),
    "resize nearest": ("Resize", (1, 2, 4, 5), [None, np.array([1, 1, 2, 3], np.float32)], {"mode": "nearest"}),
    "resize floor": (
        "Resize",
        (1, 2, 4, 5),
        [None, np.array([1, 1, 2.5, 1.7], np.float32)],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    "resize sizes": (
        "Resize",
        (1, 2, 8, 9),
        [None, None, np.array([1, 2, 3, 4])],
        {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
    ),
}


@pytest.mark.parametrize("case", MOVES)
def test_movement(case: str, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Ops that move data are exact on one grid, and one rounding away from it on another; without a grid they are exact."""
    op, shape, rest, attributes = MOVES[case]
    x = normal(rng, *shape)
    arrays = [x, *(None if v is None else np.asarray(v) for v in rest)]
    grid, fixed = grid_of(x), range(1, len(arrays))
    run_op(op, arrays, [grid], grid, constants=fixed, **attributes).check(1, 0)
    # Before v69, where a change of grid is computed in float32; test_htp_profiles has the float16 of later chips.
    run_op(op, arrays, [grid], "uint16", constants=fixed, soc="v68", **attributes).check(0.98)
    plain = run_op(op, arrays, out=None, constants=fixed, **attributes)
    assert np.array_equal(plain.got, plain.expected)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize(
    "transform",
    ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric", "tf_crop_and_resize"],
)
@pytest.mark.parametrize("scales", [(2.0, 3.0), (0.6, 1.4)])
def test_resize(
    mode: str,
    transform: str,
    scales: tuple[float, float],
    rng: np.random.Generator,
    run_op: Callable[..., Any],
    grid_of: Callable[..., Any],
) -> None:
    """Linear and cubic interpolation with every coordinate transformation, to another grid."""
    x = normal(rng, 1, 2, 6, 5)
    roi = np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 0.9], np.float32)
    arrays = [x, roi if transform == "tf_crop_and_resize" else None, np.array([1, 1, *scales], np.float32)]
    attributes = {"mode": mode, "coordinate_transformation_mode": transform}
    run_op("Resize", arrays, [grid_of(x)], "uint16", constants=(1, 2), **attributes).check(0.97)


def test_linear_resize_rounds_half_up(run_op: Callable[..., Any]) -> None:
    """On one grid codes are interpolated and halves go up: between 0 and 1 lies 1, between 2 and 3 lies 3."""
    x, scales = np.array([[[0, 1, 2, 3]]], np.float32), np.array([1, 1, 2], np.float32)
    attributes = {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}
    for zero in (0, 7):
        grid = Encoding("uint8", 1.0, zero)
        outcome = run_op("Resize", [x, None, scales], [grid], grid, constants=(2,), **attributes)
        assert outcome.got.ravel().tolist() == [0, 1, 1, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("dtype", ACTIVATIONS)
def test_linear_resize_on_one_grid(
    dtype: str, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]
) -> None:
    """The mean of codes is the code of the mean: away from halves nothing differs from the float op between grids."""
    x, scales = normal(rng, 1, 3, 6, 5), np.array([1, 1, 1.7, 2.3], np.float32)
    grid = grid_of(x, dtype)
    run_op("Resize", [x, None, scales], [grid], grid, constants=(2,), mode="linear").check(0.98)


def test_concat(rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Concat copies codes on one grid and requantizes the inputs whose grid differs."""
    a, b = normal(rng, 2, 3, 4), 3 * normal(rng, 2, 5, 4)
    both = grid_of(np.concatenate([a, b], 1))
    run_op("Concat", [a, b], [both, both], both, axis=1).check(1, 0)
    run_op("Concat", [a, b], [grid_of(a), both], both, axis=1).check()
    run_op("Concat", [a, b], [grid_of(a), both], None, axis=1)


def test_split(rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Split takes sizes or makes equal parts, the last one smaller."""
    x = normal(rng, 3, 7, 2)
    grid = grid_of(x)
    run_op("Split", [x, np.array([2, 4, 1])], [grid], grid, constants=(1,), outputs=3, axis=1).check(1, 0)
    run_op("Split", [x], [grid], grid, outputs=3, axis=1, num_outputs=3).check(1, 0)


@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter(
    op: str, reduction: str, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]
) -> None:
    """Scatter writes updates; with a reduction it computes on real values."""
    x = normal(rng, 4, 5)
    indices = np.array([[0, 1, 3], [2, 0, 1]]) if op == "ScatterElements" else np.array([[1], [3]])
    updates = normal(rng, *((2, 3) if op == "ScatterElements" else (2, 5)))
    grid = grid_of(np.concatenate([x.ravel(), updates.ravel()]))
    run_op(op, [x, indices, updates], [grid, None, grid], grid, constants=(1,), reduction=reduction).check(0.95)


def test_types_and_shapes(rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Cast, Shape and ConstantOfShape equal the reference."""
    x = normal(rng, 3, 4)
    assert np.array_equal(run_op("Cast", [x], out=None, to=7).got, x.astype(np.int64))
    run_op("Cast", [np.arange(12).reshape(3, 4)], out=Encoding("uint8", 0.5, 0), to=1).check(1, 0)
    assert run_op("Shape", [x], [grid_of(x)], None, start=1).got.tolist() == [4]
    filled = run_op("ConstantOfShape", [np.array([2, 3])], out=None, constants=(0,), value=np.array([7], np.int64))
    assert np.array_equal(filled.got, np.full((2, 3), 7))


def test_einsum(rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Einsum of two activations; one that is a MatMul is computed as such."""
    a, b = normal(rng, 2, 3, 4), normal(rng, 2, 4, 5)
    product = run_op("Einsum", [a, b], [grid_of(a), grid_of(b)], equation="bij, bjk -> bik")
    product.check()
    run_op("Einsum", [a, b.transpose(0, 2, 1)], [grid_of(a), grid_of(b)], equation="bij,bkj->bik").check()
    run_op("Einsum", [a, a], [grid_of(a), grid_of(a)], equation="bij,bik->bjk").check()
    run_op("Einsum", [a, b[0]], [grid_of(a), grid_of(b)], equation="bij,jk->bik").check()
    old = run_op("Einsum", [a, b], [grid_of(a), grid_of(b)], "uint16", equation="bij,bjk->bik", soc="v68").got
    assert np.array_equal(old, run_op("MatMul", [a, b], [grid_of(a), grid_of(b)], "uint16", soc="v68").got)


def test_dropout(rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]) -> None:
    """Dropout does nothing at inference."""
    x = normal(rng, 3, 4)
    run_op("Dropout", [x], [grid_of(x)], grid_of(x)).check(1, 0)


def test_rms_normalization(rng: np.random.Generator) -> None:
    """RMSNormalization divides by the root of the mean square."""
    x, scale = normal(rng, 3, 4, 6), normal(rng, 6)
    node = Node("RMSNormalization", "n", ("x", "s"), ("y",), {"axis": -1, "epsilon": 0.01})
    (got,) = KERNELS["RMSNormalization"](Call(node, (Value(x), Value(scale)), (None,), {}))
    np.testing.assert_allclose(got, x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.01) * scale, rtol=1e-5)


def test_every_kernel_is_tested() -> None:
    """No kernel is without a test in this file, test_htp_recurrent.py or, the last ones, test_htp_float_ops.py."""
    tested = {*UNARY, *BINARY, *NORMS, *(row[0] for row in (*POOLS.values(), *MOVES.values()))}
    tested |= set(
        "Conv ConvTranspose Gemm MatMul Reciprocal Clip Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Not IsNaN "  # noqa: SIM905
        "IsInf Where BatchNormalization ReduceMean ReduceSum ReduceMax ReduceMin ReduceL2 ReduceSumSquare ReduceLogSumExp ArgMax "
        "ArgMin CumSum TopK OneHot NonZero Concat Split ScatterElements ScatterND Cast Shape ConstantOfShape LSTM GRU Einsum "
        "Dropout RMSNormalization GridSample "
        "LpPool MaxRoiPool RoiAlign RotaryEmbedding STFT SimplifiedLayerNormalization com.microsoft.FusedMatMul "
        "com.microsoft.Inverse com.microsoft.MatMulNBits com.microsoft.QuickGelu".split()
    )
    assert set(KERNELS) == tested


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_grid_sample(
    mode: str, padding: str, align: int, rng: np.random.Generator, run_op: Callable[..., Any], grid_of: Callable[..., Any]
) -> None:
    """Positions inside and outside of the image are read as ONNX says, in float and between 8-bit grids."""
    x, where = normal(rng, 2, 3, 6, 7), rng.uniform(-1.6, 1.6, (2, 5, 4, 2)).astype(np.float32)
    attributes = {"mode": mode, "padding_mode": padding, "align_corners": align}
    plain = run_op("GridSample", [x, where], out=None, **attributes)
    np.testing.assert_allclose(plain.got, plain.expected, atol=1e-5)
    run_op("GridSample", [x, where], [grid_of(x), grid_of(where)], **attributes).check(0.98)
