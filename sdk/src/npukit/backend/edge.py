"""The contract at the edge: what callers hand over and get at graph inputs and outputs when a session runs natively."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from npukit.encoding import FLOAT_BITS, Array, Encoding, container, dequantize, quantize
from npukit.errors import DataError, UsageError, did_you_mean
from npukit.graph import Shape, Tensor

# Where each dimension of a caller's layout stands in the model's own (channels behind the batch).
LAYOUTS = {
    "NCW": (0, 1, 2),
    "NWC": (0, 2, 1),
    "NCHW": (0, 1, 2, 3),
    "NHWC": (0, 2, 3, 1),
    "NCDHW": (0, 1, 2, 3, 4),
    "NDHWC": (0, 2, 3, 4, 1),
}


def _known(instance: object, attribute: Any, value: str) -> None:
    if value and value not in LAYOUTS:
        raise UsageError(f"there is no layout '{value}'", hint=did_you_mean(value, LAYOUTS), code="edge")


@attrs.frozen
class Edge:
    """One graph input or output as callers see it.

    ``dtype``: "" for the model's own type, "float32" or "float16" for real values in that type, or the integer type of the tensor's
    encoding for its codes. ``layout``: "" for the model's own order of dimensions, or NHWC, NWC, NDHWC for channels behind the
    others.
    """

    dtype: str = ""
    layout: str = attrs.field(default="", validator=_known)

    def check(self, tensor: Tensor, encoding: Encoding | None) -> None:
        """Raise UsageError when this is no contract for a tensor with that encoding."""
        name, shape = tensor.name, tensor.shape
        if self.layout and (shape is None or len(shape) != len(LAYOUTS[self.layout])):
            raise UsageError(f"layout {self.layout} does not fit '{name}', whose shape is {_text(shape)}", code="edge")
        if (
            not self.dtype
            or self.dtype == tensor.dtype
            or (tensor.is_float and self.dtype in FLOAT_BITS and self.dtype != "bfloat16")
        ):
            return
        found = "no encoding" if encoding is None else f"the encoding type {encoding.dtype}"
        if encoding is None or encoding.is_float or encoding.dtype != self.dtype:
            hint = "float32, float16, or the type of the encoding"
            raise UsageError(f"'{name}' cannot be handed over as {self.dtype}: it has {found}", hint=hint, code="edge")

    def native(self, tensor: Tensor, encoding: Encoding | None) -> Tensor:
        """The tensor as callers see it."""
        shape = tensor.shape
        if self.layout and shape is not None:
            shape = tuple(shape[axis] for axis in LAYOUTS[self.layout])
        return Tensor(tensor.name, str(self._dtype(tensor, encoding)), shape)

    def to_real(self, array: Array, tensor: Tensor, encoding: Encoding | None) -> Array:
        """A caller's array as the model takes it: real values in its own type and order. Raises DataError for another dtype."""
        expected = self._dtype(tensor, encoding)
        if array.dtype != expected:
            raise DataError(f"input '{tensor.name}' is {array.dtype}, natively it is {expected}")
        if self.layout:
            array = array.transpose(np.argsort(LAYOUTS[self.layout]))
        if encoding is not None and self._is_codes(encoding):
            return dequantize(array, encoding).astype(tensor.dtype, copy=False)
        return array.astype(tensor.dtype, copy=False)

    def from_real(self, array: Array, tensor: Tensor, encoding: Encoding | None) -> Array:
        """What a caller gets for a result of the model."""
        if encoding is not None and self._is_codes(encoding):
            array = quantize(array, encoding)
        array = array.astype(self._dtype(tensor, encoding), copy=False)
        return np.ascontiguousarray(array.transpose(LAYOUTS[self.layout])) if self.layout else array

    def _is_codes(self, encoding: Encoding) -> bool:
        return bool(self.dtype) and not encoding.is_float and self.dtype == encoding.dtype

    def _dtype(self, tensor: Tensor, encoding: Encoding | None) -> np.dtype[Any]:
        if encoding is not None and self._is_codes(encoding):
            return container(encoding)
        return np.dtype(self.dtype or tensor.dtype)


def _text(shape: Shape | None) -> str:
    return "not known" if shape is None else str(list(shape))
