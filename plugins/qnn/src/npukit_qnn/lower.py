"""A graph with encodings as the ONNX model that the vendor's runtime takes: Q/DQ inside, codes at the edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from npukit.encoding import Array, Encoding, container, dequantize, quantize
from npukit.encoding.formats import DEQUANTIZED, insert_qdq
from npukit.graph import Graph, Node, remove_dead_nodes

_CODES = ".q"  # what insert_qdq appends to a tensor's name for its codes
_FLOAT16, _HALF = 10, "float16"  # TensorProto.FLOAT16
# Ops whose constants are weights, with types of their own: those never need the type of the activations.
_WEIGHTED = frozenset(
    {"BatchNormalization", "Conv", "ConvTranspose", "Gemm", "GRU", "InstanceNormalization", "LSTM", "LayerNormalization", "MatMul"}
)
_ACTIVATIONS = {"GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
# Inputs that stay float32 whatever the type of the data: (op, first such input).
_FLOAT32_INPUTS = {"Resize": 1, "Upsample": 1}


@attrs.frozen(eq=False)
class Edge:
    """A tensor of the model's edge: ``name`` as in the graph, ``port`` as in the lowered model."""

    name: str
    port: str
    encoding: Encoding | None

    def write(self, values: Array) -> Array:
        """Real values as the model takes them: codes, or float16."""
        if self.encoding is None:
            return values
        if self.encoding.is_float:
            return values.astype(np.float16)
        return quantize(values, self.encoding)

    def read(self, values: Array) -> Array:
        """What the model returns as real values."""
        if self.encoding is None:
            return values
        if self.encoding.is_float:
            return values.astype(np.float32)
        return dequantize(values.astype(container(self.encoding)), self.encoding)


@attrs.frozen(eq=False)
class Lowered:
    """The model, its edges, and the graph's node for each name of a node in the model."""

    graph: Graph
    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]
    nodes: Mapping[str, Node]

    def owner(self, name: str) -> Node | None:
        """The node of the graph that a node of the model stands beside, such as a Quantize or a Convert: the nearest that reads its
        result, else the nearest that makes its input. None when ``name`` is no node of the model."""
        start = next((node for node in self.graph.nodes if node.name == name), None)
        for step in (self._readers, self._makers):
            queue = [start] if start is not None else []
            for node in queue:
                if node.name in self.nodes:
                    return self.nodes[node.name]
                queue += [other for other in step(node) if all(other is not known for known in queue)]
        return None

    def _readers(self, node: Node) -> list[Node]:
        return [reader for name in node.outputs for reader in self.graph.consumers.get(name, ())]

    def _makers(self, node: Node) -> list[Node]:
        return [self.graph.producers[name] for name in node.inputs if name in self.graph.producers]


def lower(graph: Graph, encodings: Mapping[str, Encoding], outputs: Sequence[str]) -> Lowered:
    """The model that computes ``outputs`` (any tensors that are neither inputs nor constants).

    Quantized inputs and outputs are codes, as an application on a device would pass them, so that rounding at the edges is not
    the runtime's; tensors in float16 are real float16, with a Cast where a quantized tensor meets them.
    """
    names = {f"n{index}": node for index, node in enumerate(graph.nodes)}
    renamed = graph.evolve(nodes=tuple(_spelled(attrs.evolve(node, name=name)) for name, node in names.items()))
    widened, used = with_converts(renamed, {n: e for n, e in encodings.items() if n in graph.tensors})
    built = _halved(insert_qdq(widened, used), used)
    makers = {o: node for node in built.nodes for o in node.outputs}
    entries = tuple(_edge(name, used, built) for name in graph.inputs)
    exits = tuple(_edge(name, used, built) for name in outputs)
    cut = {id(makers[e.port]) for e in entries if e.port != e.name}
    nodes = tuple(node for node in built.nodes if id(node) not in cut)
    lowered = built.evolve(nodes=nodes, inputs=tuple(e.port for e in entries), outputs=tuple(e.port for e in exits))
    return Lowered(remove_dead_nodes(lowered), entries, exits, names)


def _spelled(node: Node) -> Node:
    """The node as the runtime takes it: it refuses the default activations of an LSTM or a GRU when they are written out."""
    usual = _ACTIVATIONS.get(node.op)
    given = tuple(node.get("activations") or ())
    if usual is None or given not in (usual, usual * 2):
        return node
    return attrs.evolve(node, attributes={k: v for k, v in node.attributes.items() if k != "activations"})


