"""Small networks for the tests of the speed model, and shorthands for their estimates."""

from __future__ import annotations

from typing import Any

import numpy as np

from npukit.encoding import Encoding
from npukit.graph import Graph, Node, make_graph
from npukit_aic import speed
from npukit_aic.backend import AicBackend
from npukit_aic.speed import Estimate

SOCS = {soc.name: soc for soc in AicBackend().socs()}
STANDARD = speed.card_of(SOCS["Standard"])


def zeros(*shape: int) -> Any:
    """Weights that take no memory."""
    return np.broadcast_to(np.float32(0), shape)


def dense(layers: int = 4, width: int = 512, batch: int = 8) -> Graph:
    """``layers`` products with a Relu behind each, (batch, width) to the same; each has 2 x width^2 bytes of weights in float16."""
    nodes = []
    for i in range(layers):
        nodes += [Node("MatMul", f"m{i}", (f"x{i}", f"w{i}"), (f"h{i}",)), Node("Relu", f"r{i}", (f"h{i}",), (f"x{i + 1}",))]
    weights = {f"w{i}": zeros(width, width) for i in range(layers)}
    return make_graph(nodes, {"x0": ("float32", (batch, width))}, [f"x{layers}"], weights)


def image(channels: int = 64, size: int = 56, *, group: int = 1, op: str = "Relu", batch: int = 1, layers: int = 1) -> Graph:
    """3 x 3 convolutions with ``op`` behind each, then the mean of each channel."""
    attributes = {"group": group, "pads": (1, 1, 1, 1), "kernel_shape": (3, 3)}
    nodes, last = [], "x"
    for i in range(layers):
        nodes += [Node("Conv", f"conv{i}", (last, "w"), (f"h{i}",), attributes), Node(op, f"act{i}", (f"h{i}",), (f"a{i}",))]
        last = f"a{i}"
    nodes.append(Node("GlobalAveragePool", "mean", (last,), ("y",)))
    weights = {"w": zeros(channels, channels // group, 3, 3)}
    return make_graph(nodes, {"x": ("float32", (batch, channels, size, size))}, ["y"], weights)


def of(graph: Graph, card: str = "Standard", kind: str = "float16", **settings: Any) -> Estimate:
    types = {node.name: kind for node in graph.nodes}
    return speed.estimate(graph, {}, types, SOCS[card], settings)


def int8(graph: Graph) -> dict[str, Encoding]:
    return {n: Encoding("int8", 1.0, 0) for n, t in graph.tensors.items() if t.is_float}


def row(found: Estimate, node: str) -> speed.Row:
    return next(r for r in found.rows if r.work.node == node)


def two_edges(layers: int) -> Graph:
    """``dense`` with a second input and output."""
    graph = dense(layers, 8)
    nodes = [*graph.nodes, Node("Neg", "neg", ("extra",), ("other",))]
    constants = {n: t.data for n, t in graph.tensors.items() if t.data is not None}
    return make_graph(nodes, {"x0": ("float32", (8, 8)), "extra": ("float32", (8, 8))}, [*graph.outputs, "other"], constants)


BIG = dense(12, 2048, 64)  # 100 MB of weights
WIDE = image(64, 448, layers=4)  # 26 MB from layer to layer
DEPTHWISE = image(64, 56, group=64, op="Sigmoid", layers=20)
