"""YAML files as lists, mappings and text: for large files of others, whose numbers and dates YAML would guess wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from npukit.errors import DataError, UsageError, one_line

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LARGEST = 1 << 28  # bytes; the quantization profile of a network with 2,000 tensors has 10 million

_DEEPEST = 100  # the parser's time grows with the square of the depth


def read_documents(path: Path, what: str) -> list[Any]:
    """The documents of a YAML file, which messages call ``what``.

    Made from the events of the parser: nothing but text is made of a scalar, an alias is refused, and nothing recurses. Raises
    UsageError when the file cannot be read, DataError when it is no such YAML or larger than 256 MB.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise DataError(f"{what} {path} has {size} bytes, more than the {_LARGEST} that are plausible")
        with path.open("rb") as file:
            return _documents(file)
    except OSError as error:
        raise UsageError(f"cannot read {what} {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not a {what}: {one_line(error)}") from None


def _documents(file: Any) -> list[Any]:
    found: list[Any] = []
    open_lists: list[list[Any]] = []
    for event in yaml.parse(file, Loader=_LOADER):
        value: Any
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has an alias")
        if isinstance(event, yaml.CollectionStartEvent):
            open_lists.append([])
            if len(open_lists) > _DEEPEST:
                raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
            continue
        if isinstance(event, yaml.ScalarEvent):
            value = event.value
        elif isinstance(event, yaml.SequenceEndEvent):
            value = open_lists.pop()
        elif isinstance(event, yaml.MappingEndEvent):
            pairs = open_lists.pop()
            value = dict(zip(pairs[::2], pairs[1::2], strict=True))
        else:
            continue
        (open_lists[-1] if open_lists else found).append(value)
    return found
