"""Encoding: how the real values of one tensor are stored."""

from __future__ import annotations

from typing import Any, TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from npukit.errors import EncodingError

Array: TypeAlias = npt.NDArray[Any]

INT_BITS = {f"{sign}int{bits}": bits for sign in ("", "u") for bits in (2, 3, 4, 8, 16, 32)}
FLOAT_BITS = {"float16": 16, "bfloat16": 16, "float32": 32}


def _numbers(value: Any, what: str) -> Array:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise EncodingError(f"{what} must be numbers in a regular array") from None


def _as_scale(value: Any) -> Array | None:
    if value is None:
        return None
    with np.errstate(over="ignore"):  # beyond float32 it becomes infinite, which is refused
        return _numbers(value, "scales").astype(np.float32)


def _as_zero_point(value: Any) -> Array | None:
    """Integers, except for grids shifted by half a step (2-bit weights at -1.5, -0.5, 0.5, 1.5 steps, as AIMET has them)."""
    if value is None:
        return None
    found = _numbers(value, "zero points and block scales")
    if not np.all(np.abs(found) <= 2.0**53):
        raise EncodingError("zero points and block scales must be finite and below 2^53")
    return found.astype(np.int64) if np.all(found == np.rint(found)) else found


@attrs.frozen(eq=False)
class Encoding:
    """A quantization grid, or a float type.

    An integer encoding means ``real = (q - zero_point) * scale`` with q in [qmin, qmax] of ``dtype`` (the ONNX convention:
    https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html).

    - per-tensor: ``scale`` and ``zero_point`` have shape (), ``axis`` is None;
    - per-channel: shape (C,), ``axis`` is the channel axis;
    - per-block: the rank of the tensor, with dim ``axis`` equal to ceil(D / block_size), and ``block_size`` set;
    - LPBQ: per-block, plus ``block_scale``, integers of the same shape; ``scale / block_scale`` is constant along ``axis``.

    A float encoding ("float16", "bfloat16", "float32") has neither scale nor zero point. ``symmetric`` says that the grid was
    meant to be symmetric about zero (signed with zero point 0, or unsigned with the zero point in the middle). ``origin`` says
    where it comes from: override, propagated, calibrated, derived, fixed, optimizer:NAME, fallback:float16.
    """

    dtype: str
    scale: Array | None = attrs.field(default=None, converter=_as_scale)
    zero_point: Array | None = attrs.field(default=None, converter=_as_zero_point)
    axis: int | None = None
    block_size: int | None = None
    block_scale: Array | None = attrs.field(default=None, converter=_as_zero_point)
    symmetric: bool = False
    origin: str = "calibrated"

    def __attrs_post_init__(self) -> None:
        if self.dtype in FLOAT_BITS:
            if self.scale is not None:
                raise EncodingError(f"a {self.dtype} encoding has no scale")
            return
        if self.dtype not in INT_BITS:
            raise EncodingError(f"unknown encoding type '{self.dtype}'", hint=f"one of {', '.join([*INT_BITS, *FLOAT_BITS])}")
        if self.scale is None:
            raise EncodingError(f"a {self.dtype} encoding needs a scale")
        if not np.all(np.isfinite(self.scale)) or not np.all(self.scale > 0):
            raise EncodingError(f"a scale must be finite and above 0, found {float(np.min(self.scale))}")
        self._check_form(self.scale)
        zero = np.zeros(self.scale.shape, np.int64) if self.zero_point is None else self.zero_point
        if zero.size not in (1, self.scale.size):
            raise EncodingError(f"{self.scale.size} scales, but {zero.size} zero points")
        if np.any(zero < self.qmin) or np.any(zero > self.qmax):
            raise EncodingError(
                f"a zero point of {self.dtype} lies in [{self.qmin}, {self.qmax}], found {zero.min()}..{zero.max()}"
            )
        # A tensor with one grid has a scale without dimensions, however it was given.
        shape = () if self.axis is None else self.scale.shape
        object.__setattr__(self, "scale", self.scale.reshape(shape))
        full = np.broadcast_to(zero.reshape(-1), self.scale.size) if zero.shape != self.scale.shape else zero
        object.__setattr__(self, "zero_point", full.reshape(shape))

    def _check_form(self, scale: Array) -> None:
        """Axis, block size and number of scales fit together."""
        if not isinstance(self.axis, int | np.integer | None) or not isinstance(self.block_size, int | np.integer | None):
            raise EncodingError(f"axis and block size are integers, found {self.axis!r} and {self.block_size!r}")
        if scale.size == 0 or (self.axis is None and scale.size != 1):
            raise EncodingError(f"{scale.size} scales need an axis" if scale.size else "an encoding needs a scale, found none")
        if self.block_size is not None and (self.block_size < 1 or self.axis is None):
            raise EncodingError(f"blocks have at least 1 value along an axis, found size {self.block_size} on axis {self.axis}")
        factors = self.block_scale
        if factors is not None and (factors.shape != scale.shape or factors.dtype.kind == "f" or np.any(factors < 1)):
            raise EncodingError("block scales must be integers above 0, one for each scale")

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOAT_BITS

    @property
    def bits(self) -> int:
        return FLOAT_BITS.get(self.dtype) or INT_BITS[self.dtype]

    @property
    def signed(self) -> bool:
        return not self.dtype.startswith("u")

    @property
    def qmin(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        return (1 << (self.bits - (1 if self.signed else 0))) - 1

    @property
    def granularity(self) -> str:
        """One of "float", "tensor", "channel", "block", "lpbq"."""
        if self.is_float:
            return "float"
        if self.axis is None:
            return "tensor"
        if self.block_size is None:
            return "channel"
        return "block" if self.block_scale is None else "lpbq"

    @property
    def steps(self) -> Array:
        """The scale of an integer encoding, float32."""
        if self.scale is None:
            raise EncodingError(f"a {self.dtype} encoding has no scale")
        return self.scale

    @property
    def zeros(self) -> Array:
        """The zero point of an integer encoding, int64, same shape as the scale."""
        if self.zero_point is None:
            raise EncodingError(f"a {self.dtype} encoding has no zero point")
        return self.zero_point

    @property
    def min(self) -> Array:
        """The smallest real value on the grid, float64, shape of the scale."""
        return (self.qmin - self.zeros) * self.steps.astype(np.float64)

    @property
    def max(self) -> Array:
        """The largest real value on the grid, float64, shape of the scale."""
        return (self.qmax - self.zeros) * self.steps.astype(np.float64)

    def same_grid(self, other: Encoding) -> bool:
        """Whether both describe the same codes and the same real values; the origin does not matter."""
        if self.dtype != other.dtype or self.axis != other.axis or self.block_size != other.block_size:
            return False
        if self.is_float:
            return True
        return np.array_equal(self.steps, other.steps) and np.array_equal(self.zeros, other.zeros)

    def with_origin(self, origin: str) -> Encoding:
        return attrs.evolve(self, origin=origin)
