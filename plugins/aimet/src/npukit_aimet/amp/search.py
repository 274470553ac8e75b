"""The two searches: how much each group hurts (phase 1), and how many may be lowered (phase 2)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from npukit.encoding import Encoding
from npukit.errors import UsageError
from npukit.events import Event, OnEvent
from npukit.replay import side_by_side
from npukit_aimet.amp.groups import Candidate, Group, Menu

SEARCHES = ("binary", "interpolation", "brute-force")


@attrs.frozen
class Sensitivity:
    """What is left when one group has a candidate and all else is float: ``score`` (dB, or the evaluator's), higher is better."""

    group: str
    candidate: Candidate
    score: float
    saving: float


@attrs.frozen
class Point:
    """One network of the walk: after ``lowered`` steps, with its cost (relative to the first candidate everywhere) and score."""

    lowered: int
    cost: float
    score: float
    group: str
    candidate: Candidate | None


class Memory:
    """Results that survive an interrupted run: one JSON line per score, in a file that is appended to; none without a path.

    ``key`` names what the results hold for; lines of another key are ignored.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path, self._key = path, key
        self._known: dict[str, float] = {}
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._learn(line)

    def _learn(self, line: str) -> None:
        try:
            row = json.loads(line)
            if row["key"] == self._key:
                self._known[str(row["what"])] = float(row["score"])
        except (ValueError, KeyError, TypeError):
            pass  # the last line of an interrupted run may be cut short: it is computed again

    def get(self, what: str) -> float | None:
        """The score of ``what``, None when it is not known."""
        return self._known.get(what)

    def put(self, what: str, score: float) -> float:
        """Remember a score, on disk at once; returns it."""
        self._known[what] = score
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": self._key, "what": what, "score": score}) + "\n")
        return score


def measure(
    menu: Menu, score: Callable[[Mapping[str, Encoding]], float], memory: Memory, on_event: OnEvent, *, workers: int = 0
) -> dict[tuple[str, Candidate], float]:
    """Phase 1: the score of every group with every candidate it may have but the first.

    ``score`` gets the encodings of one group; ``workers`` of them run at a time (those of
    ``side_by_side``). What ``memory`` knows is not measured again.
    """
    tasks = [(g, c) for g in menu.groups for c in menu.allowed[g.name] if c != menu.candidates[0]]
    found: dict[tuple[str, Candidate], float] = {}

    def run(task: tuple[Group, Candidate]) -> float:
        group, candidate = task
        known = memory.get(f"{group.name} {candidate}")
        return score(_of(menu, group, candidate)) if known is None else known

    with side_by_side(run, tasks, workers) as scores:
        for index, ((group, candidate), value) in enumerate(zip(tasks, scores, strict=True)):
            what = f"{group.name} {candidate}"
            found[group.name, candidate] = value if memory.get(what) is not None else memory.put(what, value)
            on_event(Event("amp: sensitivity", index + 1, len(tasks), group.name))
    return found


def _of(menu: Menu, group: Group, candidate: Candidate) -> dict[str, Encoding]:
    encodings = menu.encodings[candidate]
    return {n: encodings[n] for n in group.tensors if n in encodings}


def walk_down(
    steps: Sequence[Sensitivity], score: Callable[[int], Point], target: float | None, search: str
) -> tuple[int, list[Point]]:
    """Phase 2: how many steps may be taken until the score falls below ``target``, and the points that were looked at.

    Without a target every point is looked at, the complete curve, and all steps are taken. "binary" and "interpolation" assume
    that scores fall along the walk; "brute-force" takes the last point before the first one below the target.
    """
    if search not in SEARCHES:
        raise UsageError(f"there is no search '{search}'", hint=f"one of {', '.join(SEARCHES)}")
    seen: dict[int, Point] = {}

    def at(count: int) -> float:
        if count not in seen:
            seen[count] = score(count)
        return seen[count].score

    if target is None:
        for count in range(len(steps) + 1):
            at(count)
        return len(steps), [seen[c] for c in sorted(seen)]
    if search == "brute-force":
        best = 0
        while best < len(steps) and at(best + 1) >= target:
            best += 1
    else:
        best = _bisect(len(steps), at, target, search)
    at(best)
    return best, [seen[c] for c in sorted(seen)]


def _bisect(count: int, at: Callable[[int], float], target: float, search: str) -> int:
    """The last of 0..count whose score reaches the target; 0 always counts as good. The end, often good enough, comes first."""
    if not count or at(count) >= target:
        return count
    good, bad = 0, count
    while bad - good > 1:
        middle = (good + bad) // 2
        if search == "interpolation":
            high, low = at(good), at(bad)
            share = (high - target) / (high - low) if high > low else 0.5
            middle = min(max(good + int(share * (bad - good)), good + 1), bad - 1)
        good, bad = (middle, bad) if at(middle) >= target else (good, middle)
    return good
