"""Cross-layer equalization: give the channels between two layers ranges of like size, without changing the function."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import numpy as np

from npukit.encoding import Array
from npukit.graph import Graph, Node, Tensor, captured
from npukit.quantization import Job, Optimizer
from npukit_aimet.decided import refuse_decided
from npukit_aimet.reads import is_own
from npukit_aimet.walk import network_sqnr

_PASSES = 20
_SAMPLES = 64  # to judge by
_LARGEST = 1e4  # of a factor: beyond, a channel is as good as unused


@attrs.frozen(eq=False)
class CrossLayerEqualization(Optimizer):
    """Scales every channel between two layers so that both have weights of like range (Nagel et al. 2019,
    https://arxiv.org/abs/1906.04721, section 4.1, equation 11), again and again until nothing changes.

    Layers follow one another directly or through Relu, LeakyRelu, PRelu or a pool; depthwise ones count as layers of their own. A
    Clip in between ends the pair, because it is not positively homogeneous: the network's function never changes. With data, all
    ranges stay as they are when the network quantized with the new ones, rounded to nearest, is farther from the float one.
    """

    name = "cle"
    title = "equalize the weight ranges of channels across layers"

    def run(self, job: Job) -> Job:
        graph = job.graph
        pairs = list(_pairs(graph))
        for _ in range(_PASSES):
            before = graph
            for pair in pairs:
                graph = _equalize(graph, pair)
            if graph is before:
                break
        changed = [t for n, t in graph.tensors.items() if t is not job.graph.tensors[n]]
        refuse_decided(job, [n for pair in pairs for n in (pair.first, pair.second)], {t.name for t in changed})
        count = f"{len(pairs)} pair{'' if len(pairs) == 1 else 's'} of layers"
        equalized = job.rewrite(changed, f"cle equalized {count}")
        if job.samples is None or not changed or network_sqnr(equalized, _SAMPLES) >= network_sqnr(job, _SAMPLES):
            return equalized
        return job.decide({}, (), f"cle leaves {count} alone: equalized, the quantized network is farther from the float one")


@attrs.frozen(eq=False)
class _Pair:
    """Two layers with one value per channel between them."""

    first: Node
    second: Node


def _pairs(graph: Graph) -> Iterator[_Pair]:
    inner = captured(graph)
    for node in graph.nodes:
        if not _is_layer(graph, node) or inner.intersection(node.inputs[1:]):
            continue
        name, reader = node.outputs[0], _only_reader(graph, node.outputs[0])
        between = {name}
        while reader is not None and reader.op in _HOMOGENEOUS and not reader.domain and reader.inputs[0] == name:
            name = reader.outputs[0]
            reader = _only_reader(graph, name)
            between.add(name)
        if reader is None or inner.intersection((*between, *reader.inputs[1:])):
            continue
        if _is_layer(graph, reader) and reader.inputs[0] == name and _channels_match(graph, node, reader):
            yield _Pair(node, reader)


_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity", "Dropout"})


def _only_reader(graph: Graph, name: str) -> Node | None:
    readers = graph.consumers.get(name, ())
    return readers[0] if len(readers) == 1 and name not in graph.outputs else None


def _is_layer(graph: Graph, node: Node) -> bool:
    """A convolution whose constants are its own, with plain groups: one, or one per channel."""
    if node.op not in ("Conv", "ConvTranspose") or node.domain:
        return False
    constants = [n for n in node.inputs[1:] if n]
    if any(graph.constant(n) is None or not is_own(graph, n) for n in constants):
        return False
    groups = int(node.get("group", 1))
    return groups == 1 or (node.op == "Conv" and groups == len(_weight(graph, node)))


def _channels_match(graph: Graph, first: Node, second: Node) -> bool:
    return len(_outputs_of(graph, first)) == len(_inputs_of(graph, second))


def _weight(graph: Graph, node: Node) -> Array:
    data = graph.constant(node.inputs[1])
    assert data is not None  # _is_layer has looked
    return data


def _output_axis(node: Node) -> int:
    return 1 if node.op == "ConvTranspose" else 0


def _input_axis(node: Node) -> int:
    """The axis of the input channels; a depthwise layer has one channel for both."""
    return 0 if node.op == "ConvTranspose" or int(node.get("group", 1)) > 1 else 1


def _ranges(weight: Array, axis: int) -> Array:
    flat = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    return np.asarray(np.abs(flat).max(axis=1), np.float64)


def _outputs_of(graph: Graph, node: Node) -> Array:
    return _ranges(_weight(graph, node), _output_axis(node))


def _inputs_of(graph: Graph, node: Node) -> Array:
    return _ranges(_weight(graph, node), _input_axis(node))


def _equalize(graph: Graph, pair: _Pair) -> Graph:
    """The graph with one pair balanced; the same object when it is balanced already."""
    first, second = _outputs_of(graph, pair.first), _inputs_of(graph, pair.second)
    usable = (first > 0) & (second > 0)
    factor = np.sqrt(np.divide(first, second, out=np.ones_like(first), where=usable))
    factor = np.clip(factor, 1 / _LARGEST, _LARGEST)
    if np.abs(np.log2(factor)).max(initial=0) < 1e-3:
        return graph
    changed = [
        _scaled(graph, pair.first.inputs[1], _output_axis(pair.first), 1 / factor),
        _scaled(graph, pair.second.inputs[1], _input_axis(pair.second), factor),
    ]
    if pair.first.input(2):
        changed.append(_scaled(graph, pair.first.inputs[2], 0, 1 / factor))
    return graph.with_tensors(changed)


def _scaled(graph: Graph, name: str, axis: int, factor: Array) -> Tensor:
    data = graph.constant(name)
    assert data is not None  # _is_layer has looked
    shape = [-1 if d == axis else 1 for d in range(data.ndim)]
    return Tensor.constant(name, (data * factor.reshape(shape)).astype(data.dtype))
