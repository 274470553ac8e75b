"""Slicing specs: which part of a caller's larger array a binding is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import attrs

from npukit.encoding import Array
from npukit_aic.crt.network import Handed
from npukit_aic.crt.status import CallError
from npukit_aic.qpc import Binding


@attrs.frozen
class _BufferSpec:
    """Where the part of bindings of some names begins: a number or a symbol for every dimension."""

    pattern: str
    item_size: int
    starts: tuple[int | str, ...]

    def covers(self, name: str) -> bool:
        """Whether the pattern, a regular expression or one with wildcards, fits a name, or its end behind a path."""
        return any(fnmatchcase(n, self.pattern) or self._expression(n) for n in (name, name.rpartition("/")[2]))

    def _expression(self, name: str) -> bool:
        try:
            return re.fullmatch(self.pattern, name) is not None
        except re.error:
            return False


class SlicingSpec:
    """What a handle of ``Program.createSlicingSpecHandle`` stands for."""

    def __init__(self, text: str) -> None:
        """Read the JSON text. Raises CallError for content of another form."""
        try:
            self._specs = tuple(_buffer_spec(entry) for entry in json.loads(text)["BufferSpecs"])
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
            hint = '{"BufferSpecs": [{"Name": "past_key.*", "ElemSize": 2, "DimSpecs": [{"start": "batch_index"}, {"start": 0}]}]}'
            raise CallError("this is no slicing spec", hint=hint) from None

    def handed(self, binding: Binding, memory: Array, symbols: Mapping[str, int]) -> Handed:
        """A caller's array of which the binding is a part. Raises CallError when no spec says which, or one that does not fit."""
        spec = next((spec for spec in self._specs if spec.covers(binding.name)), None)
        if spec is None:
            raise CallError(f"the slicing spec has no Name that fits '{binding.name}'", hint=self._known())
        if spec.item_size != binding.dtype.itemsize:
            found = f"'{binding.name}' has {binding.dtype.itemsize}"
            raise CallError(f"ElemSize of '{spec.pattern}' is {spec.item_size} bytes, {found}")
        if len(spec.starts) != memory.ndim:
            found = f"the array for '{binding.name}' has {memory.ndim} dimensions"
            raise CallError(f"'{spec.pattern}' has {len(spec.starts)} DimSpecs, {found}")
        return Handed.of(memory, tuple(_offset(start, symbols, spec) for start in spec.starts))

    def _known(self) -> str:
        return ", ".join(spec.pattern for spec in self._specs)


def _buffer_spec(entry: Mapping[str, Any]) -> _BufferSpec:
    starts = tuple(_start(dimension) for dimension in entry["DimSpecs"])
    return _BufferSpec(str(entry["Name"]), int(entry["ElemSize"]), starts)


def _start(dimension: Mapping[str, Any]) -> int | str:
    start: int | str = dimension["start"]
    if len(dimension) != 1 or type(start) not in (int, str):
        raise ValueError
    return start


def _offset(start: int | str, symbols: Mapping[str, int], spec: _BufferSpec) -> int:
    if isinstance(start, str) and start not in symbols:
        raise CallError(f"'{spec.pattern}' begins at '{start}', for which no offset is given", hint=f"given: {', '.join(symbols)}")
    found = int(symbols[start] if isinstance(start, str) else start)
    if found < 0:
        raise CallError(f"'{spec.pattern}' begins at {found}", hint="offsets are 0 or more")
    return found
