"""The model as npukit sees it: Tensor, Node, Graph, and how they come from and go to ONNX."""

from npukit.graph._types import FLOAT_DTYPES, Array, Graph, Node, Shape, Tensor
from npukit.graph.macs import count_macs, mac_operands, sample_shape
from npukit.graph.onnx_io import (
    CANONICAL_OPSET,
    attribute,
    check_graph,
    evaluate_node,
    infer_shapes,
    load,
    load_split,
    make_graph,
    open_atomic,
    save,
    serialize,
    serialize_split,
    source_hash,
    write_atomic,
)
from npukit.graph.passes import fold_batch_norm, fold_constants, remove_dead_nodes, subgraph

__all__ = [
    "CANONICAL_OPSET",
    "FLOAT_DTYPES",
    "Array",
    "Graph",
    "Node",
    "Shape",
    "Tensor",
    "attribute",
    "check_graph",
    "count_macs",
    "evaluate_node",
    "fold_batch_norm",
    "fold_constants",
    "infer_shapes",
    "load",
    "load_split",
    "mac_operands",
    "make_graph",
    "open_atomic",
    "remove_dead_nodes",
    "sample_shape",
    "save",
    "serialize",
    "serialize_split",
    "source_hash",
    "subgraph",
    "write_atomic",
]
