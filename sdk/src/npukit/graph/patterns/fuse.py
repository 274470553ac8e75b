"""Put the nodes that spell a pattern together into its op."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import attrs
import numpy as np

from npukit.graph.evaluate import evaluate_node
from npukit.graph.infer import CANONICAL_OPSET, make_graph
from npukit.graph.model import Array, Graph, Node, Tensor
from npukit.graph.passes import remove_dead_nodes
from npukit.graph.patterns.catalogue import PATTERNS, Pattern
from npukit.graph.patterns.region import Region, behind
from npukit.graph.protobuf import numpy_type

_SAMPLES = np.linspace(-6, 6, 145)
_ONE = 90
_CLOSE = 1e-5  # of the largest result; constants in files are written with six digits or more
_ROWS = 8
_TINY = 1e-24  # an epsilon that float32 can hold, for norms without one: a row of zeros stays zero


@attrs.frozen
class Fusion:
    """What takes the place of a region: a node and the constants made for it."""

    node: Node
    constants: tuple[Tensor, ...] = ()


def fuse(graph: Graph, ops: Collection[str], accept: Callable[[Graph, Node], bool] = lambda graph, node: True) -> Graph:
    """Replace nodes that together compute one of ``ops`` by that op, however they are spelled.

    The search goes by values: the nodes between two tensors are a function of real numbers; when it equals the op on samples of
    many magnitudes, to the precision of float32, it is that op. So order, grouping, inverse ops and casts between float types make
    no difference, and each fusion has been compared with the float model. ``accept`` may turn a node down.

    The last tensor keeps its name, the new node has the name of the node that made it, and ``origin_names`` lists those that it
    stands for. Inner tensors that others read stay.
    """
    patterns = [p for p in PATTERNS if p.op in ops]
    anchors = {op for p in patterns for op in p.anchors}
    done: set[int] = set()
    tried: dict[Hashable, bool] = {}  # whether a spelling has a pattern in it: most models repeat theirs
    found: list[tuple[Pattern, Region, Fusion]] = []
    for x in graph.float_activations():
        around = behind(graph, x)
        if around is None or not any(node.op in anchors for node in around.nodes):
            continue
        spelling = around.spelling()
        if not tried.get(spelling, True):
            continue
        fusions = list(_fusions(around, patterns))
        tried[spelling] = bool(fusions)
        for pattern, part, fusion in fusions:
            if done.isdisjoint(map(id, part.nodes)) and accept(graph, fusion.node):
                done.update(map(id, part.nodes))
                found.append((pattern, part, fusion))
    return _replaced(graph, found) if found else graph


def _replaced(graph: Graph, found: list[tuple[Pattern, Region, Fusion]]) -> Graph:
    fused = {part.root: fusion.node for _, part, fusion in found}
    origins = {fusion.node.name: _origins(graph, part) for _, part, fusion in found}
    nodes = tuple(fused.get(n.outputs[0], n) if n.outputs else n for n in graph.nodes)
    opset = max(graph.opset, *(pattern.opset for pattern, _, _ in found))
    graph = graph.evolve(nodes=nodes, origin_names={**graph.origin_names, **origins}, opset=opset)
    return remove_dead_nodes(graph.with_tensors(t for _, _, fusion in found for t in fusion.constants))


def _origins(graph: Graph, part: Region) -> tuple[str, ...]:
    return tuple(name for node in part.nodes for name in graph.origin_names.get(node.name, (node.name,)))


def _fusions(around: Region, patterns: Sequence[Pattern]) -> Iterator[tuple[Pattern, Region, Fusion]]:
    """What the nodes behind a tensor spell; of one pattern the result that is farthest away comes first."""
    x = around.graph.tensor(around.x)
    if x.shape is None:
        return
    values = around.values(_SAMPLES)
    ops = {node.op for node in around.nodes}
    for pattern in patterns:
        for last in reversed(around.nodes if ops & pattern.anchors else ()):
            result = around.graph.tensor(last.outputs[0])
            alike = (result.shape, result.dtype) == (x.shape, x.dtype)  # an op does not cast on the way
            if not alike or (not pattern.along and not _agrees(pattern, values.get(result.name))):
                continue
            part = around.upto(last)
            if len(part.nodes) > 1 and any(node.op in pattern.anchors for node in part.nodes):
                fusion = _FITS[pattern.along](pattern, part)
                if fusion is not None:
                    yield pattern, part, fusion


def _agrees(pattern: Pattern, values: Array | None) -> bool:
    """Whether results on _SAMPLES are those of an op of single values."""
    if values is None or values.shape != _SAMPLES.shape:
        return False
    wanted = _defined(pattern.op, tuple(pattern.attributes.items()), pattern.opset)
    # One sample settles most cases without looking at all.
    return abs(values.item(_ONE) - wanted.item(_ONE)) < 0.01 and _close(values, wanted)


@lru_cache(maxsize=64)
def _defined(op: str, attributes: tuple[tuple[str, Any], ...], opset: int, shape: tuple[int, ...] = (-1,)) -> Array:
    """The op by ONNX's own definition on _SAMPLES in the given shape."""
    graph = make_graph(
        [Node(op, "n", ("x",), ("y",), dict(attributes))], {"x": ("float64", ())}, ["y"], opset=max(opset, CANONICAL_OPSET)
    )
    return evaluate_node(graph.nodes[0], [_SAMPLES.reshape(shape)], graph)[0]


def _as_function(pattern: Pattern, part: Region) -> Fusion | None:
    """An op of single values; that its values agree is known."""
    plain = not part.constants() and not part.axes()
    return Fusion(_node(pattern, part, (part.x,), pattern.attributes)) if plain else None


