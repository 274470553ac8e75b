"""What the positions of a convolution's kernel see, as slices."""

from __future__ import annotations

import numpy as np

from npukit.backend import FastCall, Operand
from npukit.backend.kernels import Window


def windows(call: FastCall, x: Operand | str, window: Window, first: int, channels: int, fill: str = "") -> Operand | str:
    """What every kernel position sees of ``x``, one after the other along the axis ``channels``.

    The spatial axes of x follow each other from ``first`` on; the padding has the value ``fill``, 0 by default.
    """
    if window.is_pointwise:
        return x
    rank = 2 + len(window.out)
    if any(sum(window.pads, ())):
        pads = np.zeros((2, rank), np.int64)
        pads[:, first : first + len(window.pads)] = np.transpose(window.pads)
        x = call.write("Pad", x, call.literal(pads.reshape(-1)), *([fill] if fill else []))
    axes = tuple(range(first, first + len(window.out)))
    taps = [_tap(call, x, window, position, axes) for position in window.taps()]
    return call.write("Concat", *taps, axis=channels)


def _tap(call: FastCall, x: Operand | str, window: Window, position: tuple[int, ...], axes: tuple[int, ...]) -> str:
    """What one kernel position sees of the padded x."""
    begins = [k * d for k, d in zip(position, window.dilations, strict=True)]
    ends = [begin + (o - 1) * s + 1 for begin, o, s in zip(begins, window.out, window.strides, strict=True)]
    return call.write("Slice", x, *(call.literal(values, np.int64) for values in (begins, ends, axes, window.strides)))
