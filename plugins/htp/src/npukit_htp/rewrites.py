"""Rewrites of the graph that the HTP needs: ops that only exist as parts of larger ones."""

from __future__ import annotations

import math
from collections import Counter

from npukit.graph import Graph, Node

_GELU_OPSET = 20
_DEPTH = 4  # products around a Gelu's factor that are looked through


def fuse_gelu(graph: Graph) -> Graph:
    """Replace x/2 * (1 + erf(x / sqrt 2)), its factors in any order and grouping, by Gelu: the HTP has Gelu and no Erf.

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
    last = _product(graph, plus_one.outputs[0], x)
    return None if last is None else (x, erf, last)


def _product(graph: Graph, name: str, x: str) -> Node | None:
    """The node behind ``name`` that has multiplied it by x / 2, in any order and grouping; None when there is none."""
    factor, others = 1.0, Counter[str]()
    while others.total() <= 1:
        node = _reader(graph, name, "Mul") or _reader(graph, name, "Div")
        if node is None or (node.op == "Div" and node.inputs[0] != name):
            return None
        number, tensors = _factors(graph, _other(node, name), x)
        if node.op == "Div" and (tensors or not number):
            return None
        factor, others = factor * (number if node.op == "Mul" else 1 / number), others + tensors
        if others == Counter([x]) and math.isclose(factor, 0.5, rel_tol=1e-4):
            return node
        name = node.outputs[0]
    return None


def _factors(graph: Graph, name: str, x: str, depth: int = 0) -> tuple[float, Counter[str]]:
    """A tensor as a number times other tensors; ``x``, and what is made of more than a few products, is not taken apart."""
    value, node = _value(graph, name), graph.producers.get(name)
    if value is not None:
        return value, Counter()
    if name == x or node is None or depth > _DEPTH or node.op not in ("Mul", "Div") or len(node.inputs) != 2:
        return 1.0, Counter([name])
    (a, left), (b, right) = (_factors(graph, n, x, depth + 1) for n in node.inputs)
    if node.op == "Div":
        return (a / b, left) if b and not right else (1.0, Counter([name]))
    return a * b, left + right


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
