"""Kernels of the ops that the vendor's runtime computes in float between grids, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from npukit.encoding import Array
from npukit.errors import ModelError

MICROSOFT = "com.microsoft"


def normal(rng: np.random.Generator, *shape: int) -> Array:
    found: Array = rng.normal(size=shape).astype(np.float32)
    return found


def agree(
    run_op: Callable[..., Any], grid_of: Callable[..., Any], op: str, arrays: list[Array | None], data: int = 1, **options: Any
) -> None:
    """The op is right in float32, and one rounding away from it between 8-bit grids of its first ``data`` inputs (before v69)."""
    constants = tuple(range(data, len(arrays)))
    plain = run_op(op, arrays, out=None, constants=constants, **options)
    assert plain.got.dtype == plain.expected.dtype
    np.testing.assert_allclose(plain.got, plain.expected, rtol=1e-4, atol=1e-5 * np.abs(plain.expected).max())
    grids = [grid_of(x) for x in arrays[:data]]
    run_op(op, arrays, grids, constants=constants, soc="v68", **options).check(0.97)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [2, 3], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "pads": [1, 0, 2, 1]},
        {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"kernel_shape": [2, 2], "dilations": [2, 1]},
    ],
)
def test_lp_pool(p: int, attributes: dict[str, Any], rng: np.random.Generator, run_op: Any, grid_of: Any) -> None:
    """The p-norm of each window; padding adds nothing."""
    agree(run_op, grid_of, "LpPool", [normal(rng, 2, 3, 9, 11)], p=p, **attributes)


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[1], [0, 2], None])
def test_logarithm_of_a_sum(keep: int, axes: list[int] | None, rng: np.random.Generator, run_op: Any) -> None:
    """ReduceLogSumExp in float32, of values whose exponentials overflow too."""
    arrays = [100 * normal(rng, 2, 3, 4), *([np.array(axes)] if axes else [])]
    found = run_op("ReduceLogSumExp", arrays, out=None, constants=range(1, len(arrays)), keepdims=keep)
    np.testing.assert_allclose(found.got, found.expected, rtol=1e-5)


REGIONS = np.array([[0, 0, 8, 9], [2.2, 3.7, 7.1, 4.4], [-4, -3, 20, 5], [5, 5, 5, 5], [6, 6, 3, 3]], np.float32)


@pytest.mark.parametrize("transform", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_roi_align(transform: str, ratio: int, scale: float, rng: np.random.Generator, run_op: Any, grid_of: Any) -> None:
    """Averages of samples inside, across the border and outside; empty and turned regions too."""
    x, images = normal(rng, 2, 3, 9, 10), np.array([0, 1, 1, 0, 1])
    attributes = {"output_height": 3, "output_width": 2, "sampling_ratio": ratio, "spatial_scale": scale}
    arrays = [x, REGIONS, images]
    agree(run_op, grid_of, "RoiAlign", arrays, coordinate_transformation_mode=transform, **attributes)


def test_roi_align_without_regions(rng: np.random.Generator, run_op: Any) -> None:
    """No region gives an empty result."""
    arrays = [normal(rng, 1, 3, 4, 4), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)]
    assert run_op("RoiAlign", arrays, out=None, constants=(1, 2), output_height=2, output_width=5).got.shape == (0, 3, 2, 5)


def test_roi_align_takes_averages_only(rng: np.random.Generator, run_op: Any) -> None:
    """The chip has no maximum here, and the kernel says so."""
    with pytest.raises(ModelError, match="only mode avg"):
        run_op("RoiAlign", [normal(rng, 1, 3, 4, 4), REGIONS[:1], np.array([0])], out=None, constants=(1, 2), mode="max")


@pytest.mark.parametrize("scale", [1.0, 0.4])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16"])
def test_max_roi_pool(scale: float, dtype: str, rng: np.random.Generator, run_op: Any, grid_of: Any) -> None:
    """Codes are moved; a bin without a pixel is zero, also on a grid whose zero point is not."""
    x = normal(rng, 2, 3, 9, 10)
    regions = np.concatenate([np.array([[0], [1], [1], [0]], np.float32), REGIONS[:4]], 1)
    regions = np.concatenate([regions, [[0, 20, 20, 25, 25]]]).astype(np.float32)
    options = {"constants": (1,), "pooled_shape": [3, 2], "spatial_scale": scale}
    plain = run_op("MaxRoiPool", [x, regions], out=None, **options)
    np.testing.assert_array_equal(plain.got, plain.expected)
    assert not plain.got[-1].any() or scale != 1.0
    run_op("MaxRoiPool", [x, regions], [grid_of(x, dtype)], grid_of(x, dtype), soc="v68", **options).check(1, 0)


@pytest.mark.parametrize("attributes", [{}, {"alpha": 1.0}])
def test_quick_gelu(attributes: dict[str, Any], rng: np.random.Generator, run_op: Any, grid_of: Any) -> None:
    """x * sigmoid(alpha * x)."""
    agree(run_op, grid_of, "QuickGelu", [3 * normal(rng, 4, 60)], domain=MICROSOFT, **attributes)


def test_inverse(rng: np.random.Generator, run_op: Any, grid_of: Any) -> None:
    """The inverse of 2 x 2 matrices; larger ones are not on the chip."""
    x = normal(rng, 3, 4, 2, 2) + 3 * np.eye(2, dtype=np.float32)
    agree(run_op, grid_of, "Inverse", [x], domain=MICROSOFT)
    with pytest.raises(ModelError, match="only matrices of 2 x 2"):
        run_op("Inverse", [np.eye(3, dtype=np.float32)], out=None, domain=MICROSOFT)


@pytest.mark.parametrize(
    ("left", "right", "attributes"),
    [
        ((2, 3, 5, 8), (2, 3, 8, 4), {"alpha": 0.25}),
        ((2, 3, 8, 5), (2, 3, 8, 4), {"transA": 1}),
        ((5, 8), (4, 8), {"transB": 1, "alpha": -2.0}),
        ((3, 2, 5, 8), (2, 3, 8, 4), {"transBatchA": 1}),
        ((2, 3, 5, 8), (3, 2, 4, 8), {"transBatchB": 1, "transB": 1}),
    ],
)
def test_fused_matmul(
    left: tuple[int, ...], right: tuple[int, ...], attributes: dict[str, Any], rng: np.random.Generator, run_op: Any, grid_of: Any
) -> None:
    """alpha times the product of the operands, either of them transposed."""
    if "transBatchA" in attributes:  # (batch, rows, ...) stored as (rows, batch, ...)
        left = (5, 2, 3, 8)
    if "transBatchB" in attributes:
        right = (4, 2, 3, 8)
    agree(run_op, grid_of, "FusedMatMul", [normal(rng, *left), normal(rng, *right)], data=2, domain=MICROSOFT, **attributes)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize("zeros", ["none", "packed", "float"])
@pytest.mark.parametrize("columns", [96, 85])
def test_matmul_n_bits(
    bits: int, block: int, zeros: str, columns: int, rng: np.random.Generator, run_op: Any, grid_of: Any
) -> None:
    """A product with packed codes in blocks, the last of which may be part of one."""
    if bits == 8 and zeros == "float":
        pytest.skip("ONNX Runtime does not compute it")
    rows, blocks = 6, -(-columns // block)
    packed = rng.integers(0, 256, (rows, blocks, block * bits // 8)).astype(np.uint8)
    scales = rng.uniform(0.01, 0.1, (rows, blocks)).astype(np.float32)
    points: dict[str, Array | None] = {
        "none": None,
        "packed": rng.integers(0, 256, (rows, -(-blocks * bits // 8))).astype(np.uint8),
        "float": rng.uniform(0, 1 << bits, (rows, blocks)).astype(np.float32),
    }
    arrays = [normal(rng, 2, 7, columns), packed, scales, points[zeros], None, normal(rng, rows)]
    attributes = {"K": columns, "N": rows, "bits": bits, "block_size": block}
    agree(run_op, grid_of, "MatMulNBits", arrays, domain=MICROSOFT, **attributes)


@pytest.mark.parametrize("attributes", [{}, {"interleaved": 1}, {"rotary_embedding_dim": 4}])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("positions", [False, True])
def test_rotary_embedding(
    attributes: dict[str, Any], flat: bool, positions: bool, rng: np.random.Generator, run_op: Any, grid_of: Any
) -> None:
    """Pairs of elements are turned, for both layouts, by cached angles with and without positions."""
    batch, heads, tokens, size = 2, 3, 5, 8
    x = normal(rng, *((batch, tokens, heads * size) if flat else (batch, heads, tokens, size)))
    half = attributes.get("rotary_embedding_dim", size) // 2
    angles = normal(rng, *((9, half) if positions else (batch, tokens, half)))
    arrays = [x, np.cos(angles), np.sin(angles), *([rng.integers(0, 9, (batch, tokens))] if positions else [])]
    options = {"num_heads": heads} if flat else {}
    agree(run_op, grid_of, "RotaryEmbedding", arrays, opset=23, **attributes, **options)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("onesided", [0, 1])
def test_stft(parts: int, window: bool, onesided: int, rng: np.random.Generator, run_op: Any, grid_of: Any) -> None:
    """Frames of real and of complex signals, with and without a window."""
    if parts == 2 and onesided:
        pytest.skip("the spectrum of a complex signal has two sides")
    arrays = [normal(rng, 2, 75, parts), np.array(9), np.hanning(16).astype(np.float32) if window else None, np.array(16)]
    agree(run_op, grid_of, "STFT", arrays, onesided=onesided)


def test_stft_takes_its_length_from_the_window(rng: np.random.Generator, run_op: Any, grid_of: Any) -> None:
    """Without a frame length the window gives it."""
    agree(run_op, grid_of, "STFT", [normal(rng, 1, 64, 1), np.array(8), np.hamming(20).astype(np.float32)])


def test_simplified_layer_normalization(rng: np.random.Generator, run_op: Any, grid_of: Any) -> None:
    """What ONNX Runtime calls the RMS normalization."""
    arrays = [normal(rng, 3, 4, 6), normal(rng, 6)]
    agree(run_op, grid_of, "SimplifiedLayerNormalization", arrays, axis=-1, epsilon=0.01)
