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
    """code = clip(round_half_even(float32(sum + offset) * multiplier) + zero).

    ``multiplier`` is float32 and ``offset`` integers in float64, both () or one per channel as the scale of the sum. A chip that
    rounds in another way overrides ``codes_of`` and ``write``.
    """

    multiplier: Array
    offset: Array
    zero: int

    @property
    def is_qlinear(self) -> bool:
        """Whether ONNX Runtime's QLinear operators compute it."""
        return True

    def codes_of(self, values: Array, out: Encoding) -> Array:
        """Codes of ``out`` for exact integers ``values``, in a float type, that ``multiplier`` broadcasts with."""
        total = np.add(values, self.offset, dtype=np.float64).astype(np.float32)
        codes = np.rint(total * self.multiplier)
        return np.clip(codes + np.float32(self.zero), out.qmin, out.qmax).astype(container(out))

    def write(self, call: FastCall, total: str, spatial: int, out: Encoding) -> str | None:
        """The codes in ONNX for sums in float32, ``offset`` among them, whose channels stand before ``spatial`` axes; None when
        that cannot be written."""
        scaled = call.write("Mul", total, call.variable(spread(self.multiplier, spatial)))
        return call.write("QuantizeLinear", scaled, call.literal(np.float32(1)), call.code(self.zero, out))


def spread(factors: Array, spatial: int) -> Array:
    """Factors, () or one per channel, in a form that broadcasts with sums whose channels stand before ``spatial`` axes."""
    return factors.reshape(-1, *[1] * spatial) if factors.size > 1 else factors.reshape(())


Requantizer: TypeAlias = Callable[[Array, Encoding], Requantization]
"""The requantization for the scale of a sum and the encoding of the output, which is per tensor."""


def wide(scale: Array, out: Encoding) -> Requantization:
    """A float32 multiplier, the zero point added behind it: ONNX QLinearConv."""
    multiplier = (np.asarray(scale, np.float64) / float(out.steps)).astype(np.float32)
    return Requantization(multiplier, np.zeros(multiplier.shape), int(out.zeros))
