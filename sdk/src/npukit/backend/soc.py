"""Chips as data, and the order of their architectures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import attrs

from npukit.backend.yaml_file import read_yaml
from npukit.errors import PluginError

_KINDS: dict[str, Any] = {
    "name": str,
    "arch": str,
    "id": int | None,
    "title": str,
    "memory_mb": float | int | None,
    "source": str,
    "features": Mapping,
}


@attrs.frozen
class Soc:
    """A chip, as data. ``arch`` orders generations ("v73", "v2.1"); ``features`` has what else op constraints may ask for, by name
    ({"depthwise": True}); ``memory_mb`` is the tightly coupled memory, None when unknown."""

    name: str
    arch: str
    id: int | None = None
    title: str = ""
    memory_mb: float | None = None
    source: str = ""
    features: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def version(self) -> tuple[int, ...]:
        """The numbers in ``arch``: (73,) for "v73", (2, 1) for "v2.1"; () when there is none."""
        return arch_version(self.arch)

    @property
    def generation(self) -> int:
        """The first number in ``arch``: 73 for "v73", 2 for "v2.1"; 0 when there is none."""
        return next(iter(self.version), 0)


@cache
def arch_version(arch: str) -> tuple[int, ...]:
    """The numbers in the name of an architecture, which order it among others."""
    return tuple(int(digits) for digits in re.findall(r"\d+", arch))


def within(soc: Soc, first: str, last: str) -> bool:
    """Whether a chip lies between two architectures, either of which may be open. ("v2" covers "v2.1" as the last one.)"""
    newest = arch_version(last)
    return soc.version >= arch_version(first) and (not last or soc.version[: len(newest)] <= newest)


def load_socs(path: Path) -> tuple[Soc, ...]:
    """Read SoCs from a YAML file: a list of mappings with the fields of Soc.

    Raises UsageError for a file that cannot be read, PluginError for one that holds anything else.
    """
    hint = "a list of rows, each with name and arch"
    rows = read_yaml(path, "SoC file")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise PluginError(f"{path} is not a list of SoCs", hint=hint)
    try:
        found = tuple(Soc(**row) for row in rows)
    except TypeError as error:
        raise PluginError(f"{path}: {error}", hint=hint) from None
    for number, soc in enumerate(found, 1):
        for key, kinds in _KINDS.items():
            value = getattr(soc, key)
            if not isinstance(value, kinds) or isinstance(value, bool):
                advice = "put it in quotes" if kinds is str else f"npukit backends NAME shows the {key} of others"
                raise PluginError(f"{path}, row {number}: {key} is {value!r}, which is {type(value).__name__}", hint=advice)
    return found
