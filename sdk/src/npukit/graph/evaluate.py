"""One node by ONNX's own definition: its attributes with their defaults, its results on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import helper

from npukit.errors import ModelError, one_line
from npukit.graph.model import Array, Graph, Node
from npukit.graph.protobuf import plain
from npukit.graph.write import node_proto, opset_imports


def attribute(node: Node, name: str) -> Any:
    """The value of an attribute, or the default that ONNX gives it, or None."""
    if name in node.attributes:
        return node.attributes[name]
    return _defaults(node.op, node.domain).get(name)


@lru_cache(maxsize=512)
def _defaults(op: str, domain: str) -> dict[str, Any]:
    try:
        schema = onnx.defs.get_schema(op, domain)
    except onnx.defs.SchemaError:
        return {}
    return {key: plain(helper.get_attribute_value(a.default_value)) for key, a in schema.attributes.items() if a.default_value.name}


def evaluate_node(node: Node, inputs: Sequence[Array | None], graph: Graph) -> tuple[Array, ...]:
    """Compute one node with the ONNX reference implementation on arrays (None for an absent input).

    Raises ModelError naming node and op when there is no reference implementation or the values do not fit.
    """
    try:
        return tuple(_evaluator(node, graph)(inputs))
    except Exception as error:
        raise ModelError(f"node '{node.name}' ({node.op}) cannot be computed: {one_line(error)}") from error


def _evaluator(node: Node, graph: Graph) -> Any:
    from onnx.reference import ReferenceEvaluator

    proto = node_proto(node)
    model = helper.make_model(
        helper.make_graph(
            [proto],
            "node",
            [helper.make_empty_tensor_value_info(n) for n in dict.fromkeys(n for n in node.inputs if n)],
            [helper.make_empty_tensor_value_info(n) for n in node.outputs if n],
        ),
        opset_imports=opset_imports(graph),
    )
    reference = ReferenceEvaluator(model)

    def run(inputs: Sequence[Array | None]) -> list[Array]:
        feeds = {n: v for n, v in zip(node.inputs, inputs, strict=False) if n and v is not None}
        results = iter(reference.run(None, feeds))
        return [np.asarray(next(results)) if n else np.zeros(0, np.float32) for n in node.outputs]

    return run
