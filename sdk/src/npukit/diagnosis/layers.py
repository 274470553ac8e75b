"""A network cut at its layers, so that the effect of one layer is found by running only what lies behind it.

Every part of the network is a model of its own and is loaded once; the float values at the cuts are kept for one sample. A layer
gets up to three more models of its part: with all its encodings, with those of its constants, with those of its activations. What
comes out of one of them replaces the float values, and the parts behind it run again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import attrs

from npukit.backend.ort import OrtModel
from npukit.encoding import GRID_PRESERVING, Array, Encoding, fake_quantize
from npukit.encoding.formats import insert_qdq
from npukit.graph import Graph, Node, remove_dead_nodes
from npukit.graph.passes.dead_nodes import reads

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
class Part:
    """Nodes that run in one go: one, and those behind it that nobody else waits for and that round nothing."""

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@attrs.frozen(eq=False)
class Cuts:
    """A graph in parts, in order, and its layers. ``ends`` are the float tensors that results are measured at."""

    graph: Graph
    encodings: Mapping[str, Encoding]
    ends: tuple[str, ...]
    parts: tuple[Part, ...]
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, graph: Graph, encodings: Mapping[str, Encoding]) -> Cuts:
        ends = measured(graph)
        used = {*ends, *graph.outputs, *(name for node in graph.nodes for name in _inputs(graph, node))}
        found = (_part(graph, chain, used) for chain in _chains(graph, encodings, ends))
        parts = tuple(part for part in found if part.outputs)
        return cls(graph, encodings, ends, parts, tuple(_layers(graph, encodings, parts)))

    def behind(self, layer: Layer) -> tuple[int, ...]:
        """The parts that a layer's outputs reach, in order; its own is not among them."""
        reached = set(layer.activations) if layer.part is None else set(self.parts[layer.part].outputs)
        found = []
        for index in range(0 if layer.part is None else layer.part + 1, len(self.parts)):
            if reached.intersection(self.parts[index].inputs):
                found.append(index)
                reached.update(self.parts[index].outputs)
        return tuple(found)


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
            waiting += reversed(_inputs(graph, graph.producers[name]))
    return tuple(found)


def _inputs(graph: Graph, node: Node) -> list[str]:
    """The tensors that a node and its subgraphs read from the graph, without constants."""
    names = dict.fromkeys([*(n for n in node.inputs if n), *sorted(reads(node))])
    return [n for n in names if n in graph.tensors and not graph.tensors[n].is_constant]


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
    readers = Counter(name for node in graph.nodes for name in _inputs(graph, node))
    alone = {name for name, count in readers.items() if count == 1} - {*ends, *graph.outputs}
    last: dict[str, list[Node]] = {}  # the only output of a chain's last node -> the chain
    found = []
    for node in graph.nodes:
        sources = _inputs(graph, node)
        joins = len(sources) == 1 and sources[0] in alone and not _rounds(graph, encodings, node)
        chain = last.get(sources[0]) if joins else None
        if chain is None:
            chain = []
            found.append(chain)
        chain.append(node)
        if len(outputs := _outputs(node)) == 1:
            last[outputs[0]] = chain
    return found


def _outputs(node: Node) -> list[str]:
    return [n for n in node.outputs if n]


def _part(graph: Graph, nodes: list[Node], used: Container[str]) -> Part:
    made = {n for node in nodes for n in node.outputs}
    inputs = dict.fromkeys(n for node in nodes for n in _inputs(graph, node) if n not in made)
    return Part(tuple(nodes), tuple(inputs), tuple(n for n in _outputs(nodes[-1]) if n in used))


def _layers(graph: Graph, encodings: Mapping[str, Encoding], parts: Iterable[Part]) -> Iterator[Layer]:
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
        self._cuts = cuts
        self._parts = [self._load(part, ()) for part in cuts.parts]
        self._layers = [{labels: self._variant(layer, labels[0]) for labels in layer.variants()} for layer in cuts.layers]
        self._behind = [cuts.behind(layer) for layer in cuts.layers]
        self._pool = ThreadPoolExecutor(_workers())

    def _variant(self, layer: Layer, variant: str) -> OrtModel | None:
        """The model of a layer's part with the encodings of a variant; None for a graph input, which has none."""
        return None if layer.part is None else self._load(self._cuts.parts[layer.part], layer.tensors(variant))

    def _load(self, part: Part, tensors: tuple[str, ...]) -> OrtModel:
        # Not subgraph(): it would follow a node in front back to the inputs when the part reads only some of its outputs.
        piece = remove_dead_nodes(self._cuts.graph.evolve(nodes=part.nodes, inputs=part.inputs, outputs=part.outputs))
        grids = {n: self._cuts.encodings[n] for n in tensors}
        lowered = insert_qdq(piece, grids) if grids else piece
        return OrtModel(lowered, part.outputs, threads=1, fuse_qdq=False)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The float values of all tensors at the cuts for one sample."""
        values = dict(feeds)
        for part, model in zip(self._cuts.parts, self._parts, strict=True):
            values |= model.run({n: values[n] for n in part.inputs})
        return values

    def only(self, values: Mapping[str, Array]) -> Iterator[tuple[int, tuple[str, ...], dict[str, Array]]]:
        """(index of the layer, variants, the ends that change) for every layer and its variants, given the float values."""
        tasks = [(index, labels) for index, models in enumerate(self._layers) for labels in models]
        found = self._pool.map(lambda task: self._ends(values, *task), tasks)
        for (index, labels), ends in zip(tasks, found, strict=True):
            yield index, labels, ends

    def _ends(self, values: Mapping[str, Array], index: int, labels: tuple[str, ...]) -> dict[str, Array]:
        cuts, layer, model = self._cuts, self._cuts.layers[index], self._layers[index][labels]
        if model is None or layer.part is None:
            changed = {n: fake_quantize(values[n], cuts.encodings[n]).astype(values[n].dtype) for n in layer.activations}
        else:
            changed = model.run({n: values[n] for n in cuts.parts[layer.part].inputs})
        for number in self._behind[index]:
            part = cuts.parts[number]
            changed |= self._parts[number].run({n: changed[n] if n in changed else values[n] for n in part.inputs})
        return {n: changed[n] for n in cuts.ends if n in changed}

    def close(self) -> None:
        self._pool.shutdown()
        for model in [*self._parts, *(m for models in self._layers for m in models.values() if m is not None)]:
            model.close()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _workers() -> int:
    number = os.environ.get("OMP_NUM_THREADS", "")
    return int(number) if number.isdigit() and int(number) else os.cpu_count() or 1
