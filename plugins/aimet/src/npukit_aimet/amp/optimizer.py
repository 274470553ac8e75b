"""Automatic mixed precision: as few bits as the accuracy allows, group by group."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from npukit.backend import total
from npukit.calibration import open_data
from npukit.diagnosis import mean_sqnr, total_powers
from npukit.encoding import Array, Encoding
from npukit.errors import UsageError
from npukit.events import Event
from npukit.graph import Graph
from npukit.quantization import Job, Optimizer
from npukit.replay import Replay, Store
from npukit_aimet.amp.converts import count_converts, fewer_converts
from npukit_aimet.amp.groups import Candidate, Group, Menu, make_menu, neighbourhood
from npukit_aimet.amp.results import Result, write_results
from npukit_aimet.amp.search import SEARCHES, Memory, Point, Sensitivity, measure, walk_down
from npukit_aimet.config import Labelled, judged, section

Outputs = Mapping[str, Array]
Evaluator = Callable[[Sequence[Outputs]], float]
"""The score of a model from its outputs, sample by sample in the order of the data; higher is better. A sample that does not fit in
memory beside the others is read when it is asked for."""


@attrs.frozen(eq=False)
class Amp(Optimizer):
    """Mixed precision in three phases, after AIMET's (https://github.com/quic/aimet, BSD-3-Clause).

    Phase 1 measures what every group costs in accuracy when it alone has a candidate and all else is float. Phase 2 starts with the
    first of the ``candidates`` everywhere and takes the harmless steps first, until the score has fallen by more than
    ``allowed_accuracy_drop`` (None: all steps, the complete curve). Phase 3 changes groups back or along where that saves converts.
    A candidate that the backend refuses for a group is never proposed.

    ``evaluate`` gives the score of phase 2 (None: SQNR against the float model, in dB) on ``samples`` (anything that open_data
    takes; None: the calibration samples), phase 1 uses SQNR unless ``phase1`` is "evaluator". The drop is measured from the float
    model's score; from that of the first candidate for SQNR. ``results_dir`` gets accuracy list, Pareto list, overrides and plots,
    and keeps what was measured: an interrupted run goes on there, unless ``clean_start``. ``workers`` groups are measured at a time
    (0: as many as OMP_NUM_THREADS says, or one per processor). Memory does not grow with the number of samples.
    With ``backend_signs`` only the widths of the candidates count, signs are those of the backend's default types.
    """

    name = "amp"
    title = "mixed precision: as few bits as the accuracy allows"

    candidates: tuple[Candidate, ...] = ()
    allowed_accuracy_drop: float | None = None
    evaluate: Evaluator | None = None
    samples: Any = None
    search: str = "binary"
    phase1: str = "sqnr"
    reduce_converts: bool = True
    results_dir: Path | None = None
    clean_start: bool = False
    workers: int = 0
    batches: int | None = None
    backend_signs: bool = False

    def __attrs_post_init__(self) -> None:
        drop = self.allowed_accuracy_drop
        if drop is not None and not (math.isfinite(drop) and drop >= 0):
            raise UsageError(f"the allowed accuracy drop is {drop}, it must be 0 or more")
        if self.phase1 not in ("sqnr", "evaluator"):
            raise UsageError(f"phase 1 cannot use '{self.phase1}'", hint="sqnr or evaluator")
        if self.search not in SEARCHES:
            raise UsageError(f"there is no search '{self.search}'", hint=f"one of {', '.join(SEARCHES)}")

    def configure(self, settings: Mapping[str, Any], folder: Path) -> Amp:
        """With ``aimet_quantizer: amp: {dataset, candidates, allowed_accuracy_drop, eval_callback_for_phase2}``, and npukit's own
        num_batches, search, phase1, reduce_converts, results_dir, clean_start and workers."""
        found = section(settings, self.name, folder)
        if not found.values:
            return self
        own = ("num_batches", "search", "phase1", "reduce_converts", "results_dir", "clean_start", "workers")
        found.only("dataset", "candidates", "allowed_accuracy_drop", "eval_callback_for_phase2", *own)
        loader, function = found.dataset(), found.function("eval_callback_for_phase2")
        if function is not None and loader is None:
            raise UsageError(f"{found.path}.dataset is missing", hint="eval_callback_for_phase2 needs labelled data")
        labelled = None if loader is None or function is None else Labelled(loader, loader.path)
        place = found.text("results_dir")
        changes = {
            "candidates": parse_candidates(found.values.get("candidates"), f"{found.path}.candidates"),
            "allowed_accuracy_drop": found.number("allowed_accuracy_drop", whole=False, least=0),
            "samples": loader if labelled is None else labelled,
            "batches": None if loader else found.number("num_batches", whole=True, least=1),
            "search": found.text("search"),
            "phase1": found.text("phase1"),
            "reduce_converts": found.flag("reduce_converts"),
            "results_dir": None if place is None else Path(place),
            "clean_start": found.flag("clean_start"),
            "workers": found.number("workers", whole=True, least=1),
        }
        if labelled is not None and function is not None:
            changes["evaluate"] = judged(function, labelled.truths, f"{found.path}.eval_callback_for_phase2")
        return attrs.evolve(self, **{n: v for n, v in changes.items() if v is not None}, backend_signs=True)

    def run(self, job: Job) -> Job:
        wanted = self.candidates or _default_candidates(job)
        menu = make_menu(job, (c.signed_like(job.judge.precision) for c in wanted) if self.backend_signs else wanted)
        data = job.data if self.samples is None else open_data(self.samples, job.graph)
        with Replay(job.graph) as replay:
            for feeds in islice(data, self.batches):
                replay.keep(feeds)
            return self._search(_Run(self, job, menu, replay))

    def _search(self, run: _Run) -> Job:
        """The three phases."""
        job, menu = run.job, run.menu
        steps = run.steps()
        lowered, points = walk_down(steps, lambda n: run.point(steps, n), run.target, self.search)
        choice = run.choice(steps[:lowered])
        if self.reduce_converts:
            choice = fewer_converts(menu, job.graph, choice, run.cost, run.keeps_target)
        encodings = menu.mixed(choice)
        result = Result(menu, steps, points, choice, run.cost(choice), count_converts(job.graph, encodings))
        written = [] if self.results_dir is None else write_results(self.results_dir, result, job.graph, encodings)
        return job.decide({n: e.with_origin("optimizer:amp") for n, e in encodings.items()}, (), *result.notes(), *written)


def _default_candidates(job: Job) -> tuple[Candidate, ...]:
    precision = job.judge.precision
    sign = "" if precision.activations.startswith("int") else "u"
    return Candidate(f"{sign}int16", precision.weights), Candidate(f"{sign}int8", precision.weights)


class _Run:
    """The measurements of one run: what its Memory knows, and what is missing there."""

    def __init__(self, settings: Amp, job: Job, menu: Menu, replay: Replay) -> None:
        self.job, self.menu = job, menu
        self._settings, self._replay = settings, replay
        path = None
        if settings.results_dir is not None:
            settings.results_dir.mkdir(parents=True, exist_ok=True)
            path = settings.results_dir / "measured.jsonl"
            if settings.clean_start:
                path.unlink(missing_ok=True)
        self._memory = Memory(path, _key(job, menu, replay.rows(job.graph.inputs), settings))
        base = menu.encodings[menu.candidates[0]]
        self._timed = total(job.judge.cost(job.graph, base)).us is not None
        self._full_cost = self._work(job.graph, base)

    def steps(self) -> list[Sensitivity]:
        """Phase 1: every group and candidate, the harmless first, of equals the one that saves most."""
        menu = self.menu
        self._replay.prepare(g.tensors for g in menu.groups)
        evaluated = self._settings.phase1 == "evaluator"  # a user's function need not be safe in threads

        def score(encodings: Mapping[str, Encoding]) -> float:
            return self._score(self._replay.after(encodings), evaluated)

        scores = measure(menu, score, self._memory, self.job.on_event, workers=1 if evaluated else self._settings.workers)
        by_name = {g.name: g for g in menu.groups}
        found = [Sensitivity(g, c, s, self._saving(by_name[g], c)) for (g, c), s in scores.items()]
        useful = (s for s in found if _worth(s.saving, s.candidate) > _worth(0.0, menu.candidates[0]))
        return sorted(useful, key=lambda s: (-s.score, -s.saving, s.group))

    def choice(self, steps: Sequence[Sensitivity]) -> dict[str, Candidate]:
        """The candidate of every group after some steps; a later step of a group counts only when it saves more."""
        first = self.menu.candidates[0]
        found = dict.fromkeys((g.name for g in self.menu.groups), first)
        worth = dict.fromkeys(found, _worth(0.0, first))
        for step in steps:
            if _worth(step.saving, step.candidate) > worth[step.group]:
                found[step.group], worth[step.group] = step.candidate, _worth(step.saving, step.candidate)
        return found

    def point(self, steps: Sequence[Sensitivity], count: int) -> Point:
        """Phase 2: the network after ``count`` steps."""
        choice = self.choice(steps[:count])
        last = steps[count - 1] if count else None
        score = self._score_of(choice)
        self.job.on_event(Event("amp: walk", count, len(steps), last.group if last else ""))
        return Point(count, self.cost(choice), score, last.group if last else "", last.candidate if last else None)

    @cached_property
    def target(self) -> float | None:
        """The lowest score allowed; None when any is."""
        drop, evaluate = self._settings.allowed_accuracy_drop, self._settings.evaluate
        if drop is None:
            return None
        if evaluate is not None:
            return self._score(self._reference(), True) - drop
        return self._score_of(self.choice([])) - drop

    def keeps_target(self, choice: Mapping[str, Candidate], before: Mapping[str, Candidate]) -> bool:
        """Whether a choice is good enough: above the target, or without one not worse than the choice before it."""
        target = self.target
        return self._score_of(choice) >= (self._score_of(before) if target is None else target)

    def cost(self, choice: Mapping[str, Candidate]) -> float:
        """The backend's estimate, as a share of the first candidate everywhere."""
        return self._work(self.job.graph, self.menu.mixed(choice)) / self._full_cost if self._full_cost else 1.0

    def _saving(self, group: Group, candidate: Candidate) -> float:
        """What a group with a candidate saves of the full cost; only the nodes around it change theirs."""
        around = neighbourhood(self.job.graph, group)
        base = self.menu.encodings[self.menu.candidates[0]]
        changed = self.menu.encodings[candidate]
        after = {**base, **{n: changed[n] for n in group.tensors if n in changed}}
        return (self._work(around, base) - self._work(around, after)) / self._full_cost if self._full_cost else 0.0

    def _work(self, graph: Graph, encodings: Mapping[str, Encoding]) -> float:
        """Microseconds, or bit operations where the backend has no times for the whole model."""
        cost = total(self.job.judge.cost(graph, {**self.job.given, **encodings}))
        return float(cost.us or 0.0) if self._timed else float(cost.bit_ops)

    def _score_of(self, choice: Mapping[str, Candidate]) -> float:
        what = " ".join(str(choice[g.name]) for g in self.menu.groups)
        known = self._memory.get(what)
        if known is not None:
            return known
        found = self._replay.outputs({**self.job.given, **self.menu.mixed(choice)})
        return self._memory.put(what, self._score(found, self._settings.evaluate is not None))

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


