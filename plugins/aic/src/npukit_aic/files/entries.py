"""What all files have in common: reading, and errors that name the file, the entry and what is allowed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from npukit.errors import UsageError, did_you_mean, one_line


def read_json(path: Path, what: str) -> Any:
    """The document in a JSON file; ``what`` is what messages call the file. Raises UsageError when it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {what} {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # of UTF-8 or of JSON
        raise UsageError(f"{what} {path} is not JSON: {one_line(error)}") from None


def mapping(value: Any, where: str, keys: Iterable[str], *, needs: Iterable[str] = ()) -> Mapping[str, Any]:
    """``value``, a mapping with no key but ``keys``, all of ``needs`` among them. Raises UsageError that starts with ``where``."""
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} is {kind(value)}, not a mapping of {', '.join(keys)}")
    for key in value:
        if key not in keys:
            raise UsageError(f"{where}: '{key}' is not known", hint=did_you_mean(str(key), keys))
    for key in needs:
        if key not in value:
            raise UsageError(f"{where}: '{key}' is missing", hint=f"it has {', '.join(map(str, value)) or 'no keys'}")
    return value


def sequence(value: Any, where: str, of: str) -> Sequence[Any]:
    """``value``, a list, empty when there is nothing. Raises UsageError that starts with ``where``."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise UsageError(f"{where} is {kind(value)}, not a list of {of}")
    return value


def kind(value: Any) -> str:
    """What a value of YAML or JSON is, for people."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "a boolean", type(None): "empty"}
    return names.get(type(value), f"{value!r}")
