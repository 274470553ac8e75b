"""The two searches: how much each group hurts (phase 1), and how many may be lowered (phase 2)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from npukit.errors import UsageError
from npukit.events import Event, OnEvent
from npukit.replay import side_by_side
from npukit_aimet.amp.groups import Candidate, Group

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
    """One network of the walk: after ``lowered`` steps, with its cost (relative to the dearest candidate everywhere) and score."""

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
        kept = path.read_bytes() if path is not None and path.is_file() else b""
        for line in kept.splitlines():
            self._learn(line)
        self._gap = "" if kept.endswith(b"\n") or not kept else "\n"  # ends a line that was cut short

    def _learn(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            if row["key"] == self._key:
                self._known[str(row["what"])] = float(row["score"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            pass  # the last line of a run that was killed may be cut short: it is computed again

    def get(self, what: str) -> float | None:
        """The score of ``what``, None when it is not known."""
        return self._known.get(what)

    def put(self, what: str, score: float) -> float:
        """Remember a score, on disk at once; returns it."""
        self._known[what] = score
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(self._gap + json.dumps({"key": self._key, "what": what, "score": score}) + "\n")
            self._gap = ""
        return score


def measure(
    tasks: Sequence[tuple[Group, Candidate]],
    score: Callable[[Group, Candidate], float],
    memory: Memory,
    on_event: OnEvent,
    *,
    workers: int = 0,
) -> dict[tuple[str, Candidate], float]:
    """Phase 1: the scores of groups with candidates, by name of the group and candidate.

    ``workers`` calls of ``score`` run at a time (those of ``side_by_side``). What ``memory`` knows is not measured again.
    """
    found: dict[tuple[str, Candidate], float] = {}

    def run(task: tuple[Group, Candidate]) -> float:
        group, candidate = task
        known = memory.get(f"{group.name} {candidate}")
        return score(group, candidate) if known is None else known

    with side_by_side(run, tasks, workers) as scores:
        for index, ((group, candidate), value) in enumerate(zip(tasks, scores, strict=True)):
            what = f"{group.name} {candidate}"
            found[group.name, candidate] = value if memory.get(what) is not None else memory.put(what, value)
            on_event(Event("amp: sensitivity", index + 1, len(tasks), group.name))
    return found


def walk_down(
    steps: Sequence[Sensitivity], score: Callable[[int], Point], target: float | None, search: str
) -> tuple[int, list[Point]]:
    """Phase 2: how many steps may be taken until the score falls below ``target``, and the legal points that were looked at.

    No steps at all must reach the target. Without one every point is looked at, the complete curve, and as many steps are taken as
    are legal (a score that is not minus infinity). "binary" and "interpolation" assume
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
        return max(p.lowered for p in _legal(seen)), _legal(seen)
    if search == "brute-force":
        best = 0
        while best < len(steps) and at(best + 1) >= target:
            best += 1
    else:
        best = _bisect(len(steps), at, target, search)
    at(best)
    return best, _legal(seen)


def _legal(seen: Mapping[int, Point]) -> list[Point]:
    return [seen[count] for count in sorted(seen) if seen[count].score > -math.inf]


def _bisect(count: int, at: Callable[[int], float], target: float, search: str) -> int:
    """The last of 0..count whose score reaches the target; 0 does. The end, often good enough, comes first."""
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
