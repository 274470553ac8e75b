"""From an exact sum to a code with a multiplier of 11 significant bits, as before v73."""

from __future__ import annotations

import numpy as np

from npukit.backend.library import Requantization
from npukit.encoding import Array, Encoding

_SIGNIFICANT = 11  # bits of IEEE 754 binary16


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
