"""Windows that slide over the spatial axes: padding, strided views and output sizes for convolutions and pooling."""

from __future__ import annotations

import math
from collections.abc import Iterable

import attrs
import numpy as np

from npukit.encoding import Array
from npukit.graph import Node


@attrs.frozen
class Window:
    """A kernel window over the spatial axes; every field has one entry per axis, ``pads`` has (begin, end).

    ``ceil_extra`` is the padding past the end that ceil_mode adds: windows may reach into it, averages do not count it.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    ceil_extra: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def is_pointwise(self) -> bool:
        """Whether each output element reads the one input element at its own position."""
        return set(self.kernel) <= {1} and set(self.strides) <= {1} and not any(sum(self.pads, ()))

    def padded(self, x: Array, fill: float = 0) -> Array:
        """``x`` (N, C, *spatial) with its padding, or ``x`` itself when there is none."""
        widths = [(begin, end + extra) for (begin, end), extra in zip(self.pads, self.ceil_extra, strict=True)]
        if not any(sum(widths, ())):
            return x
        shape = x.shape[:2] + tuple(n + begin + end for n, (begin, end) in zip(x.shape[2:], widths, strict=True))
        out = np.full(shape, fill, x.dtype)
        out[spatial(slice(begin, begin + n) for n, (begin, _) in zip(x.shape[2:], widths, strict=True))] = x
        return out

    def tap(self, padded: Array, position: tuple[int, ...]) -> Array:
        """View of the elements that kernel position ``position`` sees, shape (N, C, *out)."""
        axes = zip(position, self.dilations, self.out, self.strides, strict=True)
        return padded[spatial(slice(k * d, k * d + (o - 1) * s + 1, s) for k, d, o, s in axes)]

    def taps(self) -> list[tuple[int, ...]]:
        """All kernel positions in row-major order."""
        return list(np.ndindex(*self.kernel))

    def columns(self, padded: Array) -> Array:
        """im2col: every window as a column, shape (N, C, prod(kernel), prod(out))."""
        out = np.empty((*padded.shape[:2], math.prod(self.kernel), *self.out), padded.dtype)
        for index, position in enumerate(self.taps()):
            out[:, :, index] = self.tap(padded, position)
        return out.reshape(*out.shape[:3], -1)


def spatial(slices: Iterable[slice]) -> tuple[slice, ...]:
    """An index that takes all of the first two axes and ``slices`` of the others."""
    return (slice(None), slice(None), *slices)


def sliding_window(node: Node, shape: tuple[int, ...], kernel: tuple[int, ...]) -> Window:
    """The window of a Conv or pooling node over the spatial axes of size ``shape``, for a kernel of size ``kernel``.

    It has auto_pad, pads, strides, dilations and ceil_mode as ONNX defines them:
    https://onnx.ai/onnx/operators/onnx__Conv.html, https://onnx.ai/onnx/operators/onnx__MaxPool.html
    """
    rank = len(shape)
    strides = tuple(node.get("strides", (1,) * rank))
    dilations = tuple(node.get("dilations", (1,) * rank))
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    pads = _pads(node, shape, strides, reach)
    total = tuple(n + begin + end for n, (begin, end) in zip(shape, pads, strict=True))
    sizes = [(t - r) // s + 1 for t, r, s in zip(total, reach, strides, strict=True)]
    extra = [0] * rank
    if node.get("ceil_mode", 0):
        for axis in range(rank):
            size = -(-(total[axis] - reach[axis]) // strides[axis]) + 1
            # A window must start inside the input or its leading padding.
            size -= (size - 1) * strides[axis] >= shape[axis] + pads[axis][0]
            extra[axis] = max(0, (size - 1) * strides[axis] + reach[axis] - total[axis])
            sizes[axis] = size
    return Window(tuple(kernel), strides, dilations, pads, tuple(extra), tuple(sizes))


def _pads(node: Node, shape: tuple[int, ...], strides: tuple[int, ...], reach: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    rank = len(shape)
    mode = node.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        found = []
        for n, s, r in zip(shape, strides, reach, strict=True):
            amount = max(0, (-(-n // s) - 1) * s + r - n)
            small, large = amount // 2, amount - amount // 2
            found.append((small, large) if mode == "SAME_UPPER" else (large, small))
        return tuple(found)
    pads = (0,) * (2 * rank) if mode == "VALID" else tuple(node.get("pads", (0,) * (2 * rank)))
    return tuple((int(pads[axis]), int(pads[axis + rank])) for axis in range(rank))
