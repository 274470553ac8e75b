"""What op constraints cannot say because it depends on values or on several tensors: refused forms, op by op."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np

from npukit.backend import Problem
from npukit.encoding import Encoding
from npukit.graph import Graph, Node, host_nodes

_SOURCE = "onnxruntime-qnn 2.7.0, accept or reject of single-op models on the x86 simulator"
_Form: TypeAlias = Callable[[Graph, Node], str]
_TypedForm: TypeAlias = Callable[[Graph, Node, Mapping[str, Encoding]], str]


def refused_forms(graph: Graph, encodings: Mapping[str, Encoding]) -> Iterator[Problem]:
    """One error per node that the vendor's runtime refuses for its values, or for how its tensors go together."""
    host = host_nodes(graph)
    for node in graph.nodes:
        if node.name in host:
            continue
        key = node.op if not node.domain else ""
        form, cure = _FORMS.get(key, (_fine, ""))
        typed, typed_cure = _TYPED.get(key, (_fine, ""))
        found = (
            (_empty(graph, node), "leave the node out"),
            (_dimensions(graph, node), "put dimensions together with a Reshape"),
            (form(graph, node), cure),
            (typed(graph, node, encodings), typed_cure),
        )
        for message, hint in found:
            if message:
                yield Problem("error", "form", node.name, node.op, "", message, hint, _SOURCE)
                break


def _fine(graph: Graph, node: Node, encodings: Mapping[str, Encoding] | None = None) -> str:
    """An op without such forms."""
    return ""


def _empty(graph: Graph, node: Node) -> str:
    activations = [n for n in (*node.inputs, *node.outputs) if n and not graph.tensor(n).is_constant]
    empty = [n for n in activations if 0 in (graph.tensor(n).shape or ())]
    return f"tensor '{empty[0]}' has no values, its shape is {list(graph.tensor(empty[0]).shape or ())}" if empty else ""


def _dimensions(graph: Graph, node: Node) -> str:
    """No tensor has more than five dimensions."""
    ranks = {n: len(graph.tensor(n).shape or ()) for n in (*node.inputs, *node.outputs) if n}
    deep = [n for n, rank in ranks.items() if rank > _MOST_DIMENSIONS]
    return f"tensor '{deep[0]}' has {ranks[deep[0]]} dimensions, allowed are {_MOST_DIMENSIONS}" if deep else ""


def _types(graph: Graph, node: Node, encodings: Mapping[str, Encoding]) -> str:
    """Signed activations take fewer weights than the rows of either type say."""
    data, weight, bias = (encodings.get(node.inputs[i]) if node.input(i) else None for i in range(3))
    if data is None or weight is None:
        return ""
    integer_bias = bias is not None and bias.dtype == "int32"
    refused = (
        (data.dtype == "int16" and weight.dtype == "uint8", ""),
        (data.dtype == "int8" and weight.dtype in ("uint8", "int4") and integer_bias, " and an int32 bias"),
        (data.dtype == "int8" and weight.dtype == "int4" and weight.granularity == "channel", " per channel"),
    )
    words = [word for holds, word in refused if holds]
    return f"{data.dtype} activations with {weight.dtype} weights{words[0]}" if words else ""


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
    """A normalization is along the last axis."""
    axis, rank = int(node.get("axis", -1)), len(graph.tensor(node.inputs[0]).shape or ())
    return f"attribute axis is {axis}, allowed is the last one" if rank and axis not in (-1, rank - 1) else ""


def _product(graph: Graph, node: Node) -> str:
    """A product with a constant matrix has four dimensions at most."""
    rank, matrix = len(graph.tensor(node.inputs[0]).shape or ()), graph.tensor(node.inputs[1])
    constant = matrix.is_constant and len(matrix.shape or ()) <= 2
    return f"rank {rank} with a constant matrix, allowed is at most 4" if rank > 4 and constant else ""


def _matrix(graph: Graph, name: str) -> bool:
    return len(graph.tensor(name).shape or ()) > 1


def _gathered(graph: Graph, node: Node) -> str:
    """Slices of the first axis that make five dimensions fail to build."""
    rank = len(graph.tensor(node.outputs[0]).shape or ())
    return (
        f"axis 0 makes rank {rank}, allowed is at most 4"
        if rank > 4 and node.get("axis", 0) == 0 and _matrix(graph, node.inputs[1])
        else ""
    )


def _extreme(graph: Graph, node: Node, encodings: Mapping[str, Encoding]) -> str:
    """In float a ReduceMax or a ReduceMin of five dimensions is along one axis."""
    rank, axes = len(graph.tensor(node.inputs[0]).shape or ()), graph.constant(node.inputs[1]) if node.input(1) else None
    data = encodings.get(node.inputs[0])
    several = rank > 4 and (axes is None or axes.size > 1) and (data is None or data.is_float)
    return f"float along several axes of rank {rank}, allowed is one" if several else ""


def _two(graph: Graph, node: Node) -> str:
    return "" if len(node.inputs) > 1 else "one input, needed are two"


