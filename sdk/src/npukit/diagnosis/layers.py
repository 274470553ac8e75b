"""A network cut at its layers, so that the effect of one layer is found by running only what lies behind it.

Every part of the network is a model of its own and is loaded once; a Replay keeps the float values at the cuts of one sample. A
layer gets up to three more models of its part: with all its encodings, with those of its constants, with those of its activations.
What comes out of one of them replaces the float values, and the parts behind it run again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType

import attrs

from npukit.encoding import GRID_PRESERVING, Array, Encoding
from npukit.graph import Graph, Node, reads
from npukit.replay import Piece, Replay, Step, cut, following, frontier, side_by_side

VARIANTS = ("all", "weights", "activations")
_CLAMPS = frozenset({"Relu", "Clip"})


@attrs.frozen(eq=False)
class Layer:
    """What one node rounds: its constants ``weights`` and its outputs ``activations``, by name.

    ``activations`` also names what follows on the same grid and rounds nothing itself (Relu after Conv, Reshape). A graph input is
    a layer without a node: ``op`` is "input" and ``part`` None.
    """

    name: str
    op: str
    depth: int
    part: int | None
    weights: tuple[str, ...]
    activations: tuple[str, ...]

    def tensors(self, variant: str) -> tuple[str, ...]:
        """The tensors that are quantized in a variant: "all", "weights" or "activations"."""
        return {"weights": self.weights, "activations": self.activations}.get(variant, (*self.weights, *self.activations))

    def variants(self) -> tuple[tuple[str, ...], ...]:
        """The variants, those that are the same together: a layer without weights is its activations."""
        if self.weights and self.activations:
            return tuple((variant,) for variant in VARIANTS)
        return (("all", "weights" if self.weights else "activations"),)


@attrs.frozen(eq=False)
class Cuts:
    """A graph in parts, in order, and its layers. A part is one node and those behind it that nobody else waits for and that round
    nothing. ``ends`` are the float tensors that results are measured at."""

    graph: Graph
    encodings: Mapping[str, Encoding]
    ends: tuple[str, ...]
    parts: tuple[Piece, ...]
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, graph: Graph, encodings: Mapping[str, Encoding]) -> Cuts:
        ends = measured(graph)
        pieces = cut(graph, _chains(graph, encodings, ends), (*ends, *graph.outputs))
        parts = tuple(piece for piece in pieces if piece.outputs)
        return cls(graph, encodings, ends, parts, tuple(_layers(graph, encodings, parts)))

    @property
    def runs(self) -> float:
        """How many runs of the whole network it takes to run every variant of every layer with what is behind it."""
        parts = (len(layer.variants()) * (1 + len(self.behind(layer))) for layer in self.layers)
        return sum(parts) / max(len(self.parts), 1)

    def behind(self, layer: Layer) -> tuple[int, ...]:
        """The parts that a layer's outputs reach, in order; its own is not among them."""
        return following(self.parts, layer.activations if layer.part is None else self.parts[layer.part].outputs)


def measured(graph: Graph) -> tuple[str, ...]:
    """The float outputs, and for each other output (indices, say) the float tensors that it is made from."""
    found: dict[str, None] = {}
    seen: set[str] = set()
    waiting = list(reversed(graph.outputs))
    while waiting:
        name = waiting.pop()
        if name in seen or graph.tensor(name).is_constant:
            continue
        seen.add(name)
        if graph.tensor(name).is_float:
            found[name] = None
        elif name in graph.producers:
            waiting += reversed(reads(graph, graph.producers[name]))
    return tuple(found)


def _constants(graph: Graph, encodings: Mapping[str, Encoding], node: Node) -> list[str]:
    return [n for n in dict.fromkeys(node.inputs) if n in encodings and graph.tensor(n).is_constant]


def _rounds(graph: Graph, encodings: Mapping[str, Encoding], node: Node) -> bool:
    """Whether a node adds an error of its own: it has a quantized constant, or an output on another grid than its input's."""
    if _constants(graph, encodings, node):
        return True
    grids = [encodings[n] for n in node.outputs if n in encodings]
    before = encodings.get(node.input(0))
    carries = node.op in GRID_PRESERVING | _CLAMPS and not node.domain and before is not None
    return bool(grids) and not (carries and before is not None and all(before.same_grid(e) for e in grids))


