"""Rewrites of the graph that the HTP needs: ops that only exist as parts of larger ones."""

from __future__ import annotations

import math

from npukit.graph import Graph, Node

_GELU_OPSET = 20


def fuse_gelu(graph: Graph) -> Graph:
    """Replace x/2 * (1 + erf(x / sqrt 2)), in either order of multiplication, by Gelu: the HTP has Gelu and no Erf.

    The output keeps its name. The nodes inside stay until remove_dead_nodes, because others may read them.
    """
    if graph.opset < _GELU_OPSET:
        return graph
    found = [match for node in graph.nodes if node.op == "Erf" and (match := _match(graph, node)) is not None]
    fused = {last.outputs[0]: Node("Gelu", erf.name, (x,), last.outputs) for x, erf, last in found}
    origins = {erf.name: (erf.name, last.name) for _, erf, last in found}
    nodes = tuple(fused.get(node.outputs[0], node) if node.outputs else node for node in graph.nodes)
    return graph.evolve(nodes=nodes, origin_names={**graph.origin_names, **origins})


def _match(graph: Graph, erf: Node) -> tuple[str, Node, Node] | None:
    """The input of the Gelu around an Erf, the Erf, and the last node; None when the Erf is something else."""
    scaled = graph.producers.get(erf.inputs[0])
    x = None if scaled is None else _times(graph, scaled, 1 / math.sqrt(2))
    plus_one = _reader(graph, erf.outputs[0], "Add")
    if x is None or plus_one is None or _value(graph, _other(plus_one, erf.outputs[0])) != 1:
        return None
    product = _reader(graph, plus_one.outputs[0], "Mul")
    if product is None:
        return None
    factor = _other(product, plus_one.outputs[0])
    half = graph.producers.get(factor)
    if half is not None and _times(graph, half, 0.5) == x:
        return x, erf, product
    last = _reader(graph, product.outputs[0], "Mul")
    if factor == x and last is not None and _times(graph, last, 0.5) == product.outputs[0]:
        return x, erf, last
    return None


def _reader(graph: Graph, name: str, op: str) -> Node | None:
    """The one node that reads a tensor, when it is an ``op`` of two inputs."""
    readers = graph.consumers.get(name, ())
    return readers[0] if len(readers) == 1 and readers[0].op == op and len(readers[0].inputs) == 2 else None


def _other(node: Node, name: str) -> str:
    return node.inputs[1] if node.inputs[0] == name else node.inputs[0]


def _value(graph: Graph, name: str) -> float | None:
    data = graph.constant(name) if name and graph.tensor(name).size == 1 else None
    return None if data is None else float(data.reshape(-1)[0])


def _times(graph: Graph, node: Node, factor: float) -> str | None:
    """The tensor that ``node`` multiplies by the constant ``factor`` (or divides by its inverse)."""
    if node.op not in ("Mul", "Div") or len(node.inputs) != 2:
        return None
    for data, constant in ((0, 1), (1, 0)) if node.op == "Mul" else ((0, 1),):
        value = _value(graph, node.inputs[constant])
        wanted = factor if node.op == "Mul" else 1 / factor
        if value is not None and math.isclose(value, wanted, rel_tol=1e-4):
            return node.inputs[data]
    return None
