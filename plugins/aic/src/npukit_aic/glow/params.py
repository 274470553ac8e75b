"""Quantization parameters in Glow's way: from a range to scale and offset, and the arithmetic on them.

Source of all rules: https://github.com/pytorch/glow (Apache-2.0), lib/Quantization/Base. Real values are ``scale * (q - offset)``
with signed codes, so an offset is a zero point of ``npukit.encoding.Encoding`` for a signed type. What others call uint8 is int8
with offset -128.
"""

from __future__ import annotations

import attrs
import numpy as np

from npukit.encoding import Array
from npukit.errors import EncodingError, UsageError, did_you_mean

SCHEMAS = ("asymmetric", "symmetric", "symmetric_with_uint8", "symmetric_with_power2_scale")
LIMITS = {"int8": (-128, 127), "int16": (-32768, 32767), "int32": (-(1 << 29), (1 << 29) - 1)}
"""The least and the largest code of a type. Two bits of int32, which only biases have, are left to the sums that they enter."""
_NO_RANGE_SCALE = 0.1


@attrs.frozen(eq=False)
class Params:
    """``scale``, float32, and ``offset``, int64, of one shape: () for a tensor, (C,) for channels."""

    scale: Array
    offset: Array


def is_symmetric(schema: str, low: float = -1.0) -> bool:
    """Whether the grid of a schema has the offset 0, when the least value is ``low``."""
    return schema in ("symmetric", "symmetric_with_power2_scale") or (schema == "symmetric_with_uint8" and low < 0)


def choose(low: Array | float, high: Array | float, schema: str, dtype: str = "int8") -> Params:
    """The parameters for real values in [low, high], scalars or (C,), in double precision until the last step.

    The range is widened to hold 0; one of 0 alone gets the scale 0.1. "symmetric_with_uint8" is "asymmetric" for a range without
    negative values, which gives the offset -128, and "symmetric" for others. "symmetric_with_power2_scale" rounds the scale of
    "symmetric" up to a power of two. Raises UsageError for an unknown schema or type, EncodingError for a range that is not finite
    or not ordered.
    """
    low, high = widened(low, high, schema, dtype)
    qmin, qmax = LIMITS[dtype]
    scale = (high - low) / (qmax - qmin)
    scale = np.where(scale == 0, _NO_RANGE_SCALE, scale)
    offset = _zero_point(low, high, scale, qmin, qmax)
    if schema == "symmetric_with_power2_scale":
        scale = np.exp2(np.ceil(np.log2(scale)))
    # A range below float32's normal numbers, or one that no float32 scale spans, would leave no usable scale.
    limits = np.finfo(np.float32)
    return Params(np.clip(scale, limits.tiny, limits.max).astype(np.float32), offset)


def widened(low: Array | float, high: Array | float, schema: str, dtype: str = "int8") -> tuple[Array, Array]:
    """The range that a grid of ``schema`` spans for [low, high], float64; raises as ``choose`` does.

    It holds 0, and for a symmetric schema the end that saturates later is moved out until 0 has the code 0.
    """
    if schema not in SCHEMAS:
        raise UsageError(f"quantization schema '{schema}' is not known", hint=did_you_mean(schema, SCHEMAS))
    if dtype not in LIMITS:
        raise UsageError(f"type '{dtype}' has no Glow grid", hint=f"one of {', '.join(LIMITS)}")
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high)) and np.all(low <= high)):
        raise EncodingError(f"a range must be finite and ordered, found [{np.min(low)}, {np.max(high)}]")
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    qmin, qmax = LIMITS[dtype]
    kept = (schema == "asymmetric") | ((schema == "symmetric_with_uint8") & (low >= 0))
    wider = np.where(kept, low, np.minimum(low, high / qmax * qmin))
    return wider, np.where(kept, high, np.maximum(high, low / qmin * qmax))


def quantise(values: Array, params: Params, dtype: str = "int8") -> Array:
    """Codes of float32 values: round(x / scale + offset) in float32, ties to even, saturated; ``params`` broadcast.

    Not ONNX's order, in which the offset is added after rounding: ties differ when the offset is odd.
    """
    qmin, qmax = LIMITS[dtype]
    kind = np.float32 if dtype != "int32" else np.float64  # float32 does not hold all codes of 30 bits
    with np.errstate(over="ignore"):  # an infinite quotient saturates
        codes = np.asarray(values, kind) / params.scale.astype(kind) + params.offset.astype(kind)
    rounded: Array = np.clip(np.rint(codes), qmin, qmax).astype(dtype)
    return rounded


def dequantise(codes: Array, params: Params) -> Array:
    """Real values of codes, float32; ``params`` broadcast."""
    return np.asarray(params.scale * (codes.astype(np.int64) - params.offset), np.float32)


def _zero_point(low: Array, high: Array, scale: Array, qmin: int, qmax: int) -> Array:
    """The code of 0, int64: reckoned from the end of the range at which less precision is lost."""
    below, above = low / scale, high / scale
    nearer_low = abs(qmin) + np.abs(below) < abs(qmax) + np.abs(above)
    zero = np.where(nearer_low, qmin - below, qmax - above)
    zero = np.where(np.abs(low + high) <= np.finfo(np.float32).eps, 0.0, zero)
    zero = np.clip(zero, qmin, qmax)
    return np.asarray(np.sign(zero) * np.floor(np.abs(zero) + 0.5), np.int64)  # half away from 0
