"""What a run of mixed precision leaves behind: tables, overrides and a plot."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from npukit.encoding.formats import write_encodings
from npukit.graph import Graph, write_atomic
from npukit_aimet.amp.groups import Candidate, Menu
from npukit_aimet.amp.search import Point, Sensitivity


@attrs.frozen(eq=False)
class Result:
    """``steps`` is the accuracy list of phase 1, ``points`` the Pareto list of phase 2, ``choice`` what each group gets; ``score``
    is that of the finished package, ``cost`` is relative to the ``dearest`` candidate everywhere, ``converts`` the number of type
    changes between ops."""

    menu: Menu
    steps: Sequence[Sensitivity]
    points: Sequence[Point]
    choice: Mapping[str, Candidate]
    score: float
    cost: float
    dearest: Candidate
    converts: int

    def notes(self) -> list[str]:
        """Lines for the report."""
        counts = Counter(str(c) for c in self.choice.values())
        shares = ", ".join(f"{counts[str(c)]} groups {c}" for c in self.menu.candidates if counts[str(c)])
        lines = [
            f"amp: {shares}; {self.cost:.1%} of the cost of {self.dearest} everywhere, {self.converts} converts",
            f"amp: the package scores {self.score:.6g}",
        ]
        for (group, candidate), problem in list(self.menu.refused.items())[:3]:
            lines.append(f"amp: group '{group}' cannot be {candidate}: {problem}")
        return lines


def write_results(
    folder: Path, result: Result, graph: Graph, choice: Callable[[Sequence[Sensitivity]], Mapping[str, Candidate]]
) -> list[str]:
    """Write accuracy_list and pareto_list as CSV and JSON, amp.encodings (overrides), those of every point of the Pareto list, and
    plots; returns lines for the report. ``choice`` says what each group has after some steps."""
    folder.mkdir(parents=True, exist_ok=True)
    accuracy = [{"group": s.group, "candidate": str(s.candidate), "score": s.score, "saving": s.saving} for s in result.steps]
    pareto = [
        {
            "lowered": p.lowered,
            "cost": p.cost,
            "score": p.score,
            "group": p.group,
            "candidate": str(p.candidate or ""),
            "overrides": f"points/{p.lowered}.encodings",
        }
        for p in result.points
    ]
    for name, rows in (("accuracy_list", accuracy), ("pareto_list", pareto)):
        write_atomic(folder / f"{name}.json", [(json.dumps(rows, indent=1) + "\n").encode()])
        write_atomic(folder / f"{name}.csv", [_csv(rows).encode()])
    (folder / "points").mkdir(exist_ok=True)
    choices = {f"points/{p.lowered}.encodings": choice(result.steps[: p.lowered]) for p in result.points}
    for name, chosen in {**choices, "amp.encodings": result.choice}.items():
        write_atomic(folder / name, [write_encodings(result.menu.mixed(chosen), graph).encode()])
    drawn = _plot(folder, result)
    return [] if drawn else ['amp: no plot of the Pareto curve, matplotlib is not installed: pip install "npukit-aimet[plot]"']


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _plot(folder: Path, result: Result) -> bool:
    """Draw the Pareto curve as PNG and as a page with the drawing inside; False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([p.cost for p in result.points], [p.score for p in result.points], "o-", markersize=3)
    axes.axvline(result.cost, color="0.7", linestyle=":")
    axes.set_xlabel(f"cost, as a share of {result.dearest} everywhere")
    axes.set_ylabel("score")
    axes.grid(alpha=0.3)
    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None})
    write_atomic(folder / "pareto_curve.png", [png.getvalue()])
    drawing = svg.getvalue()
    page = f"<!doctype html><meta charset='utf-8'><title>Pareto curve</title>{drawing[drawing.index('<svg') :]}"
    write_atomic(folder / "pareto_curve.html", [page.encode()])
    return True
