"""The manifest: where a package comes from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from pathlib import PurePath
from typing import Any

import attrs
import numpy as np

from npukit.backend import Selection
from npukit.errors import PackageError, UsageError

FORMAT_VERSION = 2
# Version 1 is version 2 without constants that are stored as codes, settings and a contract.
_READ = (1, 2)


def _text(value: str) -> str:
    """``value`` with what UTF-8 cannot say (bytes of a file name that is not UTF-8) as escapes."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _lines(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(_text(value) for value in values)


def _plain(value: Any) -> Any:
    """``value`` as the JSON data that it is read back as: tuples and sets become lists, paths text, numpy numbers plain ones."""
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, str | PurePath):
        return _text(str(value))
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"an option in a package must be finite, found {value}")
        return value
    if isinstance(value, Mapping):
        return {_text(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Set):
        return sorted((_plain(item) for item in value), key=str)
    raise UsageError(f"an option in a package must be plain data, found {type(value).__name__}")


def _options(value: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = _plain(value)
    return plain


@attrs.frozen
class Manifest:
    """Where a package comes from: backend, SoC and settings it was made for, options, seed, source, and the commands that made it.

    ``options`` is brought into the form that JSON gives back; UsageError when it is not plain data. ``source_hash`` is the
    SHA-256 of the source model's file in hex, ``history`` holds the command lines, oldest first.
    """

    backend: str = ""
    soc: str = ""
    options: Mapping[str, Any] = attrs.field(factory=dict, converter=_options)
    seed: int = 0
    source_name: str = attrs.field(default="", converter=_text)
    source_hash: str = ""
    history: tuple[str, ...] = attrs.field(default=(), converter=_lines)
    settings: Mapping[str, Any] = attrs.field(factory=dict, converter=_options)
    npukit_version: str = "0.1.0"
    format_version: int = FORMAT_VERSION

    @property
    def selection(self) -> Selection:
        """The names of the target that the package was made for."""
        return Selection(self.backend, self.soc, self.settings)


def manifest_to_json(manifest: Manifest, origin_names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """The content of manifest.json; the names that a graph's tensors had in the source file are kept there as well."""
    return attrs.asdict(manifest, recurse=False) | {"origin_names": origin_names}


_KINDS: Mapping[str, type] = {
    "options": dict,
    "settings": dict,
    "seed": int,
    "history": list,
    "format_version": int,
    "origin_names": dict,
}


def manifest_from_json(data: Any) -> tuple[Manifest, dict[str, tuple[str, ...]]]:
    """The manifest and the origin names. Raises PackageError for content of another form or version."""
    if not isinstance(data, dict):
        raise PackageError("manifest.json is not a JSON object")
    _check_version(data.get("format_version"))
    if data["format_version"] == 1:
        data = {"settings": {}, **data}
    names = {field.name for field in attrs.fields(Manifest)} | {"origin_names"}
    if set(data) != names:
        wrong = min(set(data) ^ names)
        raise PackageError(f"manifest.json: '{wrong[:80]}' is {'unknown' if wrong in data else 'missing'}")
    for name, value in data.items():
        kind = _KINDS.get(name, str)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise PackageError(f"manifest.json: '{name}' is {type(value).__name__}, expected {kind.__name__}")
    origins = data.pop("origin_names")
    for value in (data["history"], *origins.values()):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise PackageError("manifest.json: 'history' and 'origin_names' hold lists of text")
    return Manifest(**data), {name: tuple(value) for name, value in origins.items()}


def _check_version(version: Any) -> None:
    if version in _READ and type(version) is int:
        return
    newer = isinstance(version, int) and version > FORMAT_VERSION
    hint = "upgrade npukit" if newer else f"known: {', '.join(map(str, _READ))}"
    raise PackageError(f"package format {repr(version)[:20]} is not known", hint=hint)
