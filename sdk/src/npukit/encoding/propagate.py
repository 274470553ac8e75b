"""Carry encodings over ops that only move data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from npukit.encoding.types import Encoding
from npukit.graph import Graph, Node

# Ops whose outputs hold values of their data input and nothing else, so that the grid survives. The list is that of
# aimet-onnx 2.42 (_derive_data_movement_op_encodings, BSD-3-Clause) for standard ONNX ops.
GRID_PRESERVING = frozenset(
    [
        "Col2Im",
        "Compress",
        "DepthToSpace",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "MaxPool",
        "MaxRoiPool",
        "Pad",
        "ReduceMax",
        "ReduceMin",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "TopK",
        "Transpose",
        "Unsqueeze",
    ]
)
# Several data inputs: the grid survives when all of them share it.
EQUIVARIANT = frozenset({"Concat", "Scatter", "ScatterElements", "ScatterND"})


_Rule: TypeAlias = Callable[[Graph, Node, Mapping[str, Encoding]], dict[str, Encoding]]


def propagate(graph: Graph, given: Mapping[str, Encoding], ties: Iterable[tuple[str, str]] = ()) -> dict[str, Encoding]:
    """Return ``given`` and the encodings that follow from it, those with origin "propagated".

    Forward, an output takes the input's encoding when all float inputs share one per-tensor encoding; backward, an input takes
    the output's when nobody else reads it and it is no graph output. A tensor of one of the ``ties`` takes that of its partner. All
    are repeated until nothing changes, forward first, so the result does not depend on the order of nodes.
    """
    known = dict(given)
    pairs = [pair for a, b in ties for pair in ((a, b), (b, a))]
    movers = [n for n in graph.nodes if not n.domain and n.op in GRID_PRESERVING | EQUIVARIANT]
    while _sweep(graph, movers, known, _forward) or _sweep(graph, movers, known, _backward) or _tie(pairs, known):
        pass
    return known


def _tie(pairs: Iterable[tuple[str, str]], known: dict[str, Encoding]) -> bool:
    """Give tensors the encoding of a tied one; whether that added anything."""
    before = len(known)
    for source, target in pairs:
        if target not in known and _movable(known.get(source)):
            known[target] = known[source].with_origin("propagated")
    return len(known) > before


def _sweep(graph: Graph, movers: list[Node], known: dict[str, Encoding], rule: _Rule) -> bool:
    """Apply a rule to all movers until it adds nothing; whether it added anything."""
    added = False
    while True:
        found: dict[str, Encoding] = {}
        for node in movers:
            found |= rule(graph, node, known)
        if not found:
            return added
        known |= {name: encoding.with_origin("propagated") for name, encoding in found.items()}
        added = True


def _data_inputs(graph: Graph, node: Node) -> list[str]:
    """The float inputs that carry data: all of an equivariant op, the first of the others."""
    names = node.inputs if node.op in EQUIVARIANT else node.inputs[:1]
    return [n for n in names if n and graph.tensor(n).is_float]


def _float_outputs(graph: Graph, node: Node) -> list[str]:
    return [n for n in node.outputs if n and graph.tensor(n).is_float]


def _movable(encoding: Encoding | None) -> bool:
    return encoding is not None and encoding.granularity in ("tensor", "float")


def _forward(graph: Graph, node: Node, known: Mapping[str, Encoding]) -> dict[str, Encoding]:
    found = [known.get(name) for name in _data_inputs(graph, node)]
    if not found or found[0] is None or not all(_movable(e) and e is not None and e.same_grid(found[0]) for e in found):
        return {}
    return {name: found[0] for name in _float_outputs(graph, node) if name not in known}


def _backward(graph: Graph, node: Node, known: Mapping[str, Encoding]) -> dict[str, Encoding]:
    outputs = [known.get(name) for name in _float_outputs(graph, node)]
    if not outputs or outputs[0] is None or not all(_movable(e) and e is not None and e.same_grid(outputs[0]) for e in outputs):
        return {}
    return {
        name: outputs[0]
        for name in _data_inputs(graph, node)
        if name not in known
        and not graph.tensor(name).is_constant
        and len(graph.consumers.get(name, ())) == 1
        and name not in graph.outputs
    }
