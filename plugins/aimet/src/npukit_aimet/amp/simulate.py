"""What a network says when some of its tensors are quantized: in float, on ONNX Runtime, re-running only what changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from types import TracebackType

import numpy as np

from npukit.backend.ort import OrtModel
from npukit.calibration import Feeds
from npukit.encoding import Array, Encoding
from npukit.encoding.formats import insert_qdq
from npukit.errors import ModelError
from npukit.graph import Graph, Node, subgraph
from npukit_aimet.reads import reads
from npukit_aimet.store import Store

Outputs = dict[str, Array]


class Simulator:
    """The float model's activations of a few samples, kept, so that a partly quantized model costs only what follows from the
    quantized tensors; a context manager.

    ``cuts`` are the tensor groups that will be quantized one at a time. Memory is bounded by that of a Store.
    """

    def __init__(self, graph: Graph, samples: Iterable[Feeds], cuts: Iterable[Sequence[str]]) -> None:
        self._graph = graph
        self._store = Store()
        self._reference: list[Outputs] = []
        kept = dict.fromkeys(n for tensors in cuts for n in _frontier(graph, _downstream(graph, tensors)))
        with OrtModel(graph, list(dict.fromkeys((*graph.outputs, *kept))), threads=1) as model:
            for feeds in samples:
                found = model.run(feeds)
                self._reference.append({n: found[n] for n in graph.outputs})
                for name in kept:
                    self._store.append(name, found[name])

    @property
    def reference(self) -> Sequence[Outputs]:
        """The float model's outputs, sample by sample."""
        return self._reference

    def outputs(self, encodings: Mapping[str, Encoding]) -> Iterator[Outputs]:
        """The outputs of every sample when the tensors of ``encodings``, one of the cuts, are quantized and nothing else is."""
        nodes = _downstream(self._graph, list(encodings))
        reached = {n for node in nodes for n in node.outputs}
        outputs = [n for n in self._graph.outputs if n in reached]
        inputs = _frontier(self._graph, nodes)
        piece = subgraph(self._graph, inputs, outputs)
        lowered = insert_qdq(piece, {n: e for n, e in encodings.items() if n in piece.tensors})
        with OrtModel(lowered, outputs, threads=1, fuse_qdq=False) as model:
            # Nodes without inputs, whose output is one of the graph, run for every sample all the same.
            columns = zip(*(self._store.read(n) for n in inputs), strict=True) if inputs else repeat((), len(self._reference))
            for arrays, reference in zip(columns, self._reference, strict=True):
                yield reference | model.run(dict(zip(inputs, arrays, strict=True)))

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._store.__exit__(kind, error, trace)


def simulate(graph: Graph, samples: Iterable[Feeds], encodings: Mapping[str, Encoding]) -> Iterator[Outputs]:
    """The outputs of every sample with all encodings."""
    inner = {n: e for n, e in encodings.items() if n in graph.tensors}
    with OrtModel(insert_qdq(graph, inner), graph.outputs, fuse_qdq=False) as model:
        for feeds in samples:
            yield model.run(feeds)


def sqnr(reference: Iterable[Outputs], found: Iterable[Outputs]) -> float:
    """Signal to noise in dB: the noise power of every output as a share of its signal, averaged over the outputs.

    Powers are summed over all samples first. At most 200 dB, where nothing differs: that can be written as JSON. Raises ModelError
    when the shapes differ.
    """
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for a, b in zip(reference, found, strict=True):
        for name, values in a.items():
            if values.shape != b[name].shape:
                raise _other_shape(name, values.shape, b[name].shape)
            x, y = values.astype(np.float64).ravel(), b[name].astype(np.float64).ravel()
            signal[name] = signal.get(name, 0.0) + float(x @ x)
            noise[name] = noise.get(name, 0.0) + float((x - y) @ (x - y))
    shares = [noise[n] / signal[n] if signal[n] else float(noise[n] > 0) for n in signal]
    return float(-10 * np.log10(max(float(np.mean(shares)), 1e-20)))


def _other_shape(name: str, expected: tuple[int, ...], found: tuple[int, ...]) -> ModelError:
    message = f"output '{name}' has shape {list(found)} when the model is quantized, {list(expected)} in float"
    return ModelError(message, hint="a shape is computed from quantized values: bind it with --onnx-define-symbol or --batch")


def _downstream(graph: Graph, tensors: Sequence[str]) -> tuple[Node, ...]:
    """The nodes whose outputs depend on the tensors; the maker of a graph output among them too, as its name must be made anew."""
    touched = set(tensors)
    ends = touched.intersection(graph.outputs)
    nodes = []
    for node in graph.nodes:
        if touched.intersection((*node.inputs, *reads(graph, node))) or ends.intersection(node.outputs):
            nodes.append(node)
            touched.update(n for n in node.outputs if n)
    return tuple(nodes)


def _frontier(graph: Graph, nodes: Sequence[Node]) -> tuple[str, ...]:
    """What the nodes read that none of them makes."""
    made = {n for node in nodes for n in node.outputs}
    return tuple(dict.fromkeys(n for node in nodes for n in reads(graph, node) if n not in made))
