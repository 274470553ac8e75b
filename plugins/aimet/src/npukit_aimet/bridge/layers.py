"""Which layers of a graph AIMET gets to work on, and why the others are left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import attrs

from npukit.encoding import Encoding
from npukit.graph import Graph, Node

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@attrs.frozen(eq=False)
class Layers:
    """``nodes`` to work on; ``grids`` the integer encodings of the weights of all layers; ``left`` says why others are left out."""

    nodes: tuple[Node, ...]
    grids: Mapping[str, Encoding]
    left: tuple[str, ...]

    @property
    def weights(self) -> tuple[str, ...]:
        """The weights of ``nodes``, in their order."""
        return tuple(node.input(1) for node in self.nodes)


def choose_layers(graph: Graph, encodings: Mapping[str, Encoding], task: str) -> Layers:
    """The layers with integer weights that AIMET's ``task`` ("adaround" or "seq-mse") treats, and treats rightly."""
    candidates = [node for node in graph.nodes if _is_quantized(node, graph, encodings)]
    reasons = {node.name: _trouble(node, graph, encodings[node.input(1)], task) for node in candidates}
    nodes = tuple(node for node in candidates if not reasons[node.name])
    grids = {node.input(1): encodings[node.input(1)] for node in candidates}
    grids = {name: grid for name, grid in grids.items() if grid.granularity in ("tensor", "channel")}
    return Layers(nodes, grids, tuple(f"'{name}' ({reason})" for name, reason in reasons.items() if reason))


def _is_quantized(node: Node, graph: Graph, encodings: Mapping[str, Encoding]) -> bool:
    weight = node.input(1)
    if node.op not in LAYERS or node.domain or graph.constant(weight) is None:
        return False
    return weight in encodings and not encodings[weight].is_float


def _trouble(node: Node, graph: Graph, grid: Encoding, task: str) -> str:
    """Why AIMET would skip the node, fail on it, or compute something else; "" when it does not."""
    if grid.granularity not in ("tensor", "channel"):
        return "weight in blocks"
    if sum(n.inputs.count(node.input(1)) for n in graph.consumers[node.input(1)]) > 1:
        return "shared weight"
    rank = len(graph.tensor(node.input(1)).shape or ())
    return _no_adaround(node, rank) if task == "adaround" else _no_seq_mse(node, rank)


def _no_adaround(node: Node, rank: int) -> str:
    if node.op == "Gemm" and (node.get("alpha", 1.0) != 1.0 or node.get("beta", 1.0) != 1.0 or node.get("transA", 0)):
        return "AIMET leaves alpha, beta and transA out of its loss"
    if node.op not in ("Conv", "ConvTranspose"):
        return ""
    if rank != 4:
        return "AIMET rounds 2-D convolutions only"
    if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID", b"NOTSET", b"VALID"):
        return "AIMET does not take auto_pad"
    if _any(node.get("output_padding", ())) or node.get("output_shape"):
        return "AIMET does not take output_padding"
    return ""


def _no_seq_mse(node: Node, rank: int) -> str:
    if node.op == "ConvTranspose":
        return "AIMET's sequential MSE does not treat ConvTranspose"
    return "AIMET takes matrices only" if node.op == "MatMul" and rank != 2 else ""


def _any(values: Collection[int]) -> bool:
    return any(value != 0 for value in values)