def parse_candidates(value: Any, path: str) -> tuple[Candidate, ...] | None:
    """Candidates as the published configuration has them, [[[activation bits, type], [parameter bits, type]], ...]."""
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"{path} is {type(value).__name__}, not a list")
    found = []
    for index, item in enumerate(value):
        where, hint = f"{path}[{index}]", "such as [[16, int], [8, int]]: activations, then parameters"
        if not isinstance(item, (list, tuple)) or len(item) != 2:
            raise UsageError(f"{where} is no pair of types", hint=hint)
        found.append(Candidate(_type(item[0], f"{where}[0]", "u"), _type(item[1], f"{where}[1]", "")))
    return tuple(found)


def _type(value: Any, path: str, sign: str) -> str:
    known = {(b, "int"): f"{sign}int{b}" for b in (2, 3, 4, 8, 16)} | {(16, "float"): "float16", (32, "float"): "float32"}
    key = tuple(value) if isinstance(value, (list, tuple)) else ()
    if key not in known:
        raise UsageError(f"{path} is {value!r}, no type", hint="[4, int], [8, int], [16, int], [16, float] ...")
    return known[key]


def _worth(saving: float, candidate: Candidate) -> tuple[float, int]:
    """What a step is good for: cost first, then plain memory."""
    return round(saving, 12), -candidate.bits


def checked_score(value: Any) -> float:
    """What an evaluator returned, as a float. Raises UsageError for anything else, NaN and infinity included."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"the evaluator returned {type(value).__name__}, not a number") from None
    if not math.isfinite(number):
        raise UsageError(f"the evaluator returned {number}, not a finite number")
    return number


def _key(job: Job, menu: Menu, feeds: Iterable[Mapping[str, Array]], settings: Amp) -> str:
    """What measurements hold for: the kinds of scores, the model, the data, the encodings of all candidates."""
    digest = hashlib.sha256(f"{settings.phase1} {settings.evaluate is not None}".encode())
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
