"""What could be done about the layers that cost most: chosen by cause, accepted by the op constraints, and tried out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

import attrs

from npukit.backend import Precision, Problem, Target, port_axis
from npukit.diagnosis.layers import Layer
from npukit.diagnosis.statistics import TensorStats, channel_ratio
from npukit.encoding import Encoding
from npukit.errors import ConstraintError, UsageError
from npukit.graph import Graph
from npukit.quantization import Options, Quantized, Source
from npukit.quantization.plan import Task

SPREAD = 8.0
"""Channels whose ranges differ by more than this waste three bits of a common grid."""
_SOME_SPREAD = 2.0
_USED = 0.5
"""When 99.9 % of the values use less of the range than this, outliers cost a bit or more."""
_APART = 6.0
"""Decibels by which weights and activations must differ for the better one not to matter."""
WORTH = 0.5
"""Decibels at the worst output that a remedy must gain."""
_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_METHODS = ("percentile", "entropy", "mse")


@attrs.frozen(eq=False)
class Remedy:
    """Something to do, as ``flag`` of ``npukit quantize``, for the layers in ``reasons``, which says why for each.

    ``action``: cle, per-channel, calibration, adaround, wide-weights or wide-activations. ``sqnr`` is what it was seen to do to
    the outputs of the whole model, in dB, and ``gain`` its difference at the worst output; {} and None when it was not tried.
    ``overrides`` are the encodings that a remedy with wider types consists of.
    """

    action: str
    flag: str
    reasons: Mapping[str, str]
    sqnr: Mapping[str, float] = attrs.field(factory=dict)
    gain: float | None = None
    overrides: Mapping[str, Encoding] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class Diagnosis:
    """A layer with its SQNR (everything, constants only, outputs only) and the statistics of the tensors that it rounds."""

    layer: Layer
    level: float
    weights: float
    activations: float
    constants: tuple[TensorStats, ...]
    outputs: tuple[TensorStats, ...]

    @property
    def weights_matter(self) -> bool:
        return bool(self.layer.weights) and self.weights <= self.activations + _APART

    @property
    def activations_matter(self) -> bool:
        return bool(self.layer.activations) and self.activations <= self.weights + _APART


Make: TypeAlias = Callable[..., Quantized]
"""quantize() of the model, with ``options``, ``overrides`` and ``optimize`` still open."""


@attrs.frozen(eq=False)
class Workshop:
    """The model and the means to judge and try a change of it. Of a package (``packaged``) only encodings can be changed."""

    graph: Graph
    encodings: Mapping[str, Encoding]
    target: Target
    options: Options
    overrides: Mapping[str, Encoding]
    optimizers: frozenset[str]
    make: Make
    packaged: bool

    @property
    def precision(self) -> Precision:
        return self.options.precision(self.target.precision)

    def axes(self) -> dict[str, int | None]:
        """The axis of the output channels of every weight that the op constraints know."""
        precision = attrs.evolve(self.precision, per_block=0, lpbq=0)  # whose axis is that of the inputs
        ports = self.target.rules.plan(self.graph, precision, self._given()).weight_ports
        return {n: port_axis(port, len(self.graph.tensor(n).shape or ())) for n, port in ports.items()}

    def accept(self, wanted: Mapping[str, Encoding]) -> dict[str, Encoding] | None:
        """All encodings that change when ``wanted`` take effect, or None when the op constraints refuse that.

        What must change along with them changes too, as little as possible.
        """
        task = self._task({n: e.with_origin("override") for n, e in wanted.items()})
        found = task.encodings(task.placeholders())
        if self._worse(task, found):
            _, found = task.legal(found)
        if self._worse(task, found) or not all(n in found and _same_form(found[n], e) for n, e in wanted.items()):
            return None
        changed = {n: e for n, e in found.items() if n not in self.encodings or not e.same_grid(self.encodings[n])}
        return {n: e for n, e in changed.items() if e.origin != "derived"}

    def attempt(self, **how: object) -> Quantized | None:
        """The model quantized in another way; None when the backend or an optimizer refuses it."""
        try:
            return self.make(**{"options": self.options, "overrides": self.overrides, **how})
        except (ConstraintError, UsageError):
            return None

    def _given(self) -> dict[str, Encoding]:
        """The encodings as they are, decided; biases follow, and what has none stays as it is."""
        floats = {n: Encoding("float32") for n in self.graph.float_activations() if self.graph.tensor(n).dtype == "float32"}
        return floats | {n: e for n, e in self.encodings.items() if e.origin != "derived"}

    def _task(self, wanted: Mapping[str, Encoding]) -> Task:
        return Task.of(self.graph, self.target, self.options, {**self._given(), **wanted})

    def _worse(self, task: Task, encodings: Mapping[str, Encoding]) -> bool:
        """Whether there are errors that the model does not have as it is."""
        return bool(_errors(task.problems(encodings)) - self._errors)

    @cached_property
    def _errors(self) -> set[tuple[str, str, str]]:
        return _errors(self._task({}).problems(self.encodings))


def _same_form(a: Encoding, b: Encoding) -> bool:
    """Whether only the scales differ: that of a weight may have to leave room for the bias."""
    return a.dtype == b.dtype and a.granularity == b.granularity


def _errors(problems: Iterable[Problem]) -> set[tuple[str, str, str]]:
    return {(p.rule, p.node, p.tensor) for p in problems if p.severity == "error"}


@attrs.frozen(eq=False)
class Candidate:
    """A remedy with the model it makes, None when it is not tried."""

    remedy: Remedy
    model: Quantized | None = None


Measure: TypeAlias = Callable[[Mapping[str, Source | Quantized]], Mapping[str, Mapping[str, float]]]
"""SQNR per output of each of several models."""


def find_remedies(
    shop: Workshop, diagnoses: Sequence[Diagnosis], before: Mapping[str, float], measure: Measure
) -> tuple[tuple[Remedy, ...], tuple[Remedy, ...]]:
    """What helps, and what was tried and does not help. What costs nothing on the chip comes first, then what helps most."""
    makers = (_equalize, _per_channel, _recalibrate, _round, _widen_weights, _widen_activations)
    found = [candidate for maker in makers for candidate in maker(shop, diagnoses)]
    models: dict[str, Source | Quantized] = {str(index): c.model for index, c in enumerate(found) if c.model is not None}
    levels = measure(models) if models else {}
    tried = [with_gain(found[int(label)].remedy, before, after) for label, after in levels.items()]
    untried = [c.remedy for c in found if c.model is None]
    ranked = sorted([*_best_calibration(tried), *untried], key=lambda r: (bool(r.overrides), r.gain is None, -(r.gain or 0.0)))
    helps = tuple(r for r in ranked if r.gain is None or r.gain >= WORTH)
    return helps, tuple(r for r in ranked if r not in helps)


def with_gain(remedy: Remedy, before: Mapping[str, float], after: Mapping[str, float]) -> Remedy:
    least = (min(before.values()), min(after.values()))
    return attrs.evolve(remedy, sqnr=after, gain=0.0 if least[0] == least[1] else least[1] - least[0])


def _best_calibration(tried: Iterable[Remedy]) -> list[Remedy]:
    """All remedies, but of several calibrations only the best."""
    best: dict[str, Remedy] = {}
    for remedy in tried:
        if remedy.action not in best or (remedy.gain or 0.0) > (best[remedy.action].gain or 0.0):
            best[remedy.action] = remedy
    return list(best.values())


def widen(shop: Workshop, diagnoses: Sequence[Diagnosis]) -> list[Candidate]:
    """Wider types of the layers' weights, of their outputs, and of both where they are accepted together."""
    found = [*_widen_weights(shop, diagnoses), *_widen_activations(shop, diagnoses)]
    if len(found) < 2:
        return found
    weights, outputs = (c.remedy for c in found)
    union = shop.accept({**weights.overrides, **outputs.overrides})
    if union is None:
        return found
    remedy = Remedy("wide-types", "--overrides FILE", {**weights.reasons, **outputs.reasons}, overrides=union)
    return [*found, *_tried(shop, remedy, overrides={**shop.overrides, **union}, packaged=True)]


