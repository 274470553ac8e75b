"""A model with a state, such as a decoder with its cache, compared over a sequence of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import attrs
import numpy as np

from npukit.backend import Backend, Target
from npukit.calibration import open_data
from npukit.diagnosis.opened import Opened, open_all
from npukit.diagnosis.sqnr import decibels_of, powers
from npukit.encoding import Array
from npukit.errors import DataError, UsageError, did_you_mean
from npukit.events import Event, OnEvent, ignore
from npukit.graph import Graph
from npukit.plugins import Registry
from npukit.quantization import Options


@attrs.frozen
class Step:
    """One step: the token that all models were fed, the one that the float model has on top, and those of the backends by label.

    ``sqnr`` is that of the scores against the float model in dB, inf when equal.
    """

    index: int
    fed: int
    wanted: int
    got: Mapping[str, int]
    sqnr: Mapping[str, float]


@attrs.frozen
class Generation:
    """A sequence on every backend beside the float model ``reference``. The first ``prompt`` steps were fed with the tokens of the
    data, the others with what the float model had on top at the step before. ``sqnr`` is that of all steps together, in dB.
    """

    reference: str
    backends: tuple[str, ...]
    prompt: int
    steps: tuple[Step, ...]
    sqnr: Mapping[str, float]
    notes: tuple[str, ...] = ()

    @property
    def agreement(self) -> Mapping[str, int]:
        """In how many steps a backend has the same token on top as the float model."""
        return {label: sum(s.got[label] == s.wanted for s in self.steps) for label in self.backends}

    @property
    def chosen(self) -> int:
        """How many tokens the float model chose: one at every step from the last one of the prompt on."""
        return len(self.steps) - self.prompt + 1

    @property
    def together(self) -> Mapping[str, int]:
        """How many tokens a backend would choose as the float model does, fed with its own, until they part; at most ``chosen``.

        Until then it is fed with the same tokens, so no run of its own is needed to know.
        """
        choices = self.steps[self.prompt - 1 :]
        parted = {label: [n for n, s in enumerate(choices) if s.got[label] != s.wanted] for label in self.backends}
        return {label: found[0] if found else len(choices) for label, found in parted.items()}

    def worst(self, count: int) -> tuple[Step, ...]:
        """The ``count`` steps with the lowest SQNR on the last backend, in order of time."""
        lowest = sorted(self.steps, key=lambda s: s.sqnr[self.backends[-1]])[:count]
        return tuple(sorted(lowest, key=lambda s: s.index))


def compare_steps(
    source: Any,
    backends: Sequence[str | Backend | Target] | Mapping[str, Target] = (),
    *,
    data: Any,
    tokens: tuple[str, str],
    generate: int = 0,
    calibration: Any = None,
    options: Options | None = None,
    kernels: str = "",
    reference: Any = None,
    registry: Registry | None = None,
    on_event: OnEvent = ignore,
) -> Generation:
    """Run ``source`` step by step on every backend and compare its scores with those of the float model.

    The samples of ``data`` are the steps in order. ``tokens`` names the input that takes one token and the output with the scores
    of the next one, [..., words]. At the last ``generate`` steps all models get the token that the float model had on top at the
    step before (teacher forcing, greedy). An input that is tied to an output (``Options.ties``, or those of a package) is the
    model's state: every model gets its own output of the step before, at the first step what the data has. The other parameters are
    those of ``compare``.

    Raises UsageError for names that are no input and output, for a model without a state, or whose outputs do not have the shape of
    the inputs that they are tied to; DataError for data of fewer than ``generate`` + 1 steps.
    """
    opened = open_all(
        source,
        backends,
        data=data,
        calibration=calibration,
        options=options,
        kernels=kernels,
        reference=reference,
        registry=registry,
        on_event=on_event,
    )
    with opened:
        _check_tokens(opened.graph, tokens)
        state = _state(opened)
        batches = open_data(data, opened.graph, limit=options.limit if options else None)
        if not isinstance(batches, Sized):
            raise DataError("the number of steps is not known", hint="give a list, a file or a folder")
        prompt = len(batches) - generate
        if prompt < 1:
            message = f"{len(batches)} steps of data, {generate} of them to generate: the first token must come from the data"
            raise DataError(message, hint=f"give {generate + 1} steps or more")
        sequence = _Sequence(opened, state, tokens)
        for index, feeds in enumerate(batches):
            sequence.step(feeds, index >= prompt)
            on_event(Event("compare", index + 1, len(batches)))
    levels = {label: decibels_of(sequence.signal, noise) for label, noise in sequence.noise.items()}
    return Generation(opened.title, tuple(opened.sessions), prompt, tuple(sequence.steps), levels, opened.notes)


def _check_tokens(graph: Graph, tokens: tuple[str, str]) -> None:
    for name, ends, what in ((tokens[0], graph.inputs, "input"), (tokens[1], graph.outputs, "output")):
        if name not in ends:
            raise UsageError(f"'{name}' is no {what} of the model", hint=did_you_mean(name, ends))
    token = graph.tensor(tokens[0])
    if token.is_float or token.size > 1:
        message = f"input '{token.name}' is {token.dtype} of shape {list(token.shape or ())}: a step takes one token, an integer"
        raise UsageError(message, hint="use the form of the model for one token")


def _state(opened: Opened) -> dict[str, str]:
    """Input -> the output that it gets at the next step."""
    graph = opened.graph
    pairs = [pair for a, b in opened.ties for pair in ((a, b), (b, a))]
    found = {a: b for a, b in pairs if a in graph.inputs and b in graph.outputs}
    if not found:
        raise UsageError(
            "no input of the model is tied to an output, so nothing is handed on from step to step",
            hint="--tie INPUT=OUTPUT, when the model is quantized or here",
        )
    for name, source in found.items():
        taken, given = graph.tensor(name).static_shape, graph.tensor(source).static_shape
        if taken is not None and given is not None and taken != given:
            raise UsageError(
                f"output '{source}' has shape {list(given)}, input '{name}' takes {list(taken)}: it cannot be handed on",
                hint="the model must give back the whole state, a cache with Concat and Slice for one",
            )
    return found


class _Sequence:
    """The steps so far: the state of every model, and what became of its scores."""

    def __init__(self, opened: Opened, state: Mapping[str, str], tokens: tuple[str, str]) -> None:
        self._sessions = {"": opened.exact, **opened.sessions}  # the float model has no label
        self._state, (self._token, self._scores) = state, tokens
        self._carried: dict[str, dict[str, Array]] = {label: {} for label in self._sessions}
        self.steps: list[Step] = []
        self.signal = 0.0
        self.noise = dict.fromkeys(opened.sessions, 0.0)

    def step(self, feeds: Mapping[str, Array], generated: bool) -> None:
        """Run all models once; ``generated``: on the token that the float model had on top before."""
        token = np.asarray(feeds[self._token])
        if generated:
            token = np.full_like(token, self.steps[-1].wanted)
        outputs = [self._scores, *self._state.values()]
        scores: dict[str, Array] = {}
        for label, session in self._sessions.items():
            found = session.run({**feeds, **self._carried[label], self._token: token}, outputs)
            self._carried[label] = {name: found[source] for name, source in self._state.items()}
            scores[label] = found[self._scores]
        wanted = scores.pop("")
        parts = {label: powers(self._scores, wanted, got) for label, got in scores.items()}
        self.signal += float(np.square(wanted, dtype=np.float64).sum())
        self.noise = {label: noise + parts[label][1] for label, noise in self.noise.items()}
        levels = {label: decibels_of(*part) for label, part in parts.items()}
        top = {label: _top(got) for label, got in scores.items()}
        self.steps.append(Step(len(self.steps), int(token.item()), _top(wanted), top, levels))


def _top(scores: Array) -> int:
    """The token with the highest score, the first one of equals."""
    return int(scores.reshape(-1, scores.shape[-1])[-1].argmax())
