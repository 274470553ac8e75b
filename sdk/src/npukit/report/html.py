"""Pages that a browser shows: no scripts, nothing loaded from elsewhere, all text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from npukit.errors import printable
from npukit.report.numbers import number

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 90em; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; margin: 0.5em 0 2em }
th, td { text-align: left; padding: 0.15em 0.8em 0.15em 0; border-bottom: 1px solid #ddd; overflow-wrap: anywhere }
th { border-bottom: 2px solid #888 }
td { font-variant-numeric: tabular-nums }
"""


def html_page(heading: str, sections: Iterable[tuple[str, str, str]], style: str = "") -> str:
    """A whole page. A section is a title, a line of text, and content that is HTML already; ``style`` is more CSS."""
    title = escape(printable(heading))
    body = "\n".join(f"<h2>{escape(head)}</h2>\n<p>{escape(text)}</p>\n{content}" for head, text, content in sections)
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}{style}\n</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n<h1>{title}</h1>\n{body}\n</body></html>\n'


def html_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; "None." when there are no rows."""
    lines = [_row("td", row) for row in rows]
    return "\n".join(["<table>", _row("th", headers), *lines, "</table>"]) if lines else "<p>None.</p>"


def _row(tag: str, cells: Iterable[Any]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(printable(_cell(c)))}</{tag}>" for c in cells) + "</tr>"


def _cell(value: Any) -> str:
    return number(value) if value is None or isinstance(value, float) else str(value)
