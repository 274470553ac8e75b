"""What the nodes of a graph ask of a card, whatever the options: multiply-accumulates, vector operations, bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from npukit.backend import Edge, bytes_of
from npukit.encoding import INT_BITS, Encoding
from npukit.graph import Graph, Node, count_macs, host_nodes, numpy_type, sample_shape
from npukit_aic.speed.card import ops

TENSOR_KINDS = ("conv", "matmul")
"""What runs on the tensor unit."""

_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})


@attrs.frozen
class Work:
    """One layer, for one run of the graph.

    ``kind``: "conv" and "matmul" run on the tensor unit, "depthwise", "vector" and "convert" (of an input or output) on the vector
    unit; "free" ones cost nothing: views, shapes, and what is fused into the layer before. ``precision``: int8, int16, float16 or
    float32. ``macs`` is None when they, or a shape, are not known; ``elements`` the values that a vector unit goes through,
    ``vector`` the operations on them. Bytes: ``weights`` of constants that can stay on the card, ``gathered`` picked from constant
    tables at each run, ``moved`` of activations read and written, ``exchanged`` of activations that a layer with weights reads.
    ``first`` is the share of the weights that no earlier layer reads, ``matrix`` how many of them MXFP6 may pack, ``matrix_bytes``
    what these take without it.
    """

    node: str
    op: str
    kind: str
    precision: str
    macs: int | None
    elements: int
    vector: float
    weights: int = 0
    first: float = 1.0
    gathered: int = 0
    moved: int = 0
    exchanged: int = 0
    matrix: int = 0
    matrix_bytes: int = 0


@attrs.frozen
class Port:
    """An input or output: its bytes as the host hands it over, and as the card stores it."""

    name: str
    is_input: bool
    native: int
    stored: int


@attrs.frozen(eq=False)
class Model:
    """A graph as work: its layers, its edges, and ``batch``, the first dimension of its first input that has any."""

    layers: tuple[Work, ...]
    ports: tuple[Port, ...]
    batch: int

    @property
    def unknown(self) -> tuple[str, ...]:
        """The nodes whose multiply-accumulates or shapes are not known; what is not known counts as nothing."""
        return tuple(layer.node for layer in self.layers if layer.macs is None)

    @cached_property
    def columns(self) -> Mapping[str, NDArray[Any]]:
        """The numbers of all layers, (L,) float64 each."""
        names = ("macs", "vector", "weights", "first", "gathered", "moved", "exchanged", "matrix", "matrix_bytes")
        return {name: np.array([getattr(layer, name) or 0 for layer in self.layers], np.float64) for name in names}

    @cached_property
    def groups(self) -> Mapping[tuple[str, str], NDArray[Any]]:
        """Where the layers of one precision and kind are: (precision, kind) -> indices."""
        found: dict[tuple[str, str], list[int]] = {}
        for index, layer in enumerate(self.layers):
            found.setdefault((layer.precision, layer.kind), []).append(index)
        return {pair: np.array(indices) for pair, indices in found.items()}


def model_of(
    graph: Graph, encodings: Mapping[str, Encoding], types: Mapping[str, str], edges: Mapping[str, Edge] | None = None
) -> Model:
    """The work in ``graph``, whose nodes compute in ``types`` ("int", "float16", "float32", by name).

    ``edges`` say what the host hands over; without one it is the graph's own type. An open batch counts as 1.
    """
    sizes = _Sizes(graph, encodings, types)
    host = host_nodes(graph)
    layers = [_work(graph, node, sizes, node.name in host) for node in graph.nodes]
    ports = [_port(graph, name, sizes, encodings, edges or {}) for name in (*graph.inputs, *graph.outputs)]
    converts = [_convert(graph, port, sizes) for port in ports if port.native != port.stored]
    shapes = (sample_shape(graph, name) for name in graph.inputs)
    return Model((*layers, *converts), tuple(ports), max(1, next((shape[0] for shape in shapes if shape), 1)))


def stored(graph: Graph, encodings: Mapping[str, Encoding], types: Mapping[str, str]) -> Mapping[str, Encoding]:
    """What tensors are stored as: their encodings, and float16 for other float tensors of nodes that compute in it."""
    half = Encoding("float16")
    touched = {n for node in graph.nodes if types.get(node.name) == "float16" for n in (*node.inputs, *node.outputs) if n}
    return {**{n: half for n in touched if graph.tensor(n).is_float}, **encodings}


class _Sizes:
    """Bytes of tensors as the card stores them: by their encodings, else as the nodes that touch them compute."""

    def __init__(self, graph: Graph, encodings: Mapping[str, Encoding], types: Mapping[str, str]) -> None:
        self.graph, self.types, self.encodings = graph, types, encodings
        self._stored = stored(graph, encodings, types)
        self._bytes: dict[str, int] = {}
        self._read: set[str] = set()

    def bytes(self, name: str) -> int:
        """The bytes of a whole tensor, 0 when its shape is not known."""
        if name not in self._bytes:
            self._bytes[name] = bytes_of(self.graph, name, self._stored) or 0
        return self._bytes[name]

    def first(self, names: list[str]) -> int:
        """The bytes of those tensors that were not asked for before."""
        new = [name for name in names if name not in self._read]
        self._read.update(new)
        return sum(map(self.bytes, new))

    def elements(self, name: str) -> int:
        shape = sample_shape(self.graph, name)
        return 0 if shape is None else math.prod(shape)

    def precision(self, node: Node) -> str:
        """The type that a node computes in; an integer one is that of its widest operand up to 16 bits (biases have more)."""
        found = self.types.get(node.name, "float32")
        if found != "int":
            return found
        encoded = (self.encodings[n].dtype for n in (*node.inputs, *node.outputs) if n in self.encodings)
        return "int16" if any(INT_BITS.get(dtype, 0) == 16 for dtype in encoded) else "int8"


def _work(graph: Graph, node: Node, sizes: _Sizes, on_host: bool) -> Work:
    macs, precision = count_macs(graph, node), sizes.precision(node)
    if on_host or _is_free(graph, node):
        return Work(node.name, node.op, "free", precision, macs or 0, 0, 0.0)
    constants = [n for n in dict.fromkeys(node.inputs) if graph.is_constant(n)]
    reads = [n for n in dict.fromkeys(node.inputs) if n and not graph.is_constant(n)]
    writes = [n for n in node.outputs if n]
    table = node.op == "Gather" and graph.is_constant(node.input(0))
    weights = 0 if table else sum(map(sizes.bytes, constants))
    kind = _kind(graph, node, macs)
    if any(sample_shape(graph, n) is None for n in (*reads, *writes)):
        macs = None
    elements = _elements(node, sizes, reads, writes)
    matrix = node.input(1) if node.op in ("MatMul", "Gemm") and graph.is_constant(node.input(1)) else ""
    on_vector_unit = kind in ("vector", "depthwise")
    per_element = (macs or 0) if kind == "depthwise" else elements * ops().count.get(node.op, 1.0)
    return Work(
        node.name,
        node.op,
        kind,
        precision,
        macs,
        elements,
        float(per_element) if on_vector_unit else 0.0,
        weights=weights,
        first=sizes.first(constants) / weights if weights else 1.0,
        gathered=sizes.bytes(writes[0]) if table and writes else 0,
        moved=sum(map(sizes.bytes, (*reads, *writes))),
        exchanged=sum(map(sizes.bytes, reads)) if kind in TENSOR_KINDS and weights else 0,
        matrix=sizes.elements(matrix) if matrix else 0,
        matrix_bytes=sizes.bytes(matrix) if matrix else 0,
    )


def _is_free(graph: Graph, node: Node) -> bool:
    if node.op in ops().free:
        return True
    made = graph.producers.get(node.input(0))
    return made is not None and (made.op, node.op) in ops().fused and len(graph.consumers[node.input(0)]) == 1


def _kind(graph: Graph, node: Node, macs: int | None) -> str:
    if not macs:
        return "vector"
    if not node.op.endswith(("Conv", "ConvInteger", "ConvTranspose")):
        return "matmul"
    weight = sample_shape(graph, node.input(3 if node.op == "QLinearConv" else 1))
    return "depthwise" if weight and weight[1] == 1 and node.get("group", 1) > 1 else "conv"


def _elements(node: Node, sizes: _Sizes, reads: list[str], writes: list[str]) -> int:
    """What a vector unit goes through: the longer one of inputs and outputs, or all values under the windows of a pool."""
    if node.op in _POOLS:
        return sizes.elements(writes[0]) * int(math.prod(node.get("kernel_shape", ())))
    return max((sizes.elements(n) for n in (*reads, *writes)), default=0)


def _port(graph: Graph, name: str, sizes: _Sizes, encodings: Mapping[str, Encoding], edges: Mapping[str, Edge]) -> Port:
    tensor = graph.tensor(name)
    native = edges[name].native(tensor, encodings.get(name)) if name in edges else tensor
    itemsize = numpy_type(native.dtype).itemsize if native.dtype else 0
    return Port(name, name in graph.inputs, sizes.elements(name) * itemsize, sizes.bytes(name))


def _convert(graph: Graph, port: Port, sizes: _Sizes) -> Work:
    elements = sizes.elements(port.name)
    return Work(port.name, "Convert", "convert", "float32", 0, elements, float(elements))
