"""Files without a header: the values of one tensor, least significant byte first."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from npukit.errors import DataError
from npukit.graph import Array, Tensor, numpy_type


def read_raw(file: Path, tensor: Tensor, *, native: bool = False) -> Array:
    """The values in a file, in the dtype of ``tensor`` and its shape, or with one element of its batch; an open batch counts as 1.

    The file holds float32 whatever the dtype (QAIRT's rule for input lists), with ``native`` the dtype itself. Raises DataError
    unless its size is exactly that of the tensor or of one element.
    """
    shape = _shape(tensor)
    if shape is None:
        raise DataError(f"file '{file}': input '{tensor.name}' has shape {list(tensor.shape or ())}, a raw file needs a fixed one")
    kept = numpy_type(tensor.dtype or "float32")
    held = kept.newbyteorder("<") if native else np.dtype("<f4")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read '{file}': {error.strerror}") from None
    whole, one = (math.prod(dims) * held.itemsize for dims in (shape, (1, *shape[1:])))
    if len(data) != whole and (len(data) != one or not shape):
        other = f" or {one} for one element of the batch" if one != whole and shape else ""
        what = f"input '{tensor.name}' takes {whole}{other} ({held.name}, shape {list(shape)})"
        raise DataError(f"file '{file}' has {len(data)} bytes, {what}")
    dims = shape if len(data) == whole else (1, *shape[1:])
    return np.frombuffer(data, held).astype(kept).reshape(dims)


def _shape(tensor: Tensor) -> tuple[int, ...] | None:
    if tensor.shape is None or not tensor.shape:
        return tensor.static_shape
    known = [d for d in tensor.shape[1:] if isinstance(d, int)]
    first = tensor.shape[0] if isinstance(tensor.shape[0], int) else 1
    return (first, *known) if len(known) == len(tensor.shape) - 1 else None
