"""The measurements of one run of mixed precision: scores and costs of finished packages."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from npukit.backend import Session, total
from npukit.callbacks import checked_score
from npukit.diagnosis import mean_sqnr, total_powers
from npukit.encoding import Array, Encoding
from npukit.errors import ConstraintError, UsageError
from npukit.events import Event
from npukit.graph import Graph
from npukit.quantization import Job
from npukit.replay import Replay, Store
from npukit_aimet.amp.groups import Candidate, Group, Menu, neighbourhood
from npukit_aimet.amp.search import Memory, Point, Sensitivity, measure

if TYPE_CHECKING:
    from npukit_aimet.amp.optimizer import Amp, Outputs

Choice = Mapping[str, Candidate]
_SLACK = 1e-9  # 0.98 - 0.01 may come out above 0.97
REFUSED = -math.inf
"""The score of a choice that the backend refuses as a whole."""


class Run:
    """What the Memory of a run knows, and what is missing there. A score is that of the package that a choice ends in, as the
    backend computes it; only phase 1 simulates."""

    def __init__(self, settings: Amp, job: Job, menu: Menu, replay: Replay) -> None:
        self.job, self.menu = job, menu
        self._settings, self._replay = settings, replay
        path = None
        if settings.results_dir is not None:
            settings.results_dir.mkdir(parents=True, exist_ok=True)
            path = settings.results_dir / "measured.jsonl"
            if settings.clean_start:
                path.unlink(missing_ok=True)
        with job.opened(menu.mixed(menu.everywhere(menu.base))) as session:
            self._memory = Memory(path, _key(job, menu, replay.rows(job.graph.inputs), settings, session))
        self._timed = total(job.judge.cost(job.graph, self._complete(menu.everywhere(menu.base)))).us is not None
        self._replay.prepare(g.tensors for g in menu.groups)
        work = {c: self._work(job.graph, self._complete(menu.everywhere(c))) for c in menu.candidates}
        self.dearest = max(menu.candidates, key=work.__getitem__)
        self._full_cost = work[self.dearest]

    @cached_property
    def start(self) -> Candidate:
        """The candidate with the best score when it is everywhere; of equals the widest."""
        scores = {c: self.score(self.menu.everywhere(c)) for c in self.menu.candidates}
        return max(self.menu.candidates, key=scores.__getitem__)

    def steps(self) -> list[Sensitivity]:
        """Phase 1: every group and candidate that saves something, the harmless first, of equals the one that saves most."""
        menu, start = self.menu, self.menu.everywhere(self.start)
        evaluated = self._settings.phase1 == "evaluator"  # a user's function need not be safe in threads

        def score(group: Group, candidate: Candidate) -> float:
            return self._score(self._replay.after(menu.encodings_of(group, candidate)), evaluated)

        pairs = ((g, c) for g in menu.groups for c in menu.allowed[g.name])
        tasks = [(g, c) for g, c in pairs if self._worth(g.name, c) > self._worth(g.name, start[g.name])]
        scores = measure(tasks, score, self._memory, self.job.on_event, workers=1 if evaluated else self._settings.workers)
        found = [Sensitivity(g, c, s, self._saving(g, c)) for (g, c), s in scores.items()]
        return sorted(found, key=lambda s: (-s.score, -s.saving, s.group))

    def choice(self, steps: Sequence[Sensitivity]) -> dict[str, Candidate]:
        """The candidate of every group after some steps; a later step of a group counts only when it saves more."""
        found = self.menu.everywhere(self.start)
        for step in steps:
            if self._worth(step.group, step.candidate) > self._worth(step.group, found[step.group]):
                found[step.group] = step.candidate
        return found

    def point(self, steps: Sequence[Sensitivity], count: int) -> Point:
        """Phase 2: the network after ``count`` steps."""
        choice = self.choice(steps[:count])
        last = steps[count - 1] if count else None
        score = self.score(choice)
        self.job.on_event(Event("amp: walk", count, len(steps), last.group if last else ""))
        return Point(count, self.cost(choice), score, last.group if last else "", last.candidate if last else None)

    @cached_property
    def target(self) -> float | None:
        """The lowest score allowed; None when any is. Raises UsageError when no candidate everywhere has it."""
        drop, evaluated = self._settings.allowed_accuracy_drop, self._settings.evaluate is not None
        if drop is None:
            return None
        best = self.score(self.menu.everywhere(self.start))
        wanted = self._score(self._reference(), True) if evaluated else best
        lowest = wanted - drop - _SLACK
        if best < lowest:
            text = f"mixed precision cannot keep within {drop:g} of the float model's {wanted:.6g}"
            hint = f"allow a drop of {math.ceil((wanted - best - _SLACK) * 1e4) / 1e4:g}, or add a wider candidate"
            reached = f"the best candidate, {self.start} wherever the backend accepts it, reaches {best:.6g}"
            raise UsageError(f"{text}: {reached}", hint=hint, code="accuracy-drop")
        return lowest

    def keeps_target(self, choice: Choice, before: Choice) -> bool:
        """Whether a choice is good enough: above the target, or without one not worse than the choice before it."""
        target = self.score(before) if self.target is None else self.target
        return self.cost(choice) <= 1 and self.score(choice) >= target

    def cost(self, choice: Choice) -> float:
        """The backend's estimate, as a share of the dearest candidate everywhere."""
        return self._work(self.job.graph, self._complete(choice)) / self._full_cost if self._full_cost else 1.0

    def score(self, choice: Choice) -> float:
        """The score of the package that a choice ends in; REFUSED when that is not legal."""
        what = " ".join(str(choice[g.name]) for g in self.menu.groups)
        known = self._memory.get(what)
        if known is not None:
            return known
        try:
            session = self.job.opened(self.menu.mixed(choice))
        except ConstraintError:
            return REFUSED
        with session:
            return self._memory.put(what, self._score(self._outputs(session), self._settings.evaluate is not None))

    def _outputs(self, session: Session) -> Iterator[Outputs]:
        if session.ignores_encodings:  # a backend for float models: what the encodings cost is simulated
            yield from self._replay.outputs(session.program.encodings)
            return
        for feeds in self._replay.rows(self.job.graph.inputs):
            yield session.run(feeds)

    def _complete(self, choice: Choice) -> dict[str, Encoding]:
        return self.job.encodings(self.menu.mixed(choice))

    def _worth(self, group: str, candidate: Candidate) -> tuple[float, int]:
        """What a candidate is good for in a group: cost first, then plain memory."""
        return round(self._saving(group, candidate), 12), -candidate.bits

    def _saving(self, name: str, candidate: Candidate) -> float:
        """What a group with a candidate saves of the full cost when it alone changes: only nodes around it change theirs."""
        if (name, candidate) not in self._savings:
            group = self._groups[name]
            around = neighbourhood(self.job.graph, group)
            after = {**self._before, **self.menu.encodings_of(group, candidate)}
            saved = self._work(around, self._before) - self._work(around, after)
            self._savings[name, candidate] = saved / self._full_cost if self._full_cost else 0.0
        return self._savings[name, candidate]

    @cached_property
    def _savings(self) -> dict[tuple[str, Candidate], float]:
        return {}

    @cached_property
    def _groups(self) -> dict[str, Group]:
        return {g.name: g for g in self.menu.groups}

    @cached_property
    def _before(self) -> dict[str, Encoding]:
        return self._complete(self.menu.everywhere(self.start))

    def _work(self, graph: Graph, encodings: Mapping[str, Encoding]) -> float:
        """Microseconds, or bit operations where the backend has no times for the whole model."""
        cost = total(self.job.judge.cost(graph, encodings))
        return float(cost.us or 0.0) if self._timed else float(cost.bit_ops)

    def _reference(self) -> Sequence[Outputs]:
        """The float model's outputs."""
        return self._replay.rows(self.job.graph.outputs)

    def _score(self, outputs: Iterable[Outputs], evaluated: bool) -> float:
        if not evaluated or self._settings.evaluate is None:
            return mean_sqnr(*total_powers(self._reference(), outputs))
        with Store() as store:
            for values in outputs:
                for name, array in values.items():
                    store.append(name, array)
            return checked_score(self._settings.evaluate(store.rows(self.job.graph.outputs, len(self._replay))))


