"""Automatic mixed precision: as few bits as the accuracy allows, group by group."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import attrs

from npukit.calibration import open_data
from npukit.encoding import Array
from npukit.errors import UsageError
from npukit.quantization import Job, Optimizer
from npukit.replay import Replay
from npukit_aimet.amp.converts import count_converts, fewer_converts
from npukit_aimet.amp.groups import Candidate, make_menu
from npukit_aimet.amp.results import Result, write_results
from npukit_aimet.amp.run import Run
from npukit_aimet.amp.search import SEARCHES, walk_down
from npukit_aimet.config import Labelled, judged, section

Outputs = Mapping[str, Array]
Evaluator = Callable[[Sequence[Outputs]], float]
"""The score of a model from its outputs, sample by sample in the order of the data; higher is better. A sample that does not fit in
memory beside the others is read when it is asked for."""


@attrs.frozen(eq=False)
class Amp(Optimizer):
    """Mixed precision in three phases, after AIMET's (https://github.com/quic/aimet, BSD-3-Clause).

    Phase 1 measures what every group costs in accuracy when it alone has a candidate and all else is float. Phase 2 starts with the
    best of the ``candidates`` everywhere and takes the harmless steps first, until the score has fallen by more than
    ``allowed_accuracy_drop`` (None: all steps, the complete curve). Phase 3 changes groups back or along where that saves converts.
    A candidate that the backend refuses for a group is never proposed. Raises UsageError when no candidate keeps within the drop.

    ``evaluate`` gives the score of phases 2 and 3 (None: SQNR against the float model, in dB) on ``samples`` (what open_data
    takes; None: the calibration samples): that of the finished package, as its backend computes it. Phase 1 uses SQNR unless
    ``phase1`` is "evaluator". The drop is measured from the float model's score; from that of the best candidate for SQNR.
    ``results_dir`` gets accuracy list, Pareto list, overrides and plots, and keeps what was measured: an interrupted run goes on
    there, unless ``clean_start``. ``workers`` groups are measured at a time (0: as many as OMP_NUM_THREADS says, or one per
    processor). Memory does not grow with the number of samples.
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
            return self._search(Run(self, job, menu, replay))

    def _search(self, run: Run) -> Job:
        """The three phases."""
        job, menu = run.job, run.menu
        target = run.target  # first of all: what cannot be kept needs no search
        steps = run.steps()
        lowered, points = walk_down(steps, lambda n: run.point(steps, n), target, self.search)
        choice = run.choice(steps[:lowered])
        if self.reduce_converts:
            choice = fewer_converts(menu, job.graph, choice, run.cost, run.keeps_target)
        encodings = menu.mixed(choice)
        result = Result(
            menu, steps, points, choice, run.score(choice), run.cost(choice), run.dearest, count_converts(job.graph, encodings)
        )
        written = [] if self.results_dir is None else write_results(self.results_dir, result, job.graph, run.choice)
        decided = {n: e.with_origin("optimizer:amp") for n, e in encodings.items() if n not in job.given}
        return job.decide(decided, (), *result.notes(), *written)


def _default_candidates(job: Job) -> tuple[Candidate, ...]:
    precision = job.judge.precision
    sign = "" if precision.activations.startswith("int") else "u"
    return Candidate(f"{sign}int16", precision.weights), Candidate(f"{sign}int8", precision.weights)


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
    found = next((text for key, text in known.items() if isinstance(value, (list, tuple)) and key == tuple(value)), None)
    if found is None:
        raise UsageError(f"{path} is {value!r}, no type", hint="[4, int], [8, int], [16, int], [16, float] ...")
    return found
