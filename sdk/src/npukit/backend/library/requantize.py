"""From an exact sum to a code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs
import numpy as np

from npukit.backend import FastCall
from npukit.encoding import Array, Encoding, container


@attrs.frozen(eq=False)
class Requantization:
    """code = clip(round_half_even(float32(sum + offset) * factor) + zero), or divided by the factor where ``divides`` says so.

    ``factor`` is float32 and ``offset`` integers in float64, both () or one per channel as the scale of the sum. A chip that
    rounds in another way overrides ``codes_of`` and ``write``.
    """

    factor: Array
    offset: Array
    zero: int
    divides: bool = attrs.field(default=False, kw_only=True)

    @property
    def is_qlinear(self) -> bool:
        """Whether ONNX Runtime's QLinear operators compute it."""
        return not self.divides

    def codes_of(self, values: Array, out: Encoding) -> Array:
        """Codes of ``out`` for exact integers ``values``, in a float type, that ``factor`` broadcasts with."""
        total = np.add(values, self.offset, dtype=np.float64).astype(np.float32)
        codes = np.rint(total / self.factor if self.divides else total * self.factor)
        return np.clip(codes + np.float32(self.zero), out.qmin, out.qmax).astype(container(out))

    def write(self, call: FastCall, total: str, spatial: int, out: Encoding) -> str | None:
        """The codes in ONNX for sums in float32, ``offset`` among them, whose channels stand before ``spatial`` axes; None when
        that cannot be written."""
        if self.divides and (spatial or self.factor.size == 1):  # with a scale for every value in turn QuantizeLinear is slow
            factor = self.factor.reshape(-1 if self.factor.size > 1 else ())
            zeros = call.code(np.full(factor.shape, self.zero), out)
            return call.write("QuantizeLinear", total, call.literal(factor), zeros, axis=-1 - spatial)
        scaled = call.write("Div" if self.divides else "Mul", total, call.variable(spread(self.factor, spatial)))
        return call.write("QuantizeLinear", scaled, call.literal(np.float32(1)), call.code(self.zero, out))


def spread(factors: Array, spatial: int) -> Array:
    """Factors, () or one per channel, in a form that broadcasts with sums whose channels stand before ``spatial`` axes."""
    return factors.reshape(-1, *[1] * spatial) if factors.size > 1 else factors.reshape(())


Requantizer: TypeAlias = Callable[[Array, Encoding], Requantization]
"""The requantization for the scale of a sum and the encoding of the output, which is per tensor."""


def wide(scale: Array, out: Encoding) -> Requantization:
    """For 8 bits a float32 multiplier, the zero point added behind it: ONNX QLinearConv; else ONNX QuantizeLinear of the sum, whose
    scale is counted in steps of the sum."""
    ratio, divides = np.asarray(scale, np.float64) / float(out.steps), out.bits > 8
    factor = (1 / ratio if divides else ratio).astype(np.float32)
    return Requantization(factor, np.zeros(factor.shape), int(out.zeros), divides=divides)