def _key(job: Job, menu: Menu, feeds: Iterable[Mapping[str, Array]], settings: Amp, session: Session) -> str:
    """What measurements hold for: the kinds of scores, the backend, the model, the data, the encodings of all candidates."""
    digest = hashlib.sha256(f"{settings.phase1} {settings.evaluate is not None}".encode())
    program = session.program
    digest.update(
        repr((program.backend, program.soc.name, sorted(program.settings.items()), sorted(program.types.items()))).encode()
    )
    for tensor in job.graph.tensors.values():
        if tensor.data is not None:
            digest.update(np.ascontiguousarray(tensor.data).tobytes())
    for node in job.graph.nodes:
        attributes = [(k, v.name if isinstance(v, Graph) else v) for k, v in sorted(node.attributes.items())]
        digest.update(repr((node.op, node.inputs, node.outputs, attributes)).encode())
    for sample in feeds:
        for name in sorted(sample):
            digest.update(np.ascontiguousarray(sample[name]).tobytes())
    for candidate, encodings in menu.encodings.items():
        digest.update(str(candidate).encode())
        for name, encoding in sorted(encodings.items()):
            scale = b"" if encoding.scale is None else encoding.scale.tobytes() + encoding.zeros.tobytes()
            digest.update(name.encode() + encoding.dtype.encode() + scale)
    return digest.hexdigest()
