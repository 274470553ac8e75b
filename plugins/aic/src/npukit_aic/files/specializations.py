"""The specializations file (JSON): the sizes of a model's symbols that it is compiled for.

Two forms: a list of objects, symbol to size, and a newer one in which every specialization has a name: the key of its object, or
"name" beside "symbols" in an entry of the list. Sizes are text or numbers.
The list form is that of https://github.com/quic/efficient-transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from npukit.errors import UsageError
from npukit_aic.files.entries import kind, mapping, read_json

WHAT = "specializations"
_KEY = "specializations"
_LONGEST = 12  # digits of a size
_FORMS = '{"specializations": [{"SYMBOL": "SIZE", ...}, ...]}, or an object of such objects by name in place of the list'


def read_specializations(path: Path) -> tuple[Mapping[str, int], ...]:
    """Symbol -> size, one mapping per specialization, in the order of the file. Raises UsageError that names file and entry."""
    document = mapping(read_json(path, WHAT), f"{WHAT} {path}", (_KEY,), needs=(_KEY,))
    found = document[_KEY]
    named = found if isinstance(found, Mapping) else dict(enumerate(found)) if isinstance(found, list) else {}
    if not named:
        raise UsageError(f"{WHAT} {path}: '{_KEY}' is {'empty' if not found else kind(found)}", hint=_FORMS)
    rows = [_sizes(value, f"{WHAT} {path}, {_KEY}[{key!r}]") for key, value in named.items()]
    symbols = dict.fromkeys(symbol for row in rows for symbol in row)
    for key, row in zip(named, rows, strict=True):
        for symbol in symbols:
            if symbol not in row:
                message = f"{WHAT} {path}, {_KEY}[{key!r}]: '{symbol}' is missing, which others have"
                raise UsageError(message, hint="every specialization sizes the same symbols")
    return tuple({tuple(row.items()): row for row in rows}.values())


def _sizes(value: Any, where: str) -> dict[str, int]:
    if isinstance(value, Mapping) and set(value) == {"name", "symbols"}:
        value = value["symbols"]
    if not isinstance(value, Mapping) or not value:
        raise UsageError(f"{where} is {kind(value) if value else 'empty'}", hint=_FORMS)
    return {symbol: _size(size, f"{where}: '{symbol}'") for symbol, size in value.items()}


def _size(value: Any, where: str) -> int:
    text = str(value).strip()
    whole = isinstance(value, str | int) and not isinstance(value, bool) and text.isdecimal() and len(text) <= _LONGEST
    if not whole or int(text) < 1:
        raise UsageError(f"{where} is a whole number above 0, found {repr(value)[:40] if isinstance(value, str) else kind(value)}")
    return int(text)
