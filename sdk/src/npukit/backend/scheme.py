"""The encoding of a bias, which follows from those of its input and weight."""

from __future__ import annotations

import attrs
import numpy as np

from npukit.encoding import Encoding
from npukit.graph import Tensor

# Half of the int32 range for the bias leaves the other half to the products.
_INT32_ROOM = float(1 << 30)


def with_room_for_bias(x: Encoding | None, w: Encoding, bias: Tensor) -> Encoding:
    """The weight encoding with scales so large that the bias, at input scale x weight scale, fits into int32.

    Channels with tiny weights and 16-bit inputs would overflow otherwise; ONNX Runtime's and AIMET's quantizers do the same.
    """
    if x is None or x.is_float or w.granularity not in ("tensor", "channel") or bias.data is None:
        return w
    largest = np.abs(bias.data.astype(np.float64)).reshape(-1)
    least = (largest if w.granularity == "channel" else largest.max(initial=0)) / (float(x.steps) * _INT32_ROOM)
    if least.shape != w.steps.shape or np.all(least <= w.steps):
        return w
    return attrs.evolve(w, scale=np.maximum(w.steps, least))


def derived_bias(x: Encoding | None, w: Encoding | None, bias: Tensor) -> Encoding | None:
    """int32 with the product of both scales, or None when one side is float: then the bias stays float too."""
    if x is None or w is None or x.is_float or w.is_float or bias.shape is None:
        return None
    scale = np.asarray(x.steps.astype(np.float64) * w.steps.astype(np.float64))
    if w.granularity in ("block", "lpbq"):
        return None
    per_channel = scale.size > 1
    axis = len(bias.shape) - 1 if per_channel else None
    scale = scale.reshape(-1) if per_channel else scale.reshape(())
    # A float32 product of tiny scales may reach zero; the smallest normal number keeps the grid usable.
    tiny = np.finfo(np.float32).tiny
    return Encoding("int32", np.maximum(scale, tiny), axis=axis, symmetric=True, origin="derived")