def _chains(graph: Graph, encodings: Mapping[str, Encoding], ends: Iterable[str]) -> list[list[Node]]:
    """The nodes in order; one that rounds nothing joins the node whose only reader it is."""
    readers = Counter(name for node in graph.nodes for name in reads(graph, node))
    alone = {name for name, count in readers.items() if count == 1} - {*ends, *graph.outputs}
    last: dict[str, list[Node]] = {}  # the only output of a chain's last node -> the chain
    found = []
    for node in graph.nodes:
        sources = frontier(graph, [node])
        joins = len(sources) == 1 and sources[0] in alone and not _rounds(graph, encodings, node)
        chain = last.get(sources[0]) if joins else None
        if chain is None:
            chain = []
            found.append(chain)
        chain.append(node)
        outputs = [n for n in node.outputs if n]
        if len(outputs) == 1:
            last[outputs[0]] = chain
    return found


def _layers(graph: Graph, encodings: Mapping[str, Encoding], parts: Iterable[Piece]) -> Iterator[Layer]:
    for name in graph.inputs:
        if name in encodings:
            yield Layer(name, "input", 0, None, (), (name,))
    depth = {id(node): index + 1 for index, node in enumerate(graph.nodes)}
    for index, part in enumerate(parts):
        first = part.nodes[0]
        if _rounds(graph, encodings, first):
            weights = tuple(_constants(graph, encodings, first))
            activations = tuple(n for node in part.nodes for n in node.outputs if n in encodings)
            yield Layer(first.name or first.outputs[0], first.op, depth[id(first)], index, weights, activations)


class Network:
    """The models of all parts; ``run`` and ``only`` may be called for any number of samples. A context manager.

    Each model has one thread: what is independent runs side by side instead.
    """

    def __init__(self, cuts: Cuts) -> None:
        self._cuts, self._replay = cuts, Replay(cuts.graph)
        self._parts = [Step.load(cuts.graph, part, threads=1) for part in cuts.parts]
        self._layers = [{labels: self._steps(layer, labels[0]) for labels in layer.variants()} for layer in cuts.layers]

    def _steps(self, layer: Layer, variant: str) -> list[Step]:
        """A layer's part with the encodings of a variant, and the parts behind it."""
        behind = [self._parts[index] for index in self._cuts.behind(layer)]
        if layer.part is None:
            return behind
        grids = {n: self._cuts.encodings[n] for n in layer.tensors(variant)}
        return [Step.load(self._cuts.graph, self._cuts.parts[layer.part], grids, threads=1), *behind]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The float values at the ends for one sample; all those at the cuts are kept for ``only``."""
        self._replay.clear()
        self._replay.keep(feeds)
        for step in self._parts:
            self._replay.extend(step)
        return self._replay.rows(self._cuts.ends)[0]

    def only(self) -> Iterator[tuple[int, tuple[str, ...], dict[str, Array]]]:
        """(index of the layer, variants, the ends that change) for every layer and its variants, in the sample that was run."""
        tasks = [(index, labels) for index, variants in enumerate(self._layers) for labels in variants]
        with side_by_side(self._changed, tasks) as found:
            for (index, labels), ends in zip(tasks, found, strict=True):
                yield index, labels, ends

    def _changed(self, task: tuple[int, tuple[str, ...]]) -> dict[str, Array]:
        index, labels = task
        layer = self._cuts.layers[index]
        inputs = {n: self._cuts.encodings[n] for n in layer.activations} if layer.part is None else {}
        (values,) = self._replay.run(self._layers[index][labels], inputs)
        return {n: values[n] for n in self._cuts.ends if n in values}

    def close(self) -> None:
        self._replay.clear()
        for step in (*self._parts, *(step for variants in self._layers for steps in variants.values() for step in steps)):
            step.model.close()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
