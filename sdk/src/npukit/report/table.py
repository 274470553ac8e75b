"""Plain text tables."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from npukit.errors import printable
from npukit.report.numbers import number

_GAP = "  "
_CUT = ".."
_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*(e[-+]?\d+)?|inf|nan)\s?(%|dB|[kMGT]?B?|x|ms|us|s)?|[-?]|")
_LEAST = 8


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], *, width: int | None = None) -> str:
    """An aligned table without borders: a line of headers, a rule, the rows.

    A cell may be any value (None is written as "-", a float with 6 digits) and may hold line breaks, which continue the row on
    further lines. A column in which every cell is a number is right-aligned. Lines fit into ``width`` columns by cutting the
    widest cells in their middle; None means the terminal's width when stdout is a terminal, and no limit when it is not.
    Control characters are escaped, so that a hostile name cannot steer the terminal. Raises ValueError when a row has another
    length than the headers.
    """
    head = [_lines(cell) for cell in headers]
    body = [[_lines(cell) for cell in row] for row in rows]
    for row in body:
        if len(row) != len(head):
            raise ValueError(f"a row has {len(row)} cells for {len(head)} headers")
    columns = list(zip(head, *body, strict=True))
    widths = [max(len(line) for cell in column for line in cell) for column in columns]
    limit = _terminal_width() if width is None else width
    if limit is not None:
        widths = _shrink(widths, limit - len(_GAP) * (len(widths) - 1))
    right = [bool(body) and all(_NUMBER.fullmatch(line) for cell in column[1:] for line in cell) for column in columns]
    rule = [["-" * w] for w in widths]
    return "\n".join(line for row in [head, rule, *body] for line in _render(row, widths, right))


def _terminal_width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def _lines(cell: Any) -> list[str]:
    text = number(cell) if cell is None or isinstance(cell, float) else str(cell)
    return [printable(line) for line in text.split("\n")]


def _shrink(widths: list[int], room: int) -> list[int]:
    """Narrow the widest columns, evenly, until the sum fits ``room``; no column gets narrower than 8 unless it was."""
    excess = sum(widths) - room
    if excess <= 0:
        return widths
    cap = max(widths, default=0)
    while cap > _LEAST and sum(min(w, cap) for w in widths) > room:
        cap -= 1
    return [min(w, cap) for w in widths]


def shorten(text: str, width: int) -> str:
    """``text``, or its start and end around ".." when it is longer than ``width`` (names differ most at their ends)."""
    if len(text) <= width:
        return text
    if width <= len(_CUT):
        return text[:width]
    tail = (width - len(_CUT)) // 2
    return text[: width - len(_CUT) - tail] + _CUT + (text[-tail:] if tail else "")


def _render(row: Sequence[Sequence[str]], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    """The lines of one row; a cell with fewer lines than its neighbours is followed by blanks."""
    lines = []
    for index in range(max((len(cell) for cell in row), default=0)):
        cells = [shorten(cell[index], w) if index < len(cell) else "" for cell, w in zip(row, widths, strict=True)]
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
        lines.append(_GAP.join(padded).rstrip())
    return lines
