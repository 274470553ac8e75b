"""A sweep as text, as plain data, as CSV, and as a page with a plot."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from npukit.errors import counted, printable
from npukit.report.html import html_page, html_table
from npukit.report.numbers import count, decibels, number, size
from npukit.report.table import table
from npukit.trials import Sweep, SweepRow

_COLUMNS = 4  # outputs with a column of their own; of more the worst one only
_SHOWN = 10  # numbers of rows that a note lists


def sweep_text(found: Sweep, top: int | None = None) -> str:
    """What was run, the best ``top`` rows (all by default), and below them what is to be said of rows, each thing once."""
    rows = found.ranked()
    shown = rows[:top]
    lines = [_title(found), "", table(_headers(found), [_cells(found, row) for row in shown])]
    if len(shown) < len(rows):
        lines.append(f"... and {len(rows) - len(shown)} more")
    remarks = [*_remarks("refused", ((row.refused, row) for row in rows if row.refused))]
    remarks += _remarks("note", ((note, row) for row in rows for note in row.notes))
    return "\n".join([*lines, *([""] if remarks else []), *remarks])


def _title(found: Sweep) -> str:
    ran = sum(not row.refused for row in found.rows)
    where = "the evaluation samples" if found.own_samples else "the calibration samples themselves"
    score = "" if found.float_score is None else f"; score of the float model {number(found.float_score)}"
    return (
        f"{counted(len(found.rows), 'combination')} on {found.target}, {ran} ran; "
        f"SQNR against the float model on {where} ({found.samples}){score}"
    )


def _outputs(found: Sweep) -> list[str]:
    return list(dict.fromkeys(name for row in found.rows for name in row.sqnr))


def _headers(found: Sweep) -> list[str]:
    outputs = _outputs(found)
    levels = [f"SQNR {name}" for name in outputs] if len(outputs) <= _COLUMNS else ["SQNR worst", "Worst output"]
    score = [] if found.float_score is None else ["Score"]
    return ["Row", *(axis.name for axis in found.axes), *score, *levels, "Size", "Cost", "Remark"]


def _cells(found: Sweep, row: SweepRow) -> list[Any]:
    outputs = _outputs(found)
    if len(outputs) <= _COLUMNS:
        levels: list[Any] = [decibels(row.sqnr[name]) if name in row.sqnr else "-" for name in outputs]
    else:
        levels = [decibels(row.worst), min(row.sqnr, key=row.sqnr.__getitem__)] if row.sqnr else ["-", "-"]
    score = [] if found.float_score is None else [row.score]
    remark = "refused" if row.refused else f"same encodings as row {row.same_as}" if row.same_as else ""
    return [row.number, *row.choices.values(), *score, *levels, _size(row), _cost(row), remark]


def _size(row: SweepRow) -> str:
    return "-" if row.size is None else size(row.size)


def _cost(row: SweepRow) -> str:
    """The time that the backend estimates, or bit operations where it knows none."""
    if row.cost is None:
        return "-"
    return f"{count(row.cost.bit_ops)} BOPs" if row.cost.us is None else f"{row.cost.us:.3g} us"


def _remarks(kind: str, told: Iterable[tuple[str, SweepRow]]) -> list[str]:
    """Every text once, with the rows that it is about."""
    rows: dict[str, list[int]] = {}
    for text, row in told:
        rows.setdefault(text, []).append(row.number)
    return [f"{kind}, {_rows(sorted(numbers))}: {printable(text)}" for text, numbers in rows.items()]


def _rows(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"{'row' if len(numbers) == 1 else 'rows'} {shown}{more}"


def sweep_data(found: Sweep) -> dict[str, Any]:
    """All of it, for JSON; the rows best first."""
    return {
        "target": found.target,
        "axes": {axis.name: axis.values for axis in found.axes},
        "samples": found.samples,
        "own_samples": found.own_samples,
        "float_score": found.float_score,
        "rows": found.ranked(),
    }


def sweep_csv(found: Sweep) -> str:
    """One line for every combination, best first; levels in dB, sizes in bytes, times in microseconds."""
    outputs, names = _outputs(found), [axis.name for axis in found.axes]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    levels = [f"sqnr {name}" for name in outputs]
    writer.writerow(["row", *names, "score", *levels, "sqnr worst", "bytes", "us", "bit_ops", "same_as", "refused"])
    for row in found.ranked():
        cost = (None, None) if row.cost is None else (row.cost.us, row.cost.bit_ops)
        measured = [*(row.sqnr.get(name) for name in outputs), row.worst if row.sqnr else None]
        writer.writerow([row.number, *row.choices.values(), row.score, *measured, row.size, *cost, row.same_as, row.refused])
    return text.getvalue()


def sweep_html(found: Sweep, title: str) -> str:
    """A whole page: a plot and the table."""
    rows = found.ranked()
    scored = found.float_score is not None
    refused = [(row.number, *row.choices.values(), row.refused) for row in rows if row.refused]
    notes = [(row.number, note) for row in rows for note in row.notes]
    sections = [
        ("Plot", "Score of the evaluator." if scored else "SQNR of the worst output in dB.", _bars([r for r in rows if r.sqnr])),
        ("All combinations", _title(found), html_table(_headers(found), [_cells(found, row) for row in rows])),
        ("Refused", "", html_table(["Row", *(axis.name for axis in found.axes), "Why"], refused)),
        ("Notes", "", html_table(["Row", "Note"], notes)),
    ]
    return html_page(f"{title} on {found.target}", sections, ".bar { fill: #3070b0 } .same { fill: #9db8d2 }")


def _bars(rows: Sequence[SweepRow]) -> str:
    """One bar per row, from 0 or the least value; pale where an earlier row has the same encodings."""
    known = [row.key for row in rows if math.isfinite(row.key)]
    low, high = min(0.0, *known, 0.0), max(0.0, *known, 0.0)
    lines = []
    for index, row in enumerate(rows):
        top = 18 * index
        value = min(max(row.key, low), high) if not math.isnan(row.key) else 0.0
        left, right = (400 * (x - low) / ((high - low) or 1.0) for x in sorted((0.0, value)))
        label = " ".join((f"{row.number}:", *row.choices.values()))
        lines.append(
            f'<rect class="{"same" if row.same_as else "bar"}" x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="14"/>'
        )
        lines.append(f'<text x="410" y="{top + 12}">{number(float(f"{row.key:.4g}"))}</text>')
        lines.append(f'<text x="480" y="{top + 12}">{escape(printable(label))}</text>')
    return f'<svg width="1100" height="{18 * len(rows) or 1}" font-size="12" role="img">\n' + "\n".join(lines) + "\n</svg>"