# ------------------------------------------------------------------------------------------------------------ by cause


def _equalize(shop: Workshop, diagnoses: Iterable[Diagnosis]) -> list[Candidate]:
    able = [d for d in diagnoses if d.layer.op in ("Conv", "ConvTranspose") and "cle" in shop.optimizers]
    spreads = {d.layer.name: _widest_spread(shop, d) for d in able}
    reasons = {
        name: f"{what} have ranges up to {ratio:.3g} times the median" for name, (ratio, what) in spreads.items() if ratio > SPREAD
    }
    return _tried(shop, Remedy("cle", "--optimize cle", reasons), optimize="cle")


def _widest_spread(shop: Workshop, diagnosis: Diagnosis) -> tuple[float, str]:
    """How far apart the channels are that equalization brings together, and where; only where it costs something."""
    found = [(0.0, "")]
    for name in diagnosis.layer.weights[: diagnosis.weights_matter]:
        found += [
            (channel_ratio(shop.graph.constant(name), axis) or 0.0, f"{side} channels of the weight")
            for axis, side in _SIDES[diagnosis.layer.op]
        ]
    if diagnosis.activations_matter:
        found += [(s.channel_ratio or 0.0, "channels of the output") for s in diagnosis.outputs]
    return max(found)


_SIDES = {"Conv": ((0, "output"), (1, "input")), "ConvTranspose": ((1, "output"), (0, "input"))}


def _per_channel(shop: Workshop, diagnoses: Iterable[Diagnosis]) -> list[Candidate]:
    axes, reasons = shop.axes(), {}
    for d in diagnoses:
        for s in d.constants:
            axis, data = axes.get(s.name), shop.graph.constant(s.name)
            ratio = s.channel_ratio or 0.0
            if axis is None or data is None or s.granularity != "tensor" or ratio <= _SOME_SPREAD or not d.weights_matter:
                continue
            grid = shop.target.scheme.weight(data, s.dtype, granularity="channel", axis=axis)
            if shop.accept({s.name: grid}) is not None:
                reasons[d.layer.name] = f"one scale for channels of the weight whose ranges reach {ratio:.3g} times the median"
    options = attrs.evolve(shop.options, per_channel=True)
    return _tried(shop, Remedy("per-channel", "--per-channel", reasons), options=options)


