"""Rewrites of a graph that keep what it computes."""

from npukit.graph.passes.affine import fold_affine
from npukit.graph.passes.bind import bind
from npukit.graph.passes.constants import fold_constants
from npukit.graph.passes.dead_nodes import remove_dead_nodes
from npukit.graph.passes.gather_nd import reshape_gather_nd
from npukit.graph.passes.subgraph import subgraph

__all__ = ["bind", "fold_affine", "fold_constants", "remove_dead_nodes", "reshape_gather_nd", "subgraph"]
