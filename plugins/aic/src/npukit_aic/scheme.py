"""The compiler's grids: Glow's four schemas for activations and constants, and its rule for biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import numpy as np

from npukit.backend import Precision, Scheme
from npukit.encoding import FLOAT_BITS, Array, Encoding
from npukit.errors import UsageError, did_you_mean
from npukit.graph import Tensor
from npukit_aic.glow.params import LIMITS, SCHEMAS, choose

POWER2 = "symmetric_with_power2_scale"
DEFAULT = "symmetric_with_uint8"
_ROUNDING = 1e-6  # relative: what float32 scales may be off


def _known(instance: object, attribute: Any, value: str) -> None:
    if value not in SCHEMAS:
        raise UsageError(f"quantization schema '{value}' is not known", hint=did_you_mean(value, SCHEMAS))


@attrs.frozen
class GlowScheme(Scheme):
    """Grids as Glow makes them (``npukit_aic.glow.params``).

    ``activations`` and ``weights`` are Glow's schemas here, and ``bias_room`` is for int32 biases; the other fields of a scheme say
    nothing in Glow. An offset of Glow is the zero point of a signed type, and grids are of signed types; an unsigned type that
    somebody asks for gets the same real values. The product rule for biases is that of specializeBiasQuantizationParams
    (https://github.com/pytorch/glow, lib/Quantization/Base).
    """

    schemas: ClassVar[tuple[str, ...]] = SCHEMAS
    activations: str = attrs.field(default=DEFAULT, validator=_known)
    weights: str = attrs.field(default=DEFAULT, validator=_known)
    bias_room: tuple[str, ...] = ("channel",)

    def activation(
        self, low: float, high: float, dtype: str, *, symmetric: bool | None = None, origin: str = "calibrated"
    ) -> Encoding:
        if dtype in FLOAT_BITS:
            return Encoding(dtype, origin=origin)
        return _grid(low, high, _schema(self.activations, symmetric), dtype, origin)

    def weight(
        self,
        data: Array,
        dtype: str,
        *,
        granularity: str = "tensor",
        axis: int | None = None,
        block_size: int | None = None,
        symmetric: bool | None = None,
        origin: str = "calibrated",
    ) -> Encoding:
        """Per tensor, or per index of ``axis``, where an asymmetric schema becomes symmetric; blocks are npukit's own."""
        if dtype in FLOAT_BITS:
            return Encoding(dtype, origin=origin)
        if granularity in ("block", "lpbq"):
            return Scheme().weight(
                data, dtype, granularity=granularity, axis=axis, block_size=block_size, symmetric=symmetric, origin=origin
            )
        if granularity == "tensor" or axis is None:
            return _grid(data.min(initial=0), data.max(initial=0), _schema(self.weights, symmetric), dtype, origin)
        axis %= data.ndim
        others = tuple(d for d in range(data.ndim) if d != axis)
        schema = "symmetric" if self.weights == "asymmetric" else _schema(self.weights, symmetric)
        return _grid(data.min(axis=others, initial=0), data.max(axis=others, initial=0), schema, dtype, origin, axis)

    def bias(self, x: Encoding | None, w: Encoding | None, bias: Tensor, dtype: str = "int32") -> Encoding | None:
        """int32: offset 0, and input scale x weight scale unless the bias would not fit, which then keeps a scale of its own range.

        int8: a grid of its own range by the schema of constants.
        """
        if x is None or w is None or x.is_float or w.is_float or bias.shape is None or bias.data is None:
            return None
        if dtype != "int32":
            return self.weight(bias.data, dtype, origin="derived")
        if w.granularity not in ("tensor", "channel"):
            return super().bias(x, w, bias, dtype)
        product = np.asarray(x.steps.astype(np.float64) * w.steps)
        own = self._bias_scale(bias.data, w)
        if own.shape != product.shape:
            return None
        fits = product >= own * (1 - _ROUNDING)
        scale = np.maximum(np.where(fits, product, own), np.finfo(np.float32).tiny)
        axis = len(bias.shape) - 1 if scale.ndim else None
        return Encoding(dtype, scale, axis=axis, symmetric=True, origin="derived")

    def with_room_for_bias(self, x: Encoding | None, w: Encoding, bias: Tensor) -> Encoding:
        """Weights of the granularities in ``bias_room`` with scales so large that the product rule holds for every int32 bias."""
        if x is None or x.is_float or w.granularity not in self.bias_room or bias.data is None:
            return w
        own = self._bias_scale(bias.data, w)
        if own.shape != w.steps.shape:
            return w
        return attrs.evolve(w, scale=np.maximum(w.steps, own / float(x.steps)))

    def rounded(self, scale: Array) -> Array:
        return np.asarray(np.exp2(np.ceil(np.log2(scale))) if self.weights == POWER2 else scale)

    def _bias_scale(self, bias: Array, w: Encoding) -> Array:
        """The least scale at which an int32 bias fits, 0 for one of zeros; float64, one for all or one for each value.

        The grid is symmetric whatever the schema, because the offset is 0 anyway.
        """
        schema = POWER2 if self.weights == POWER2 else "symmetric"
        values = bias.astype(np.float64).reshape(-1)
        low, high = (values, values) if w.granularity == "channel" else (values.min(initial=0), values.max(initial=0))
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        return np.where(low == high, 0.0, choose(low, high, schema, "int32").scale)


def glow_scheme(settings: Mapping[str, Any]) -> GlowScheme:
    """The scheme for the compiler's options by the names of qaic.Session's keywords; those that are missing have their defaults."""
    return GlowScheme(
        activations=settings.get("quantization_schema_activations", DEFAULT),
        weights=settings.get("quantization_schema_constants", DEFAULT),
        bias_room=("channel",) if glow_precision(settings).bias == "int32" else (),
    )


def glow_precision(settings: Mapping[str, Any]) -> Precision:
    """The types for the same options: int8, biases of int8 or int32, scales per output channel for Conv and for the rows of fully
    connected layers where that is asked for."""
    convolutions = ("Conv", "ConvTranspose") if settings.get("enable_channelwise") else ()
    rows = ("Gemm", "MatMul") if settings.get("enable_rowwise") else ()
    return Precision(
        activations="int8",
        weights="int8",
        bias=str(settings.get("quantization_precision_bias", "Int32")).lower(),
        per_channel=(*convolutions, *rows),
    )


def _schema(schema: str, symmetric: bool | None) -> str:
    """The schema where symmetry is asked for or ruled out."""
    if symmetric is None or (symmetric and schema == POWER2):
        return schema
    return "symmetric" if symmetric else "asymmetric"


def _grid(low: Any, high: Any, schema: str, dtype: str, origin: str, axis: int | None = None) -> Encoding:
    signed = dtype.removeprefix("u")
    found = choose(low, high, schema, signed)
    shift = 0 if dtype == signed else -LIMITS[signed][0]
    symmetric = not found.offset.any() and schema != "asymmetric"
    return Encoding(dtype, found.scale, found.offset + shift, axis=axis, symmetric=symmetric, origin=origin)
