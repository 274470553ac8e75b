"""Say which layers of a quantized model lose the accuracy, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import ExitStack
from functools import partial
from typing import Any

import attrs
import numpy as np

from npukit.backend import Backend, Soc, Target
from npukit.backend.ort import OrtModel
from npukit.calibration import Batches, open_data
from npukit.calibration.profile import finite
from npukit.diagnosis.layers import VARIANTS, Cuts, Layer, Network
from npukit.diagnosis.remedies import Diagnosis, Measure, Remedy, Workshop, find_remedies
from npukit.diagnosis.sqnr import Meter, TensorRow, inner_tensors
from npukit.diagnosis.statistics import TensorStats, all_stats, watchers
from npukit.encoding import Array, Encoding, has_original_weights
from npukit.encoding.formats import DEQUANTIZED, insert_qdq
from npukit.errors import UsageError
from npukit.events import Event, OnEvent, ignore
from npukit.graph import Graph
from npukit.plugins import Registry
from npukit.quantization import Options, Quantized, Source, freed, quantize, read_source, resolve
from npukit.quantization.optimize import ENGINE
from npukit.quantization.tied import tied_pairs

_CODES_ONLY = (
    "the package has the codes of its weights and not their float values, so the error of the weights does not show: "
    "analyze the original model, or make the package with --keep-float"
)
_MATTERS = 20.0
"""Decibels above the SQNR of the whole model at which a layer has no share in its noise worth speaking of."""


@attrs.frozen(eq=False)
class LayerRow:
    """What quantizing one layer, and nothing else, does to the outputs of the model.

    ``all``, ``weights`` and ``activations`` are the SQNR in dB at ``output``, the one that it harms most, with everything that the
    layer rounds, with its constants only, with its outputs only (inf: no error); ``outputs`` has them for every output.
    ``constants`` and ``tensors`` name what it rounds, ``advice`` the remedies that are for it.
    """

    name: str
    op: str
    depth: int
    constants: tuple[str, ...]
    tensors: tuple[str, ...]
    output: str
    all: float
    weights: float
    activations: float
    outputs: Mapping[str, Mapping[str, float]]
    advice: tuple[str, ...] = ()


@attrs.frozen(eq=False)
class Analysis:
    """SQNR per layer and per tensor, ranges, and what to do.

    ``layers`` are in order of depth. ``outputs`` and ``tensors`` compare the model quantized as a whole with the float model: "all"
    of it, its "weights" only, its "activations" only. ``statistics`` are the ranges of all tensors, quantized constants included.
    ``remedies`` are what helps: first what costs nothing on the chip, then wider types, and of these what helps most; ``refuted``
    was tried and does not help. ``notes`` are what a reader should know. ``overrides`` are the encodings that remedies with wider
    types ask for and those that were overrides before, for ``Request(overrides=...)``.
    """

    backend: str
    soc: Soc
    samples: int
    outputs: tuple[TensorRow, ...]
    layers: tuple[LayerRow, ...]
    tensors: tuple[TensorRow, ...]
    statistics: tuple[TensorStats, ...]
    remedies: tuple[Remedy, ...]
    refuted: tuple[Remedy, ...]
    overrides: Mapping[str, Encoding]
    encodings: Mapping[str, Encoding]
    graph: Graph
    notes: tuple[str, ...] = ()

    def worst(self, count: int) -> tuple[LayerRow, ...]:
        """The ``count`` layers with the lowest SQNR when only they are quantized, worst first; those without error are left out."""
        return tuple(self.layers[i] for i in _ranked(self.layers)[:count])


def analyze(
    source: Any,
    backend: str | Backend | Target = "",
    *,
    data: Any,
    calibration: Any = None,
    options: Options | None = None,
    worst: int = 10,
    registry: Registry | None = None,
    on_event: OnEvent = ignore,
) -> Analysis:
    """Measure what each layer of a quantized model costs, find out why, and try what could be done about the ``worst`` ones.

    A float model is quantized for the backend first, on ``calibration`` or else on ``data`` itself; a package is taken with the
    encodings it has. The arithmetic is that of Q/DQ nodes in float on ONNX Runtime, SQNR that of ``npukit.diagnosis.sqnr``. Memory
    does not grow with the number of samples; the data is read several times. Raises what ``quantize`` raises, UsageError for a
    model that is not quantized, DataError for NaN or infinite values.
    """
    options = options or Options()
    registry = registry or Registry.load()
    origin = read_source(source, registry=registry)
    target = resolve(backend, origin, registry)
    samples = data if calibration is None else calibration

    def make(overrides: Mapping[str, Encoding], **how: Any) -> Quantized:
        asked = attrs.evolve(origin, encodings={}, overrides=dict(overrides))
        return quantize(asked, target, data=samples, registry=registry, on_event=on_event, **how)

    packaged = origin.manifest is not None
    anew = origin.overrides is not None or bool(options.decisions())
    origin = freed(origin, options)
    model = origin if packaged and not anew else make(origin.given, options=options)
    graph, encodings = model.graph, _in_use(model)
    batches = open_data(data, graph, limit=options.limit)
    survey = _Survey(graph, encodings)
    survey.run(batches, on_event)
    optimizers = frozenset(o.name for o in registry.optimizers() if o.engine == ENGINE)
    options = attrs.evolve(options, ties=tied_pairs(graph, (*origin.ties, *options.ties)))
    shop = Workshop(graph, encodings, target, options, origin.given, optimizers, make, packaged)
    return _conclude(shop, survey, worst, partial(_try, graph, batches, survey.cuts.ends, on_event))


def _conclude(shop: Workshop, survey: _Survey, worst: int, measure: Measure) -> Analysis:
    """The remedies for the worst layers, and everything that was found."""
    tensors, layers = survey.tensors(), survey.layers()
    outputs = tuple(r for r in tensors if r.name in survey.cuts.ends)
    statistics = all_stats(shop.graph, shop.encodings, survey.watchers, shop.axes())
    before = {r.name: r.sqnr["all"] for r in outputs}
    diagnoses = list(_diagnoses(survey.cuts.layers, layers, statistics, worst, before))
    remedies, refuted = find_remedies(shop, diagnoses, before, measure)
    advised = (attrs.evolve(r, advice=tuple(x.action for x in remedies if r.name in x.reasons)) for r in layers)
    return Analysis(
        shop.target.backend.name,
        shop.target.soc,
        survey.samples,
        outputs,
        tuple(advised),
        tuple(tensors),
        statistics,
        remedies,
        refuted,
        _overrides(shop, remedies),
        shop.encodings,
        shop.graph,
        () if has_original_weights(shop.graph) else (_CODES_ONLY,),
    )


def _in_use(model: Source | Quantized) -> dict[str, Encoding]:
    """The encodings of tensors that exist. Raises UsageError when there are none."""
    found = {n: e for n, e in model.encodings.items() if n in model.graph.tensors}
    if not found:
        raise UsageError("the model is not quantized, so there is nothing to analyze", hint="npukit quantize gives it encodings")
    return found


class _Survey:
    """One pass over the data: the whole model and every layer alone, against the float model."""

    def __init__(self, graph: Graph, encodings: Mapping[str, Encoding]) -> None:
        self.cuts = Cuts.of(graph, encodings)
        self.watchers = watchers(graph)
        self.samples = 0
        inner = inner_tensors(graph, encodings)
        self._whole = Meter(graph, [n for n in self.watchers if n not in inner or n in self.cuts.ends], VARIANTS)
        labels = [_label(index, variant) for index in range(len(self.cuts.layers)) for variant in VARIANTS]
        self._single = Meter(graph, self.cuts.ends, labels)

    def run(self, batches: Batches, on_event: OnEvent) -> None:
        graph, encodings = self.cuts.graph, self.cuts.encodings
        total = len(batches) if isinstance(batches, Sized) else None
        with ExitStack() as stack:
            reference = stack.enter_context(OrtModel(graph, list(self.watchers)))
            whole = {v: stack.enter_context(_Simulation(graph, _subset(graph, encodings, v), self._whole.names)) for v in VARIANTS}
            network = stack.enter_context(Network(self.cuts))
            for feeds in batches:
                values = reference.run(feeds)
                self._look(values)
                for variant, simulation in whole.items():
                    self._whole.add(variant, values, simulation.run(feeds))
                self._alone(network, feeds)
                self.samples += 1
                on_event(Event("analyze", self.samples, total))

    def _look(self, values: Mapping[str, Array]) -> None:
        for name, watcher in self.watchers.items():
            watcher.see(finite(self.cuts.graph, name, values[name], self.samples))
        self._whole.see(values)

    def _alone(self, network: Network, feeds: Mapping[str, Array]) -> None:
        values = network.run(feeds)
        self._single.see(values)
        for index, variants, ends in network.only():
            for variant in variants:
                self._single.add(_label(index, variant), values, {**values, **ends})

    def tensors(self) -> list[TensorRow]:
        return self._whole.rows(self.cuts.graph)

    def layers(self) -> list[LayerRow]:
        levels = {row.name: row.sqnr for row in self._single.rows(self.cuts.graph)}
        return [self._row(index, layer, levels) for index, layer in enumerate(self.cuts.layers)]

    def _row(self, index: int, layer: Layer, levels: Mapping[str, Mapping[str, float]]) -> LayerRow:
        found = {end: {v: levels[end][_label(index, v)] for v in VARIANTS} for end in self.cuts.ends}
        output = min(found, key=lambda end: found[end]["all"])
        worst = found[output]
        names = (layer.name, layer.op, layer.depth, layer.weights, layer.activations)
        return LayerRow(*names, output, worst["all"], worst["weights"], worst["activations"], found)


def _overrides(shop: Workshop, remedies: Iterable[Remedy]) -> dict[str, Encoding]:
    """The encodings of all wider types where they are accepted together, else of the remedy that helps most."""
    wider = [r.overrides for r in remedies if r.overrides]
    if not wider:
        return {}
    union = {n: e for found in reversed(wider) for n, e in found.items()}
    before = {n: e for n, e in shop.encodings.items() if e.origin == "override"}
    return {**before, **(shop.accept(union) or wider[0])}


def _label(index: int, variant: str) -> str:
    return f"{index} {variant}"


def _subset(graph: Graph, encodings: Mapping[str, Encoding], variant: str) -> dict[str, Encoding]:
    """The encodings of a variant: all, those of constants, those of activations."""
    constant = {"weights": (True,), "activations": (False,)}.get(variant, (True, False))
    return {n: e for n, e in encodings.items() if graph.tensor(n).is_constant in constant}


class _Simulation:
    """A whole graph computed with encodings; answers with the values of tensors as their readers see them."""

    def __init__(self, graph: Graph, encodings: Mapping[str, Encoding], names: Iterable[str]) -> None:
        lowered = insert_qdq(graph, encodings)
        self._stored = {n: n + DEQUANTIZED if n + DEQUANTIZED in lowered.tensors else n for n in names}
        self._model = OrtModel(lowered, list(dict.fromkeys(self._stored.values())), fuse_qdq=False)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        found = self._model.run(feeds)
        return {name: found[stored] for name, stored in self._stored.items()}

    def __enter__(self) -> _Simulation:
        return self

    def __exit__(self, *_: object) -> None:
        self._model.close()


def _ranked(rows: Iterable[LayerRow]) -> list[int]:
    """The indices of the layers with an error, worst first."""
    found = [(row.all, row.depth, index) for index, row in enumerate(rows) if row.all < np.inf]
    return [index for _, _, index in sorted(found)]


def _diagnoses(
    layers: tuple[Layer, ...], rows: list[LayerRow], statistics: Iterable[TensorStats], worst: int, levels: Mapping[str, float]
) -> Iterator[Diagnosis]:
    """The worst layers that have a share in the noise of the whole model, whose outputs have SQNR ``levels``."""
    known = {s.name: s for s in statistics}
    for index in _ranked(rows)[:worst]:
        row, layer = rows[index], layers[index]
        if row.all < levels[row.output] + _MATTERS:
            constants, outputs = (tuple(known[n] for n in names if n in known) for names in (layer.weights, layer.activations))
            yield Diagnosis(layer, row.all, row.weights, row.activations, constants, outputs)


def _try(
    graph: Graph, batches: Batches, ends: tuple[str, ...], on_event: OnEvent, models: Mapping[str, Quantized]
) -> dict[str, dict[str, float]]:
    """SQNR at the outputs of differently quantized models, against the float model ``graph``."""
    meter = Meter(graph, ends, list(models))
    total = len(batches) if isinstance(batches, Sized) else None
    with ExitStack() as stack:
        reference = stack.enter_context(OrtModel(graph, ends))
        tried = {k: stack.enter_context(_Simulation(m.graph, m.encodings, ends)) for k, m in models.items()}
        for done, feeds in enumerate(batches):
            wanted = reference.run(feeds)
            meter.see(wanted)
            for label, simulation in tried.items():
                meter.add(label, wanted, simulation.run(feeds))
            on_event(Event("try remedies", done + 1, total))
    rows = meter.rows(graph)
    return {label: {row.name: row.sqnr[label] for row in rows} for label in models}
