"""The model as npukit sees it: Tensor, Node, Graph, and how they come from and go to ONNX."""

from npukit.graph._types import FLOAT_DTYPES, Array, Graph, Node, Shape, Tensor

__all__ = ["FLOAT_DTYPES", "Array", "Graph", "Node", "Shape", "Tensor"]
