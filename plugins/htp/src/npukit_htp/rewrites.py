"""Rewrites of the graph that the HTP needs: ops that only exist as parts of larger ones."""

from __future__ import annotations

import attrs

from npukit.graph import Graph, Node, fuse

# What the HTP computes as one op, and better so than in pieces (docs/explanation/patterns.md).
_OPS = ("Gelu", "HardSwish", "HardSigmoid", "Softmax", "LayerNormalization", "RMSNormalization")
_NORM_RANK = 4


def fuse_ops(graph: Graph) -> Graph:
    """Put the ops that the HTP has together, whatever their spelling (``npukit.graph.fuse``)."""
    return fuse(graph, _OPS, _taken)


def divide(graph: Graph) -> Graph:
    """Write x * Reciprocal(y) as x / y, as Reciprocal saturates for small inputs (see its caveat); other readers keep it."""
    nodes = tuple(_quotient(graph, node) for node in graph.nodes)
    return graph if all(a is b for a, b in zip(nodes, graph.nodes, strict=True)) else graph.evolve(nodes=nodes)


def _quotient(graph: Graph, node: Node) -> Node:
    if node.op != "Mul" or node.domain:
        return node
    for x, factor in (node.inputs, node.inputs[::-1]):
        inverse = graph.producers.get(factor)
        if inverse is not None and inverse.op == "Reciprocal" and not inverse.domain and not graph.is_constant(x):
            return attrs.evolve(node, op="Div", inputs=(x, inverse.inputs[0]))
    return node


def _taken(graph: Graph, node: Node) -> bool:
    """Whether the HTP has the op in this form: norms over the last axis only, in at most four dimensions."""
    rank = len(graph.tensor(node.inputs[0]).shape or ())
    return node.op not in ("LayerNormalization", "RMSNormalization") or (node.get("axis") == -1 and rank <= _NORM_RANK)
