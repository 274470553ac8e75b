"""One combination: quantized from the profile, written, opened on the target, run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import attrs
import numpy as np

from npukit.backend import Problem, Session, Target, TotalCost, total
from npukit.calibration import Feeds, Profile
from npukit.callbacks import score_of
from npukit.diagnosis.outputs import session_sqnr
from npukit.errors import ConstraintError, NpukitError, counted
from npukit.package.codec import dump_json, encodings_to_json
from npukit.plugins import Registry
from npukit.quantization import Options, Quantized, Source, open_session, quantize
from npukit.trials.axes import Choices, applied

Evaluator: TypeAlias = Callable[[Session], float]
"""The user's judgement of an opened model; higher is better."""


@attrs.frozen
class SweepRow:
    """One combination. ``number`` counts from 1 in the order of the axes.

    ``sqnr`` is that of every output in dB against the float model, ``score`` what the user's evaluator says of the opened package,
    ``size`` the bytes of the package, ``cost`` the backend's estimate. ``same_as`` is the number of an earlier row with the same
    encodings. ``refused`` says why there is no result; ``problems`` are the findings of the op constraints, ``notes`` what a
    person should know.
    """

    number: int
    choices: Mapping[str, str]
    sqnr: Mapping[str, float] = attrs.field(factory=dict)
    score: float | None = None
    size: int | None = None
    cost: TotalCost | None = None
    encodings: str = ""
    same_as: int | None = None
    refused: str = ""
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> float:
        """The SQNR of the worst output in dB; NaN without a result."""
        return min(self.sqnr.values(), default=float("nan"))

    @property
    def key(self) -> float:
        """What rows are ranked by, higher is better: the score, else the SQNR of the worst output."""
        return self.worst if self.score is None else self.score


@attrs.frozen(eq=False)
class Stand:
    """What all combinations are tried with: the float model, what was seen of it, and ``folder`` with the samples to run."""

    folder: Path
    source: Source
    target: Target
    options: Options
    profile: Profile
    evaluate: Evaluator | None
    registry: Registry

    def quantized(self, choices: Choices, history: Sequence[str] = ()) -> Quantized:
        """The model as this combination makes it. Raises what ``quantize`` raises."""
        options, target = applied(choices, self.options, self.target)
        return quantize(self.source, target, data=self.profile, options=options, registry=self.registry, history=history)

    def row(self, number: int, choices: Choices) -> SweepRow:
        """What comes of a combination; one that fails for a reason says it."""
        try:
            return self._measured(number, choices)
        except NpukitError as error:
            problems = error.problems if isinstance(error, ConstraintError) else ()
            return SweepRow(number, choices, refused=error.message, problems=problems)

    def _measured(self, number: int, choices: Choices) -> SweepRow:
        made = self.quantized(choices)
        options, target = applied(choices, self.options, self.target)
        package = self.folder / f"{number}.dlc"
        made.save(package)
        try:
            size = package.stat().st_size
            with open_session(package, target, strict=options.strict, registry=self.registry) as session:
                cost = total(target.estimate(session.program.graph, session.program.encodings))
                found = session_sqnr(session, read_samples(self.folder))
                score = None if self.evaluate is None else score_of(self.evaluate, session)
        finally:
            package.unlink()
        notes, changes = made.report.notes, made.report.changes
        return SweepRow(
            number,
            choices,
            found.sqnr,
            score,
            size,
            cost,
            encodings=_fingerprint(made),
            problems=made.report.problems,
            notes=(*notes, *([f"legalization changes {counted(len(changes), 'encoding')}"] if changes else [])),
        )


def _fingerprint(made: Quantized) -> str:
    """The same text for the same encodings, whatever their origin."""
    entries = encodings_to_json(made.encodings, made.graph)
    plain = {name: {key: value for key, value in entry.items() if key != "origin"} for name, entry in entries.items()}
    return hashlib.sha256(dump_json(plain)).hexdigest()


def write_samples(folder: Path, samples: Iterable[tuple[Feeds, Feeds]]) -> int:
    """Put what goes into the float model, and what comes out of it, into files of a private folder; the number of samples."""
    count = 0
    for count, sample in enumerate(samples, 1):
        arrays = {f"{index}{name}": array for index, feeds in enumerate(sample) for name, array in feeds.items()}
        np.savez(folder / f"{count:08}.npz", **arrays)  # type: ignore[arg-type]  # a name begins with a digit: no parameter does
    return count


def read_samples(folder: Path) -> Iterator[tuple[Feeds, Feeds]]:
    """What ``write_samples`` wrote, one sample in memory at a time."""
    for path in sorted(folder.glob("[0-9]*.npz")):
        with np.load(path, allow_pickle=False) as archive:
            given, wanted = ({n[1:]: archive[n] for n in archive.files if n[0] == index} for index in "01")
        yield given, wanted