def _as_axis_op(pattern: Pattern, part: Region) -> Fusion | None:
    """An op along one axis, without parameters."""
    axes, rank = part.axes(), len(part.graph.tensor(part.x).shape or ())
    if part.constants() or len(axes) != 1 or rank < 2:
        return None
    shape = [1] * rank
    shape[axes[0]] = 29
    shape[(axes[0] - 1) % rank] *= _SAMPLES.size // 29  # some rows, in any other axis
    attributes = {**pattern.attributes, "axis": axes[0]}
    if not _close(
        part.values(_SAMPLES.reshape(shape)).get(part.root),
        _defined(pattern.op, tuple(attributes.items()), pattern.opset, tuple(shape)),
    ):
        return None
    return Fusion(_node(pattern, part, (part.x,), attributes))


def _as_norm(pattern: Pattern, part: Region) -> Fusion | None:
    """y = gain * v / sqrt(mean(v^2) + epsilon) + shift, with v = x, or x without its mean.

    Large samples give gain and shift, for epsilon does not matter there, small ones epsilon; samples between must agree.
    """
    axes = part.axes()
    shape = part.graph.tensor(part.x).shape or ()
    axis = min(axes, default=0)
    places = tuple(d for d in shape[axis:] if isinstance(d, int))
    if not -len(shape) < axis < 0 or axes != list(range(axis, 0)) or len(places) != len(axes):
        return None
    norm = _Norm(part, axis, pattern.along == "shift")
    with np.errstate(all="ignore"):  # what is no norm may divide by zero here
        fitted = norm.fit(np.random.default_rng(0).normal(0.5, 1, (_ROWS,) + (1,) * (len(shape) + axis - 1) + places))
    if fitted is None:
        return None
    gain, shift, epsilon = fitted
    dtype = part.graph.tensor(part.x).dtype
    values = {"gain": gain, "shift": shift} if norm.shifted else {"gain": gain}
    constants = [_constant(part, name, v.reshape(places).astype(numpy_type(dtype))) for name, v in values.items()]
    node = _node(pattern, part, (part.x, *(t.name for t in constants)), {"axis": axis, "epsilon": max(epsilon, _TINY)})
    return Fusion(node, tuple(t for t in constants if t.name not in part.graph.tensors))


@attrs.frozen
class _Norm:
    """A region as a norm over the last axes, from ``axis`` on."""

    part: Region
    axis: int
    shifted: bool

    def fit(self, samples: Array) -> tuple[Array, Array, float] | None:
        """Gain, shift and epsilon, None when the region is no such norm. ``samples`` have one row for each index of axis 0."""
        values, unit = self.values(1e6 * samples), self.unit(1e6 * samples)
        if values is None or values.shape != samples.shape:
            return None
        mean = values.mean(0) if self.shifted else np.zeros(samples.shape[1:])
        centre = unit.mean(0) if self.shifted else mean
        gain = ((unit - centre) * (values - mean)).sum(0) / ((unit - centre) ** 2).sum(0)
        shift = mean - gain * centre
        epsilon = self.epsilon(1e-6 * samples, gain, shift) if np.any(gain) else 0.0
        scales = (1e-6, 1e-4, 1e-2, 1, 1e2, 1e6)
        agree = all(_close(self.values(s * samples), gain * self.unit(s * samples, epsilon) + shift) for s in scales)
        return (gain, shift, epsilon) if agree else None

    def values(self, x: Array) -> Array | None:
        """What the region makes of ``x``."""
        return self.part.values(x).get(self.part.root)

    def unit(self, x: Array, epsilon: float = 0.0) -> Array:
        """``x``, centred or not, over the root of its mean square plus epsilon."""
        x = self._centred(x)
        return np.asarray(x / np.sqrt(self._square(x) + epsilon))

    def epsilon(self, x: Array, gain: Array, shift: Array) -> float:
        """The epsilon of the region. At the place of the largest gain: (gain * x / y)^2 is mean(x^2) + epsilon."""
        values, x = np.asarray(self.values(x)) - shift, self._centred(x)
        place = np.abs(gain).argmax()
        values, x, square = (np.broadcast_to(a, x.shape).reshape(len(x), -1) for a in (values, x, self._square(x)))
        found = (gain.flat[place] * x[:, place] / values[:, place]) ** 2 - square[:, place]
        return max(0.0, float(np.median(found)))

    def _centred(self, x: Array) -> Array:
        return x - x.mean(axis=self._axes, keepdims=True) if self.shifted else x

    def _square(self, x: Array) -> Array:
        return np.asarray(np.mean(x**2, axis=self._axes, keepdims=True))

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(self.axis, 0))


def _close(a: Array | None, b: Array) -> bool:
    """Whether two arrays are equal to the precision of constants in files."""
    return (
        a is not None
        and a.shape == b.shape
        and bool(np.isfinite(b).all())
        and bool(np.abs(a - b).max() <= _CLOSE * np.abs(b).max())
    )


def _constant(part: Region, name: str, value: Array) -> Tensor:
    """A constant of the region with these values, under its own name, or a new one."""
    for known in part.constants():
        data = part.graph.constant(known)
        if data is not None and data.shape == value.shape and np.allclose(data, value, rtol=_CLOSE, atol=1e-9):
            return part.graph.tensor(known)
    return Tensor.constant(f"{part.root}.{name}", value)


def _node(pattern: Pattern, part: Region, inputs: tuple[str, ...], attributes: Mapping[str, Any]) -> Node:
    return Node(pattern.op, part.nodes[-1].name, inputs, (part.root,), attributes)


# How what a pattern works along decides what a region is compared with.
_FITS = {"": _as_function, "axis": _as_axis_op, "gain": _as_norm, "shift": _as_norm}
