"""STFT, rotary embeddings and the inverse of small matrices: float32 between their grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from npukit.backend import Call, Kernel, Result, Value
from npukit.encoding import Array
from npukit.errors import ModelError


def inverse(call: Call) -> Sequence[Result]:
    """Inverse of com.microsoft for matrices (..., 2, 2), the adjugate over the determinant.

    Raises ModelError for larger ones. https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
    """
    x = call.value(0).real()
    if x.shape[-2:] != (2, 2):
        raise ModelError(f"node '{call.node.name}' (Inverse): only matrices of 2 x 2 are computed, these are {x.shape[-2:]}")
    a, b, c, d = (x[..., i, j] for i in (0, 1) for j in (0, 1))
    determinant = (a * d - b * c)[..., None, None]
    return [np.stack([np.stack([d, -b], -1), np.stack([-c, a], -1)], -2) / determinant]


def rotary_embedding(call: Call) -> Sequence[Result]:
    """ONNX RotaryEmbedding of (N, heads, S, D) or (N, S, heads * D); pairs of elements are turned by the cached angles.

    Su et al. 2021, https://arxiv.org/abs/2104.09864; https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html
    """
    node, x = call.node, call.value(0).real()
    heads = x.reshape(*x.shape[:2], int(node.get("num_heads", 0)), -1) if x.ndim == 3 else x.transpose(0, 2, 1, 3)
    size = int(node.get("rotary_embedding_dim", 0)) or heads.shape[-1]
    cos, sin = (_cached(call.value(i), call.optional(3)) for i in (1, 2))
    turned = heads.copy()
    first, second = (
        (slice(0, size, 2), slice(1, size, 2)) if node.get("interleaved", 0) else (slice(size // 2), slice(size // 2, size))
    )
    turned[..., first] = cos * heads[..., first] - sin * heads[..., second]
    turned[..., second] = sin * heads[..., first] + cos * heads[..., second]
    return [turned.reshape(x.shape) if x.ndim == 3 else turned.transpose(0, 2, 1, 3)]


def _cached(cache: Value, positions: Value | None) -> Array:
    """The cosines or sines of every token, (N, S, 1, D / 2)."""
    values = cache.real() if positions is None else cache.real()[positions.data]
    return values[:, :, None]


def stft(call: Call) -> Sequence[Result]:
    """ONNX STFT of a real signal (N, L, 1) or a complex one (N, L, 2) -> (N, frames, bins, 2).

    A product of the frames with the window times the Fourier basis, which a float16 STFT rounds too.
    https://onnx.ai/onnx/operators/onnx__STFT.html
    """
    x, step, window = call.value(0).real(), int(call.value(1).data), call.optional(2)
    given = call.optional(3)
    length = int(given.data) if given is not None else window.data.shape[0] if window is not None else x.shape[1]
    bins = length // 2 + 1 if call.node.get("onesided", 1) else length
    angle = 2 * np.pi * np.outer(np.arange(length), np.arange(bins)) / length
    weight = np.ones(length) if window is None else window.real().astype(np.float64)
    dtype = np.float16 if call.type == "float16" else np.float32
    cos, sin = (np.asarray(weight[:, None] * f(angle), dtype).astype(np.float32) for f in (np.cos, np.sin))
    frames = np.lib.stride_tricks.sliding_window_view(x, length, 1)[:, ::step]
    real: Array = frames[:, :, 0] @ cos
    imaginary: Array = -(frames[:, :, 0] @ sin)
    if x.shape[2] == 2:
        real, imaginary = real + frames[:, :, 1] @ sin, imaginary + frames[:, :, 1] @ cos
    return [np.stack([real, imaginary], -1)]


TRANSFORM: Mapping[str, Kernel] = {
    "RotaryEmbedding": rotary_embedding,
    "STFT": stft,
    "com.microsoft.Inverse": inverse,
}
"""Linear maps that are no product with a weight."""
