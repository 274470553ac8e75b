"""What quantizing each layer of a model alone costs, and the whole model beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import ExitStack

import attrs
import numpy as np

from npukit.backend.ort import OrtModel
from npukit.calibration import Batches
from npukit.calibration.profile import finite
from npukit.diagnosis.layers import VARIANTS, Cuts, Layer, Network
from npukit.diagnosis.remedies import Diagnosis
from npukit.diagnosis.sqnr import Meter, TensorRow, inner_tensors
from npukit.diagnosis.statistics import TensorStats, watchers
from npukit.encoding import Array, Encoding
from npukit.encoding.formats import DEQUANTIZED, insert_qdq
from npukit.events import Event, OnEvent
from npukit.graph import Graph
from npukit.quantization import Quantized, Source

_RUNS = 16
"""So many runs of the network may a sample cost on average when every layer is looked at alone; beyond, samples are left out."""
_LEAST = 4
"""The first samples at which every layer is looked at, whatever it costs."""
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


class Survey:
    """One pass over the data: the whole model and every layer alone, against the float model.

    Layers are looked at in ``alone`` of the ``samples``: the first ones, then one in so many that ``_RUNS`` holds.
    """

    def __init__(self, graph: Graph, encodings: Mapping[str, Encoding]) -> None:
        self.cuts = Cuts.of(graph, encodings)
        self.watchers = watchers(graph)
        self.samples = self.alone = 0
        self._step = math.ceil(self.cuts.runs / _RUNS) or 1
        inner = inner_tensors(graph, encodings)
        self._whole = Meter(graph, [n for n in self.watchers if n not in inner or n in self.cuts.ends], VARIANTS)
        labels = [_label(index, variant) for index in range(len(self.cuts.layers)) for variant in VARIANTS]
        self._single = Meter(graph, self.cuts.ends, labels)

    def run(self, batches: Iterable[Mapping[str, Array]], on_event: OnEvent) -> None:
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
                if self.samples < _LEAST or self.samples % self._step == 0:
                    self._alone(network, feeds)
                self.samples += 1
                on_event(Event("analyze", self.samples, total))

    def _look(self, values: Mapping[str, Array]) -> None:
        for name, watcher in self.watchers.items():
            watcher.see(finite(self.cuts.graph, name, values[name], self.samples))
        self._whole.see(values)

    def _alone(self, network: Network, feeds: Mapping[str, Array]) -> None:
        self.alone += 1
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


def ranked(rows: Iterable[LayerRow]) -> list[int]:
    """The indices of the layers with an error, worst first."""
    found = [(row.all, row.depth, index) for index, row in enumerate(rows) if row.all < np.inf]
    return [index for _, _, index in sorted(found)]


def find_diagnoses(
    layers: tuple[Layer, ...], rows: list[LayerRow], statistics: Iterable[TensorStats], worst: int, levels: Mapping[str, float]
) -> Iterator[Diagnosis]:
    """The worst layers that have a share in the noise of the whole model, whose outputs have SQNR ``levels``."""
    known = {s.name: s for s in statistics}
    for index in ranked(rows)[:worst]:
        row, layer = rows[index], layers[index]
        if row.all < levels[row.output] + _MATTERS:
            constants, outputs = (tuple(known[n] for n in names if n in known) for names in (layer.weights, layer.activations))
            yield Diagnosis(layer, row.all, row.weights, row.activations, constants, outputs)


def try_models(
    graph: Graph, batches: Batches, ends: tuple[str, ...], on_event: OnEvent, models: Mapping[str, Source | Quantized]
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
