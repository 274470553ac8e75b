"""Write a GatherND that moves nothing as a Reshape."""

from __future__ import annotations

import numpy as np

from npukit.graph.model import Graph, Node, Tensor
from npukit.graph.passes.dead_nodes import remove_dead_nodes


def reshape_gather_nd(graph: Graph) -> Graph:
    """Replace every GatherND whose constant indices name all elements of its data in their order by a Reshape.

    Exporters write attention masks so (``mask[b, kv]`` over the ranges of both), for which accelerators have no gather of booleans.
    """
    found = {node.outputs[0]: shape for node in graph.nodes if (shape := _reshaped(graph, node)) is not None}
    if not found:
        return graph
    shapes = [Tensor(f"{name}.shape", "int64", (len(shape),), np.array(shape, np.int64)) for name, shape in found.items()]
    nodes = tuple(
        Node("Reshape", node.name, (node.inputs[0], f"{node.outputs[0]}.shape"), node.outputs)
        if node.outputs and node.outputs[0] in found
        else node
        for node in graph.nodes
    )
    return remove_dead_nodes(graph.evolve(nodes=nodes).with_tensors(shapes))


def _reshaped(graph: Graph, node: Node) -> tuple[int, ...] | None:
    """The shape that a GatherND gives to its data, None when it does anything else."""
    if node.op != "GatherND" or node.domain or node.get("batch_dims", 0):
        return None
    data, indices = graph.tensor(node.inputs[0]).static_shape, graph.constant(node.inputs[1])
    if data is None or indices is None:
        return None
    taken, rest = data[: indices.shape[-1]], data[indices.shape[-1] :]
    size = int(np.prod(taken))
    if indices.size != size * len(taken) or np.any(indices < -np.array(taken)) or np.any(indices >= np.array(taken)):
        return None
    flat = np.ravel_multi_index(tuple((indices % taken).reshape(-1, len(taken)).T), taken)
    return (*indices.shape[:-1], *rest) if np.array_equal(flat, np.arange(size)) else None
