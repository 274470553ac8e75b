"""The JSON members of a package: strict JSON, and encodings without loss."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from npukit.encoding import Encoding
from npukit.errors import EncodingError, PackageError
from npukit.graph import Graph, Shape, Tensor


def dump_json(data: Any) -> bytes:
    """The one text that stands for ``data``: sorted keys, no spaces, ASCII."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_json(member: str, content: bytes) -> Any:
    """Strict JSON: UTF-8, no NaN, no infinity, no key twice, no half of a surrogate pair. Raises PackageError naming ``member``."""
    try:
        data = json.loads(content.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_unique)
        if b"\\u" in content:
            json.dumps(data, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{member} is damaged: {' '.join(str(error).split())[:160]}") from None
    return data


def _refuse(text: str) -> None:
    raise ValueError(f"it has the number {text}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def encodings_to_json(encodings: Mapping[str, Encoding], graph: Graph) -> dict[str, dict[str, Any]]:
    """The fields of every encoding; a float32 scale is written as the double of the same value, so that it comes back exactly.

    Raises EncodingError for an encoding that names no tensor of the graph or does not fit it: nobody could read it back.
    """
    entries = {}
    for name, encoding in encodings.items():
        check_fit(encoding, graph.tensor(name))
        values = attrs.asdict(encoding, recurse=False)
        entries[name] = {key: _plain(value) for key, value in values.items() if value is not None}
    return entries


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def encodings_from_json(data: Any) -> dict[str, Encoding]:
    """Raises PackageError when an entry has another form."""
    if not isinstance(data, dict):
        raise PackageError("encodings.json is not a JSON object")
    found = {}
    for name, entry in data.items():
        try:
            found[name] = _encoding(entry)
        except (EncodingError, ValueError, OverflowError) as error:
            raise _misfit(name, error) from None
    return found


def check_encodings(encodings: Mapping[str, Encoding], graph: Graph) -> None:
    """Raise PackageError when an encoding names no tensor of the graph, or does not fit that tensor."""
    for name, encoding in encodings.items():
        if name not in graph.tensors:
            raise PackageError(f"encodings.json names tensor '{name[:200]}', which the model does not have")
        try:
            check_fit(encoding, graph.tensors[name])
        except EncodingError as error:
            raise _misfit(name, error) from None


def _misfit(name: str, error: Exception) -> PackageError:
    return PackageError(f"encodings.json: tensor '{name[:200]}': {' '.join(str(error).split())[:160]}")


# numpy kinds: half-step grids have fractional zero points.
_ARRAYS = {"scale": "fi", "zero_point": "fi", "block_scale": "i"}
_SCALARS = {"dtype": str, "origin": str, "symmetric": bool, "axis": int, "block_size": int}


def _encoding(entry: Any) -> Encoding:
    if not isinstance(entry, dict):
        raise ValueError("its encoding is not a JSON object")
    for key, value in entry.items():
        if key in _ARRAYS:
            if np.array(value).dtype.kind not in _ARRAYS[key]:
                raise ValueError(f"'{key}' must be numbers")
        elif key not in _SCALARS:
            raise ValueError(f"'{key[:80]}' is not a part of an encoding")
        elif type(value) is not _SCALARS[key]:
            raise ValueError(f"'{key}' is {type(value).__name__}, expected {_SCALARS[key].__name__}")
    if "dtype" not in entry:
        raise ValueError("'dtype' is missing")
    return Encoding(**entry)


def check_fit(encoding: Encoding, tensor: Tensor) -> None:
    """Raise EncodingError unless the parts of an encoding fit one another and the tensor, as far as its shape is known.

    Unlike the arithmetic in npukit.encoding it never makes an array, so a shape that a damaged file claims costs nothing.
    """
    axis, block, shape = encoding.axis, encoding.block_size, tensor.shape
    if encoding.is_float and any(part is not None for part in (axis, block, encoding.block_scale, encoding.zero_point)):
        raise EncodingError(f"the {encoding.dtype} encoding of '{tensor.name}' has parts of a grid")
    if axis is None or shape is None:
        return
    if not -len(shape) <= axis < len(shape):
        raise EncodingError(f"the encoding of '{tensor.name}' is on axis {axis}, the tensor has rank {len(shape)}")
    axis %= len(shape)
    if not _scales_fit(encoding.steps.shape, shape, axis, block):
        size = "" if block is None else f" and blocks of {block}"
        raise EncodingError(
            f"the encoding of '{tensor.name}' has scales of shape {list(encoding.steps.shape)} on axis {axis}{size}, "
            f"the tensor is {list(shape)}"
        )


_SMALL_BLOCK = 1024


def _scales_fit(found: tuple[int, ...], shape: Shape, axis: int, block: int | None) -> bool:
    """One scale per channel, or one per block with the other dimensions in full or 1; a dimension that is open fits anything."""
    if block is None:
        return len(found) == 1 and (not isinstance(shape[axis], int) or found[0] == shape[axis])
    dim_on_axis = shape[axis]
    # The arithmetic spreads whole blocks, so one that is far larger than the tensor would cost its claimed size in memory.
    if len(found) != len(shape) or (isinstance(dim_on_axis, int) and block > max(dim_on_axis, _SMALL_BLOCK)):
        return False
    for index, (count, dim) in enumerate(zip(found, shape, strict=True)):
        expected = -(-dim // block) if isinstance(dim, int) and index == axis else dim
        if isinstance(expected, int) and count != expected and (count != 1 or index == axis):
            return False
    return True
