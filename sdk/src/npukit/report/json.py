"""Any result as JSON-safe data."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Set
from pathlib import PurePath
from typing import Any

import attrs
import numpy as np


def to_json(obj: Any) -> Any:
    """``obj`` as data that ``json.dumps(..., allow_nan=False)`` takes.

    Frozen classes become mappings of their public fields, arrays become (nested) lists, NaN and infinities become None, sets
    become sorted lists, paths and enums become text; keys of mappings become text. Raises TypeError for anything else.
    """
    if obj is None or isinstance(obj, bool | int | str):
        return obj
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, np.generic | np.ndarray):
        return _array(obj)
    if isinstance(obj, Mapping):
        return {_key(key): to_json(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [to_json(item) for item in obj]
    if isinstance(obj, Set):
        return sorted((to_json(item) for item in obj), key=str)
    return _other(obj)


def _array(obj: Any) -> Any:
    if obj.dtype.kind in "biufUS":
        return to_json(obj.tolist())
    # Types that numpy does not know (bfloat16, int4, float8) are exact in float64.
    return to_json(np.asarray(obj, dtype=np.float64).tolist())


def _key(key: Any) -> str:
    return str(key.value) if isinstance(key, enum.Enum) else str(key)


def _other(obj: Any) -> Any:
    if isinstance(obj, bytes):
        return obj.decode("utf-8", "backslashreplace")
    if isinstance(obj, PurePath):
        return str(obj)
    if isinstance(obj, enum.Enum):
        return to_json(obj.value)
    if attrs.has(type(obj)):
        fields = attrs.fields(type(obj))
        return {field.name: to_json(getattr(obj, field.name)) for field in fields if not field.name.startswith("_")}
    raise TypeError(f"a {type(obj).__name__} has no JSON form")
