"""From int32 sums to int8 codes: Glow's shifts and an integer multiplier in place of the product with a factor.

Source: https://github.com/pytorch/glow (Apache-2.0), quantizeScaleOffset32To8. Whether the card computes in this very form is not
public. No int8 code is more than one away from the rounded product.
"""

from __future__ import annotations

import attrs
import numpy as np

from npukit.encoding import Array
from npukit.errors import EncodingError

_DEEPEST = 62  # shifts of int64; a factor that would need more gives 0 for every int32
_LEAST = 9  # of frexp: the exponent of 256, from which on a factor is not doubled for the sake of precision
_ENOUGH = 255  # the same for doublings that cost bits of x
_SHORT = 15  # the shift up to which a factor is doubled for the sake of precision


@attrs.frozen(eq=False)
class Multiplier:
    """A factor as ``((x >> pre) * mul + round) >> post`` with ``round`` half of ``1 << post``; int64, all of one shape."""

    pre: Array
    post: Array
    mul: Array


def multiplier(factor: Array | float) -> Multiplier:
    """The shifts and the integer that stand for ``factor``, input scale x weight scale / output scale, () or (C,).

    A power of two is a shift, or an integer. Raises EncodingError for a factor that is not finite and above 0.
    """
    m = np.asarray(factor, np.float64)
    if not np.all(np.isfinite(m) & (m > 0)):
        raise EncodingError(f"a requantization factor is finite and above 0, found {float(np.min(m))}")
    m = np.clip(m, 2.0**-_DEEPEST, 2.0**31)
    share, exponent = np.frexp(m)  # m = share * 2 ** exponent, share in [0.5, 1)
    # Doubled while m < 0.5, and on while m < 256 and the shift is below 15.
    post = np.maximum(np.maximum(-exponent, 0), np.clip(_LEAST - exponent, 0, _SHORT))
    scaled = np.ldexp(m, post)
    # Doubled further, at the cost of the lowest bits of x, while m < 255.
    rest, doublings = np.frexp(_ENOUGH / scaled)
    pre = np.clip(doublings - (rest == 0.5), 0, post // 2)
    mul = np.floor(np.ldexp(scaled, pre) + 0.5)
    power = share == 0.5
    pre = np.where(power, 0, pre)
    post = np.where(power, np.maximum(1 - exponent, 0), post)
    mul = np.where(power, np.ldexp(1.0, np.maximum(exponent - 1, 0)), mul)
    return Multiplier(*(np.asarray(part, np.int64) for part in (pre, post, mul)))


def scaled_by(values: Array, by: Multiplier) -> Array:
    """Integers times a factor, rounded, int64; ``by`` broadcasts against ``values``, which are below 2^31.

    In int64: Glow's int32 product wraps for values whose result saturates anyway.
    """
    x = np.asarray(values).astype(np.int64)
    x >>= by.pre
    x *= by.mul
    x += (np.int64(1) << by.post) >> 1
    x >>= by.post
    return x