def _pairs(graph: Graph, node: Node) -> str:
    """A Max or a Min of more than two tensors has four dimensions at most."""
    rank = len(graph.tensor(node.outputs[0]).shape or ())
    return f"{len(node.inputs)} inputs of rank {rank}, allowed are two" if rank > 4 and len(node.inputs) > 2 else _two(graph, node)


def _equation(graph: Graph, node: Node) -> str:
    """An Einsum is a matrix product, with the second matrix as it is or transposed, or one of two products over heads."""
    equation = "".join(str(node.get("equation", "")).split())
    if len(node.inputs) != 2 or "->" not in equation or "." in equation:
        return f"equation '{equation}', allowed are products of two tensors"
    first, second, result = equation.replace("->", ",").split(",")
    while len(first) > 2 and first[0] == second[:1] == result[:1] and _letters(first, second, result) not in _EINSUMS:
        first, second, result = first[1:], second[1:], result[1:]
    return "" if _letters(first, second, result) in _EINSUMS else f"equation '{equation}', allowed are matrix products"


def _letters(*terms: str) -> str:
    """Terms with their letters in the order in which they appear."""
    order = {letter: chr(ord("a") + index) for index, letter in enumerate(dict.fromkeys("".join(terms)))}
    return ",".join("".join(order[letter] for letter in term) for term in terms)


def _cast(graph: Graph, node: Node) -> str:
    """An int64 that a Cast makes cannot leave the graph."""
    return "its int64 output is an output of the graph" if node.get("to", 0) == 7 and node.outputs[0] in graph.outputs else ""


def _nearest(graph: Graph, node: Node) -> str:
    """Which rounding goes with which coordinates depends on the number of dimensions."""
    if node.get("mode", "nearest") != "nearest":
        return ""
    rank, rounding = len(graph.tensor(node.inputs[0]).shape or ()), node.get("nearest_mode", "round_prefer_floor")
    where = node.get("coordinate_transformation_mode", "half_pixel")
    if rank == 4:
        fine = where != "asymmetric" or rounding in ("floor", "round_prefer_ceil")
    else:
        fine = rounding == "floor" or (rounding == "round_prefer_ceil" and where == "align_corners")
    return "" if fine else f"nearest_mode {rounding} with {where} in {rank} dimensions"


def _spectrum(graph: Graph, node: Node, encodings: Mapping[str, Encoding]) -> str:
    """The shape of a quantized spectrogram is known where onesided is written, of a float one where the frame length is given."""
    if node.get("onesided", None) is None and (node.inputs[0] in encodings or not node.input(3)):
        return "attribute onesided is not written"
    half = graph.tensor(node.inputs[0]).dtype == "float16" or getattr(encodings.get(node.inputs[0]), "dtype", "") == "float16"
    return "float16 without a frame length" if half and not node.input(3) else ""


def _reflected(graph: Graph, node: Node) -> str:
    """A reflection is shorter than what it reflects."""
    pads, shape = graph.constant(node.inputs[1]), graph.tensor(node.inputs[0]).static_shape
    if node.input(3):
        return "input axes is given, allowed are pads of all axes"
    if node.get("mode", "constant") != "reflect" or pads is None or shape is None:
        return ""
    wide = [axis for axis, pair in enumerate(pads.reshape(2, -1).T) if max(pair) > shape[axis] - 1]
    return f"a reflection of {max(pads.reshape(2, -1).T[wide[0]])} on axis {wide[0]} of size {shape[wide[0]]}" if wide else ""


_MOST_DIMENSIONS = 5
_EINSUMS = ("ab,bc,ac", "ab,cb,ac", "abcd,bed,abce", "abcd,aecb,aecd")
_FORMS: Mapping[str, tuple[_Form, str]] = {
    "Cast": (_cast, "cast to int32"),
    "Dropout": (_mask, "export the model for inference"),
    "Einsum": (_equation, "write it as Transpose and MatMul"),
    **dict.fromkeys(
        ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), (_axis, "put a Transpose before and behind it")
    ),
    "Gather": (_gathered, "put dimensions together with a Reshape"),
    "MatMul": (_product, "put a Reshape before and behind it"),
    **dict.fromkeys(("Max", "Min"), (_pairs, "write it as nodes of two inputs")),
    **dict.fromkeys(("Mean", "Sum"), (_two, "leave the node out")),
    "Pad": (_reflected, "pad by less, in another mode, or give pads for all axes"),
    "Resize": (_nearest, "write nearest_mode floor"),
    **dict.fromkeys(("GRU", "LSTM"), (_lengths, "leave the lengths out and mask the results")),
    **dict.fromkeys(("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), (_reduced_axes, "give it constant axes")),
}
_TYPED: Mapping[str, tuple[_TypedForm, str]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), (_types, "give it int8 weights")),
    "STFT": (_spectrum, "write onesided, and give it the frame length"),
    **dict.fromkeys(("ReduceMax", "ReduceMin"), (_extreme, "write it as one node for each axis")),
}
