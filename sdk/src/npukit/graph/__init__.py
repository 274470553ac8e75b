"""The model as npukit sees it: Tensor, Node, Graph, and how they come from and go to ONNX."""

from npukit.graph.evaluate import attribute, evaluate_node
from npukit.graph.files import open_atomic, part_of, source_hash, write_atomic
from npukit.graph.indices import host_nodes
from npukit.graph.infer import CANONICAL_OPSET, check_graph, infer_shapes, make_graph
from npukit.graph.macs import count_macs, mac_operands, sample_shape
from npukit.graph.masks import MASK, mask_operands
from npukit.graph.model import FLOAT_DTYPES, Array, Graph, Node, Shape, Stored, Tensor, row_ranges
from npukit.graph.passes import bind, fold_affine, fold_constants, remove_dead_nodes, reshape_gather_nd, subgraph
from npukit.graph.patterns import PATTERNS, Pattern, fuse
from npukit.graph.protobuf import numpy_type
from npukit.graph.read import load, load_split
from npukit.graph.usage import captured, reads
from npukit.graph.write import Blob, Place, save, serialize, serialize_beside, serialize_split

__all__ = [
    "CANONICAL_OPSET",
    "FLOAT_DTYPES",
    "MASK",
    "PATTERNS",
    "Array",
    "Blob",
    "Graph",
    "Node",
    "Pattern",
    "Place",
    "Shape",
    "Stored",
    "Tensor",
    "attribute",
    "bind",
    "captured",
    "check_graph",
    "count_macs",
    "evaluate_node",
    "fold_affine",
    "fold_constants",
    "fuse",
    "host_nodes",
    "infer_shapes",
    "load",
    "load_split",
    "mac_operands",
    "make_graph",
    "mask_operands",
    "numpy_type",
    "open_atomic",
    "part_of",
    "reads",
    "remove_dead_nodes",
    "reshape_gather_nd",
    "row_ranges",
    "sample_shape",
    "save",
    "serialize",
    "serialize_beside",
    "serialize_split",
    "source_hash",
    "subgraph",
    "write_atomic",
]
