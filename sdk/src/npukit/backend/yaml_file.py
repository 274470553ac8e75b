"""Reading YAML that users wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from npukit.errors import UsageError, one_line

_DEEPEST = 100
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path, what: str) -> Any:
    """The document in a YAML file; ``what`` is what messages call the file. Raises UsageError when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        _check_depth(text)
        return yaml.load(text, Loader=_LOADER)
    except OSError as error:
        raise UsageError(f"cannot read {what} {path}: {error.strerror}") from None
    except Exception as error:  # PyYAML raises many types for values that are not what their form or their tag says
        raise UsageError(f"{what} {path} is not YAML: {one_line(error)}") from None


def _check_depth(text: str) -> None:
    """Raise ValueError when collections are nested too deep: the loader recurses in C, where too deep ends the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
