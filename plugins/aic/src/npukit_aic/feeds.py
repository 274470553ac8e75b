"""What callers hand over, made into what a QPC takes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from npukit.encoding import Array
from npukit.errors import DataError, did_you_mean
from npukit_aic.qpc import Binding


def read_feeds(inputs: tuple[Binding, ...], given: Mapping[str, Any]) -> dict[str, Array]:
    """What is given, as the model takes it: cast to its dtypes, and reshaped to the first specialization that it fits.

    Raises DataError for an input that is missing, of no number type, or of another number of elements; warns of others.
    """
    arrays = {}
    for binding in inputs:
        if binding.name not in given:
            raise DataError(f"input '{binding.name}' is missing", hint=f"the model takes {', '.join(b.name for b in inputs)}")
        arrays[binding.name] = _cast(binding, given[binding.name])
    if len(given) > len(inputs):
        extra = [str(name) for name in given if name not in arrays]
        hint = did_you_mean(extra[0], arrays)
        warnings.warn(f"the model has no input {', '.join(map(repr, extra))}, which is ignored ({hint})", stacklevel=4)
    shapes = _fitting(inputs, arrays)
    return {name: arrays[name].reshape(shape) for name, shape in zip(arrays, shapes, strict=True)}


def _cast(binding: Binding, given: Any) -> Array:
    value = np.asarray(given)
    if value.dtype == binding.dtype:
        return value
    if value.dtype.kind not in "biuf":
        raise DataError(f"input '{binding.name}' is {value.dtype}, the model takes {binding.dtype}")
    with np.errstate(all="ignore"):
        return value.astype(binding.dtype)


def _fitting(inputs: tuple[Binding, ...], arrays: Mapping[str, Array]) -> tuple[tuple[int, ...], ...]:
    """The shapes of the first specialization that the arrays have, or else that they have the numbers of elements of."""
    compiled_for = list(zip(*(b.shapes for b in inputs), strict=True))
    found = tuple(value.shape for value in arrays.values())
    if found in compiled_for or not inputs:
        return found
    sizes = tuple(value.size for value in arrays.values())
    for shapes in compiled_for:
        if tuple(map(_count, shapes)) == sizes:
            return shapes
    for binding, shape, size in zip(inputs, found, sizes, strict=True):
        if all(_count(s) != size for s in binding.shapes):
            allowed = " or ".join(f"{list(s)} ({_count(s)} elements)" for s in dict.fromkeys(binding.shapes))
            raise DataError(f"input '{binding.name}' has shape {list(shape)} ({size} elements), the model takes {allowed}")
    shown = ", ".join(f"'{b.name}' {list(shape)}" for b, shape in zip(inputs, found, strict=True))
    raise DataError(f"the model is not compiled for inputs of these shapes together: {shown}", hint="see specializations")


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