def _recalibrate(shop: Workshop, diagnoses: Iterable[Diagnosis]) -> list[Candidate]:
    reasons = {}
    for d in diagnoses:
        used = min((s.used for s in d.outputs if _was_calibrated(shop.encodings.get(s.name))), default=1.0)
        if d.activations_matter and used < _USED:
            reasons[d.layer.name] = f"99.9 % of the output's values use {used:.1%} of its range"
    methods = [m for m in _METHODS if m != shop.options.calibration]
    found = []
    for method in methods[:1] if shop.packaged else methods:
        options = attrs.evolve(shop.options, calibration=method)
        found += _tried(shop, Remedy("calibration", f"--calibration {method}", reasons), options=options)
    return found


def _was_calibrated(encoding: Encoding | None) -> bool:
    return encoding is not None and not encoding.is_float and encoding.origin in ("calibrated", "propagated")


def _round(shop: Workshop, diagnoses: Iterable[Diagnosis]) -> list[Candidate]:
    """AdaRound takes too long to be tried on the way."""
    reasons = {}
    for d in diagnoses:
        few = [s for s in d.constants if s.dtype in ("int2", "int4", "uint2", "uint4")]
        if few and d.weights_matter and d.layer.op in _LINEAR and "adaround" in shop.optimizers:
            reasons[d.layer.name] = f"the error is that of {few[0].dtype} weights, {d.weights:.1f} dB"
    remedy = Remedy("adaround", "--optimize adaround", reasons)
    return [Candidate(remedy)] if reasons else []


def _widen_weights(shop: Workshop, diagnoses: Iterable[Diagnosis]) -> list[Candidate]:
    wanted = {d.layer.name: _wider_constants(shop, d) for d in diagnoses if d.weights_matter}
    levels = {d.layer.name: d.weights for d in diagnoses}
    return _widened(shop, "wide-weights", "weights", wanted, levels)


def _widen_activations(shop: Workshop, diagnoses: Iterable[Diagnosis]) -> list[Candidate]:
    wanted = {d.layer.name: _wider_outputs(shop, d) for d in diagnoses if d.activations_matter}
    levels = {d.layer.name: d.activations for d in diagnoses}
    return _widened(shop, "wide-activations", "outputs", wanted, levels)


def _widened(
    shop: Workshop, action: str, what: str, wanted: Mapping[str, Mapping[str, Encoding]], levels: Mapping[str, float]
) -> list[Candidate]:
    """The remedy of wider types: of each layer in turn, where they are accepted together with those before."""
    union: dict[str, Encoding] = {}
    reasons = {}
    for name, grids in wanted.items():
        accepted = shop.accept({**union, **grids}) if grids else None
        if accepted is not None:
            union = accepted
            widths = " and ".join(sorted({e.dtype for e in grids.values()}))
            reasons[name] = f"{what} as {widths}: they cost {levels[name]:.1f} dB"
    remedy = Remedy(action, "--overrides FILE", reasons, overrides=union)
    return _tried(shop, remedy, overrides={**shop.overrides, **union}, packaged=True)


def _wider_constants(shop: Workshop, diagnosis: Diagnosis) -> dict[str, Encoding]:
    found = {}
    for name in diagnosis.layer.weights:
        before, data = shop.encodings[name], shop.graph.constant(name)
        if data is None or before.is_float or before.bits > 8 or before.origin == "derived" or before.block_size is not None:
            continue
        dtype = f"{'' if before.signed else 'u'}int{8 if before.bits < 8 else 16}"
        found[name] = shop.target.scheme.weight(
            data, dtype, granularity=before.granularity, axis=before.axis, symmetric=before.signed, origin="override"
        )
    return found


def _wider_outputs(shop: Workshop, diagnosis: Diagnosis) -> dict[str, Encoding]:
    """The outputs of a layer on 16 bits, and all that shares their grid."""
    found: dict[str, Encoding] = {}
    for name in diagnosis.layer.activations:
        before = shop.encodings[name]
        if name in found or before.is_float or before.bits >= 16 or before.granularity != "tensor":
            continue
        dtype = f"{'' if before.signed else 'u'}int16"
        wide = shop.target.scheme.activation(
            float(before.min), float(before.max), dtype, symmetric=before.symmetric, origin="override"
        )
        found |= {n: wide for n, e in shop.encodings.items() if e.same_grid(before)}
    return found


def _tried(shop: Workshop, remedy: Remedy, *, packaged: bool = False, **how: object) -> list[Candidate]:
    """The candidate with its model; none when it is for no layer or is refused. ``packaged``: a package can be changed this way."""
    if not remedy.reasons:
        return []
    if shop.packaged and not packaged:
        return [Candidate(remedy)]
    model = shop.attempt(**how)
    return [] if model is None else [Candidate(remedy, model)]
