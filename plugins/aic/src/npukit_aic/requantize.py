"""Glow's requantization as kernels and segments of ONNX Runtime use it."""

from __future__ import annotations

import attrs
import numpy as np

from npukit.backend import FastCall
from npukit.backend.library import Requantization, spread
from npukit.encoding import Array, Encoding, container
from npukit_aic.glow.requantize import Multiplier, multiplier, scaled_by

# Up to here a float32 form is exact wherever the result does not saturate; see ``GlowRequantization.write``.
_POST, _PRE = 15, 7
_TIE_BREAK = np.float32(2.0 ** -(_POST + 1))


@attrs.frozen(eq=False)
class GlowRequantization(Requantization):
    """code = clip((((sum >> pre) * mul + round) >> post) + zero), pytorch/glow (Apache-2.0), lib/Quantization/Base."""

    by: Multiplier

    @property
    def is_qlinear(self) -> bool:
        return False

    def codes_of(self, values: Array, out: Encoding) -> Array:
        codes: Array = np.clip(scaled_by(values, self.by) + self.zero, out.qmin, out.qmax)
        return codes.astype(container(out))

    def write(self, call: FastCall, total: str, spatial: int, out: Encoding) -> str | None:
        """floor(sum / 2^pre) * (mul / 2^post) in float32, rounded half up.

        Within 256, beyond which 8 bits saturate, results are multiples of 2^-15 and float32 holds them. A sum above 2^24, which
        float32 rounds, gives more than that when ``pre`` is at most 7. QuantizeLinear rounds half to even: half of the least step
        is added, which moves ties up and nothing else over one.
        """
        if out.bits != 8 or int(self.by.post.max()) > _POST or int(self.by.pre.max()) > _PRE:
            return None
        if self.by.pre.any():
            shift = np.ldexp(np.float32(1), -self.by.pre).astype(np.float32)
            total = call.write("Floor", call.write("Mul", total, call.variable(spread(shift, spatial))))
        scaled = call.write("Mul", total, call.variable(spread(self.factor, spatial)))
        return call.write(
            "QuantizeLinear",
            call.write("Add", scaled, call.literal(_TIE_BREAK)),
            call.literal(np.float32(1)),
            call.code(self.zero, out),
        )


def glow(scale: Array, out: Encoding) -> GlowRequantization:
    """The requantization for the scale of a sum, () or (C,), and the encoding of the output, which is per tensor."""
    by = multiplier(np.asarray(scale, np.float64) / float(out.steps))
    factor = np.ldexp(by.mul.astype(np.float32), -by.post).astype(np.float32)
    return GlowRequantization(factor, np.zeros(factor.shape), int(out.zeros), by)
