"""Reading YAML that users wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from npukit.errors import UsageError, one_line

_LARGEST = 16 << 20  # bytes: PyYAML takes seconds for as much
_DEEPEST = 100
_MOST = 4_000_000  # values, those of an alias counted wherever it stands
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path, what: str) -> Any:
    """The document in a YAML file; ``what`` is what messages call the file. Raises UsageError when it cannot be read."""
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise ValueError(f"it has {size} bytes, at most {_LARGEST} are read")
        text = path.read_text(encoding="utf-8")
        _check_shape(text)
        return yaml.load(text, Loader=_LOADER)
    except OSError as error:
        raise UsageError(f"cannot read {what} {path}: {error.strerror}") from None
    except Exception as error:  # PyYAML raises many types for values that are not what their form or their tag says
        raise UsageError(f"{what} {path} is not YAML: {one_line(error)}") from None


def _check_shape(text: str) -> None:
    """Raise ValueError when collections are nested too deep (the loader recurses in C, where too deep ends the process), or when
    aliases of aliases stand for more than a file could hold: printing such a value would never end."""
    anchors: dict[str | None, int] = {}
    open_ones: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            open_ones.append((event.anchor, count))
            if len(open_ones) > _DEEPEST:
                raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_ones.pop()
            if anchor is not None:
                anchors[anchor] = count - before
        if isinstance(event, yaml.NodeEvent):
            count += 1 + (anchors.get(event.anchor, 0) if isinstance(event, yaml.AliasEvent) else 0)
            if count > _MOST:
                raise ValueError(f"its aliases stand for more than {_MOST} values")
