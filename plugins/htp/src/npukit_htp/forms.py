"""What op constraints cannot say because it depends on values or on several tensors: refused forms, op by op."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np

from npukit.backend import Problem
from npukit.graph import Graph, Node, host_nodes

_SOURCE = "onnxruntime-qnn 2.7.0, accept or reject of single-op models on the x86 simulator"
_Form: TypeAlias = Callable[[Graph, Node], str]


def refused_forms(graph: Graph) -> Iterator[Problem]:
    """One error per node that the vendor's runtime refuses for its values, or for how its tensors go together."""
    host = host_nodes(graph)
    for node in graph.nodes:
        if node.name in host:
            continue
        form, cure = _FORMS.get(node.op, (_fine, "")) if not node.domain else (_fine, "")
        for message, hint in ((_empty(graph, node), "leave the node out"), (form(graph, node), cure)):
            if message:
                yield Problem("error", "form", node.name, node.op, "", message, hint, _SOURCE)
                break


def _fine(graph: Graph, node: Node) -> str:
    """An op without such forms."""
    return ""


def _empty(graph: Graph, node: Node) -> str:
    activations = [n for n in (*node.inputs, *node.outputs) if n and not graph.tensor(n).is_constant]
    empty = [n for n in activations if 0 in (graph.tensor(n).shape or ())]
    return f"tensor '{empty[0]}' has no values, its shape is {list(graph.tensor(empty[0]).shape or ())}" if empty else ""


def _lengths(graph: Graph, node: Node) -> str:
    """Sequences of an LSTM or a GRU are as long as the input."""
    if not node.input(4):
        return ""
    steps, lengths = graph.tensor(node.inputs[0]).shape, graph.constant(node.inputs[4])
    same = lengths is not None and (not steps or bool(np.all(lengths == steps[0])))
    return "" if same else "sequences of different lengths, allowed is one length for all"


def _reduced_axes(graph: Graph, node: Node) -> str:
    """Axes of a reduction are constant, and there are some."""
    axes = graph.constant(node.inputs[1]) if node.input(1) else np.zeros(0)
    if axes is None:
        return f"axes '{node.inputs[1]}' are not constant"
    return (
        "noop_with_empty_axes without axes, a reduction of nothing" if node.get("noop_with_empty_axes", 0) and not axes.size else ""
    )


def _mask(graph: Graph, node: Node) -> str:
    """A Dropout is nothing at inference, so there is no mask to read."""
    mask = node.outputs[1] if len(node.outputs) > 1 else ""
    return f"its mask '{mask}' is read" if mask and (mask in graph.consumers or mask in graph.outputs) else ""


def _axis(graph: Graph, node: Node) -> str:
    """A LayerNormalization is along the last axis."""
    axis, rank = int(node.get("axis", -1)), len(graph.tensor(node.inputs[0]).shape or ())
    return f"attribute axis is {axis}, allowed is the last one" if rank and axis not in (-1, rank - 1) else ""


def _product(graph: Graph, node: Node) -> str:
    """A product with constant weights has four dimensions at most."""
    rank = len(graph.tensor(node.inputs[0]).shape or ())
    return f"rank {rank} with a constant, allowed is at most 4" if rank > 4 and graph.tensor(node.inputs[1]).is_constant else ""


def _two(graph: Graph, node: Node) -> str:
    return "" if len(node.inputs) > 1 else "one input, needed are two"


def _reflected(graph: Graph, node: Node) -> str:
    """A reflection is shorter than what it reflects."""
    pads, shape = graph.constant(node.inputs[1]), graph.tensor(node.inputs[0]).static_shape
    if node.get("mode", "constant") != "reflect" or pads is None or shape is None or node.input(3):
        return ""
    wide = [axis for axis, pair in enumerate(pads.reshape(2, -1).T) if max(pair) > shape[axis] - 1]
    return f"a reflection of {max(pads.reshape(2, -1).T[wide[0]])} on axis {wide[0]} of size {shape[wide[0]]}" if wide else ""


_FORMS: Mapping[str, tuple[_Form, str]] = {
    "Dropout": (_mask, "export the model for inference"),
    "LayerNormalization": (_axis, "put a Transpose before and behind it"),
    "MatMul": (_product, "put a Reshape before and behind it"),
    **dict.fromkeys(("Max", "Mean", "Min", "Sum"), (_two, "leave the node out")),
    "Pad": (_reflected, "pad by less, or in another mode"),
    **dict.fromkeys(("GRU", "LSTM"), (_lengths, "leave the lengths out and mask the results")),
    **dict.fromkeys(("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), (_reduced_axes, "give it constant axes")),
}
