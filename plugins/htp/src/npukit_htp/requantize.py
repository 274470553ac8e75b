"""From an exact sum to a code: one multiplier, of 24 significant bits or, before v73, of 11."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs
import numpy as np

from npukit.encoding import Array, Encoding, container

_SIGNIFICANT = 11  # bits of IEEE 754 binary16


@attrs.frozen(eq=False)
class Requantization:
    """code = clip(round_half_even(float32(sum + offset) * multiplier) + zero).

    ``multiplier`` is float32 and ``offset`` integers in float64, both () or one per channel as the scale of the sum.
    """

    multiplier: Array
    offset: Array
    zero: int


Scheme: TypeAlias = Callable[[Array, Encoding], Requantization]
"""The requantization for the scale of a sum and the encoding of the output, which is per tensor."""


def wide(scale: Array, out: Encoding) -> Requantization:
    """A float32 multiplier, the zero point added behind it: ONNX QLinearConv."""
    multiplier = (np.asarray(scale, np.float64) / float(out.steps)).astype(np.float32)
    return Requantization(multiplier, np.zeros(multiplier.shape), int(out.zeros))


def narrow(scale: Array, out: Encoding) -> Requantization:
    """A multiplier of 11 significant bits, the zero point added to the int32 bias before it.

    That the simulator computes so before v73 is an observation: its error is that of the multiplier in binary16 times the code. It
    is a choice of a number format, nothing in it is fitted.
    """
    exact = np.asarray(scale, np.float64) / float(out.steps)
    fraction, exponent = np.frexp(exact)
    multiplier = np.ldexp(np.rint(fraction * (1 << _SIGNIFICANT)), exponent - _SIGNIFICANT).astype(np.float32)
    offset: Array = np.rint((int(out.zeros) - out.qmin) / exact)
    return Requantization(multiplier, offset, out.qmin)


def codes_of(values: Array, how: Requantization, out: Encoding) -> Array:
    """Codes of ``out`` for exact integers ``values``, in a float type, that ``how`` broadcasts with."""
    total = np.add(values, how.offset, dtype=np.float64).astype(np.float32)
    codes = np.rint(total * how.multiplier)
    return np.clip(codes + np.float32(how.zero), out.qmin, out.qmax).astype(container(out))