def with_converts(graph: Graph, encodings: Mapping[str, Encoding]) -> tuple[Graph, dict[str, Encoding]]:
    """The graph with an Identity wherever an op meets activations of 8 and of 16 bits, so that each op sees one width.

    The runtime takes an op only when its activations have one width: the 8-bit ones are converted to 16 bits before it, or its
    result is converted back behind it. The 16-bit grid holds every value of the 8-bit one exactly.
    """
    tensors, found, nodes, converted = dict(graph.tensors), dict(encodings), [], {}

    def wide(name: str) -> str:
        """A 16-bit twin of a tensor."""
        twin = f"{name}.wide"
        tensors[twin] = attrs.evolve(graph.tensor(name), name=twin, data=None)
        found[twin] = _widened(encodings[name])
        return twin

    def is_narrow(name: str) -> bool:
        return name in encodings and encodings[name].granularity == "tensor" and encodings[name].bits == 8

    for node in graph.nodes:
        free = [n for n in node.inputs if n and not (node.op in _WEIGHTED and graph.tensor(n).is_constant)]
        if not any(n in encodings and encodings[n].bits == 16 and not encodings[n].is_float for n in (*free, *node.outputs)):
            nodes.append(node)
            continue
        for name in dict.fromkeys(n for n in free if is_narrow(n) and n not in converted):
            converted[name] = wide(name)
            nodes.append(Node("Identity", f"{name}.convert", (name,), (converted[name],)))
        inputs = tuple(converted[n] if n in free and is_narrow(n) else n for n in node.inputs)
        narrow = {n: wide(n) for n in node.outputs if is_narrow(n)}
        nodes.append(attrs.evolve(node, inputs=inputs, outputs=tuple(narrow.get(n, n) for n in node.outputs)))
        nodes += [Node("Identity", f"{n}.convert", (twin,), (n,)) for n, twin in narrow.items()]
    return graph.evolve(nodes=tuple(nodes), tensors=tensors), found


def _widened(encoding: Encoding) -> Encoding:
    """The 16-bit grid with the same range, on which every value of an 8-bit grid is exact."""
    factor = 256 if encoding.signed else 257
    return Encoding(f"{'' if encoding.signed else 'u'}int16", encoding.steps / np.float32(factor), encoding.zeros * factor)


def _edge(name: str, encodings: Mapping[str, Encoding], built: Graph) -> Edge:
    encoding = encodings.get(name)
    port = f"{name}{_CODES}"
    return Edge(name, port, encoding) if encoding is not None and port in built.tensors else Edge(name, name, None)


def _halved(graph: Graph, encodings: Mapping[str, Encoding]) -> Graph:
    """Compute in float16 what has float16 encodings: insert_qdq writes it as float32 between Casts."""
    half = {name for name, encoding in encodings.items() if encoding.dtype == _HALF}
    if not half:
        return graph
    tensors, nodes, casts = dict(graph.tensors), [], {}
    for node in graph.nodes:
        reals = [n.removesuffix(".raw") for n in node.outputs if n and graph.tensor(n).is_float]
        if node.op in ("Cast", "QuantizeLinear", "DequantizeLinear") or not reals or not half.issuperset(reals):
            nodes.append(node)
            continue
        inputs = list(node.inputs)
        for index, name in enumerate(inputs):
            if not name or not graph.tensor(name).is_float or index >= _FLOAT32_INPUTS.get(node.op, len(inputs)):
                continue
            codes = f"{name.removesuffix(DEQUANTIZED)}{_CODES}"
            if codes in tensors and tensors[codes].dtype == _HALF:
                inputs[index] = codes
                continue
            if name not in casts:
                casts[name] = f"{name}.half"
                tensors[casts[name]] = attrs.evolve(graph.tensor(name), name=casts[name], dtype=_HALF, data=None)
                nodes.append(Node("Cast", casts[name], (name,), (casts[name],), {"to": _FLOAT16}))
            inputs[index] = casts[name]
        outputs = tuple(f"{n.removesuffix('.raw')}{_CODES}" if n and graph.tensor(n).is_float else n for n in node.outputs)
        nodes.append(attrs.evolve(node, inputs=tuple(inputs), outputs=outputs))
    # The Cast that narrowed such an output is gone: the node makes the float16 tensor itself.
    made = {o for node in nodes if node.op != "Cast" for o in node.outputs}
    kept = tuple(node for node in nodes if node.op != "Cast" or node.outputs[0] not in made)
    return remove_dead_nodes(graph.evolve(nodes=kept, tensors=tensors))
