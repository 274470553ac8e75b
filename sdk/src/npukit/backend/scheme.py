"""Scheme: how the ranges, weights and biases of a chip become grids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar

import attrs
import numpy as np

from npukit.encoding import FLOAT_BITS, MIN_RANGE, Array, Encoding, GridForm, encoding_for_range, encoding_for_weights
from npukit.errors import EncodingError
from npukit.graph import Tensor

SCHEMAS = ("asymmetric", "symmetric", "unsigned-symmetric", "symmetric-with-uint8")
# Half of the int32 range for the bias leaves the other half to the products.
_INT32_ROOM = float(1 << 30)


def _names(value: Iterable[str]) -> tuple[str, ...]:
    return tuple(value)


def _known(instance: object, attribute: Any, value: str) -> None:
    if value not in SCHEMAS:
        raise EncodingError(f"there is no schema '{value}'", hint=f"one of {', '.join(SCHEMAS)}")


@attrs.frozen
class Scheme:
    """How grids are made. The default is that of most accelerators: asymmetric activations, signed symmetric weights, int32 biases
    at input scale times weight scale.

    ``activations`` and ``weights`` name schemas. "asymmetric": the range is spread over all codes. "symmetric": zero point 0
    (unsigned types: in the middle). "unsigned-symmetric": a range without negative values gets the unsigned type of the same width
    with zero point 0, another one the signed symmetric grid (AIMET's flag of that name). "symmetric-with-uint8": the same in a
    signed type, whose lowest code is then the zero point (Glow's SymmetricWithUInt8, https://github.com/pytorch/glow). Weights of
    unsigned types stay asymmetric unless a constraint asks for symmetry.

    ``power_of_two`` rounds scales up to powers of two. ``limits`` are the only codes used of a type ({"int8": (-127, 127)});
    ``min_range`` is the least width of a range. ``bias_room`` lists the granularities of weights whose scales grow until an int32
    bias fits; ``bias_per_channel`` gives 8-bit biases one scale per value; ``signed_channels`` gives symmetric weights with scales
    per channel the signed type. A chip with other rules overrides the methods; one with other schemas lists them in ``schemas``.
    """

    schemas: ClassVar[tuple[str, ...]] = SCHEMAS
    activations: str = attrs.field(default="asymmetric", validator=_known)
    weights: str = attrs.field(default="symmetric", validator=_known)
    power_of_two: bool = False
    limits: Mapping[str, tuple[int, int]] = attrs.field(factory=dict)
    min_range: float = MIN_RANGE
    bias_room: tuple[str, ...] = attrs.field(default=("tensor", "channel"), converter=_names)
    bias_per_channel: bool = False
    signed_channels: bool = False

    @cached_property
    def form(self) -> GridForm:
        """What all grids have in common."""
        return GridForm(self.limits, self.power_of_two, self.min_range)

    def activation(
        self, low: float, high: float, dtype: str, *, symmetric: bool | None = None, origin: str = "calibrated"
    ) -> Encoding:
        """The grid of type ``dtype`` for real values in [low, high]; ``symmetric`` True or False overrules the schema."""
        if dtype in FLOAT_BITS:
            return Encoding(dtype, origin=origin)
        schema = self.activations if symmetric is None else "symmetric" if symmetric else "asymmetric"
        if schema in ("unsigned-symmetric", "symmetric-with-uint8"):
            signed = f"int{dtype.partition('int')[2]}"
            if low < 0:
                dtype, schema = signed, "symmetric"
            elif schema == "unsigned-symmetric":
                dtype = f"u{signed}"
            else:
                dtype = signed
        return encoding_for_range(low, high, dtype, symmetric=schema == "symmetric", origin=origin, form=self.form)

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
        """The grid of type ``dtype`` for constant values; the parameters are those of ``encoding_for_weights``."""
        if symmetric is None and granularity == "tensor" and self.weights == "unsigned-symmetric" and data.min(initial=0) >= 0:
            dtype, symmetric = f"uint{dtype.partition('int')[2]}", False  # a range from 0 has its zero point at 0
        if symmetric is None:
            symmetric = self.weights != "asymmetric" and not dtype.startswith("u")
        if symmetric and self.signed_channels and granularity == "channel":
            dtype = dtype.removeprefix("u")
        return encoding_for_weights(
            data,
            dtype,
            granularity=granularity,
            axis=axis,
            block_size=block_size,
            symmetric=symmetric,
            origin=origin,
            form=self.form,
        )

    def bias(self, x: Encoding | None, w: Encoding | None, bias: Tensor, dtype: str = "int32") -> Encoding | None:
        """The grid of a bias behind input ``x`` and weight ``w``: their product of scales, zero point 0; None: it stays float.

        Of scales per block the largest one of a channel counts. A bias of fewer bits, which could not hold that, gets a symmetric
        grid of its own range.
        """
        if x is None or w is None or x.is_float or w.is_float or bias.shape is None:
            return None
        if dtype in ("int8", "uint8"):
            form: dict[str, Any] = {"granularity": "channel", "axis": len(bias.shape) - 1} if self.bias_per_channel else {}
            return None if bias.data is None else self.weight(bias.data, dtype, symmetric=True, origin="derived", **form)
        steps = w.steps.astype(np.float64)
        if w.granularity in ("block", "lpbq"):
            channel = next((a for a, size in enumerate(steps.shape) if a != w.axis and size == bias.shape[-1]), None)
            if channel is None:
                return None
            steps = steps.max(axis=tuple(a for a in range(steps.ndim) if a != channel))
        scale = np.asarray(x.steps.astype(np.float64) * steps)
        per_channel = scale.size > 1
        axis = len(bias.shape) - 1 if per_channel else None
        scale = scale.reshape(-1) if per_channel else scale.reshape(())
        # A float32 product of tiny scales may reach zero; the smallest normal number keeps the grid usable.
        tiny = np.finfo(np.float32).tiny
        return Encoding(dtype, np.maximum(scale, tiny), axis=axis, symmetric=True, origin="derived")

    def with_room_for_bias(self, x: Encoding | None, w: Encoding, bias: Tensor) -> Encoding:
        """The weight encoding with scales so large that the bias, at input scale x weight scale, fits into int32.

        Channels with tiny weights and 16-bit inputs would overflow otherwise; ONNX Runtime's and AIMET's quantizers do the same.
        """
        if x is None or x.is_float or w.granularity not in self.bias_room or bias.data is None:
            return w
        largest = np.abs(bias.data.astype(np.float64)).reshape(-1)
        least = (largest if w.granularity == "channel" else largest.max(initial=0)) / (float(x.steps) * _INT32_ROOM)
        if least.shape != w.steps.shape or np.all(least <= w.steps):
            return w
        return attrs.evolve(w, scale=self.rounded(np.maximum(w.steps, least)))

    def rounded(self, scale: Array) -> Array:
        """Scales, any shape, as this scheme has them: rounded up to powers of two where it asks for these."""
        return np.asarray(np.exp2(np.ceil(np.log2(scale))) if self.power_of_two else scale)
