"""Rewrites of the graph that the HTP needs: ops that only exist as parts of larger ones."""

from __future__ import annotations

from npukit.graph import Graph, Node, fuse

# What the HTP computes as one op, and better so than in pieces (docs/explanation/patterns.md).
_OPS = ("Gelu", "HardSwish", "HardSigmoid", "Softmax", "LayerNormalization", "RMSNormalization")
_NORM_RANK = 4


def fuse_ops(graph: Graph) -> Graph:
    """Put the ops that the HTP has together, whatever their spelling (``npukit.graph.fuse``)."""
    return fuse(graph, _OPS, _taken)


def _taken(graph: Graph, node: Node) -> bool:
    """Whether the HTP has the op in this form: norms over the last axis only, in at most four dimensions."""
    rank = len(graph.tensor(node.inputs[0]).shape or ())
    return node.op not in ("LayerNormalization", "RMSNormalization") or (node.get("axis") == -1 and rank <= _NORM_RANK)
