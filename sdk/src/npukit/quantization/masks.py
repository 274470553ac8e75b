"""How small values in front of a Softmax need to be: attention masks end where the probability is 0 anyway."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from npukit.calibration import Range
from npukit.encoding import INT_BITS
from npukit.graph import MASK, Graph, Node, mask_operands

RangeOf = Callable[[str], Range | None]


def lowest_useful(graph: Graph, range_of: RangeOf, types: Mapping[str, str]) -> dict[str, float]:
    """For tensors that only a Softmax reads, moved, added or chosen from: the value below which all values count alike.

    A value that lies d below the largest of its row has at most the share e^-d of the row; n of them together stay below half a
    step of the output of b bits when d = ln(n * 2^(b+1)). So the input of a Softmax needs nothing below the least that the largest
    value of a row can be, minus d, and what is added to it nothing below that minus the most that the other operand can be.
    ``types`` gives the types of outputs; ``range_of`` the ranges, None for what is not known.
    """
    found: dict[str, list[float]] = {}
    for node in reversed(graph.nodes):
        for name in mask_operands(graph, node, graph.before_softmax):
            if name in graph.before_softmax:
                found.setdefault(name, []).append(_need(graph, node, name, range_of, found, types))
    needs = {name: min(values) for name, values in found.items()}
    return {name: MASK if value == math.inf else value for name, value in needs.items() if value > -math.inf}


def _need(
    graph: Graph, node: Node, name: str, range_of: RangeOf, found: Mapping[str, list[float]], types: Mapping[str, str]
) -> float:
    """What one reader of a tensor needs, -inf when that is not known."""
    if node.op == "Softmax":
        shape = graph.tensor(name).shape
        size = shape[node.get("axis", -1)] if shape else None
        bits = INT_BITS.get(types.get(node.outputs[0], ""), 16)
        floor = _floor(graph, name, range_of)
        return floor - math.log(size * 2.0 ** (bits + 1)) if isinstance(size, int) and size else -math.inf
    if node.op == "Equal":
        return math.inf  # asks only whether something is left out
    need = min(found.get(node.outputs[0], [-math.inf]))
    if node.op != "Add":
        return need
    other = range_of(node.inputs[1] if node.inputs[0] == name else node.inputs[0])
    return -math.inf if other is None else need - other.high


def _floor(graph: Graph, name: str, range_of: RangeOf) -> float:
    """The least that the largest value of a row can be, rows that are left out as a whole aside."""
    node = graph.producers.get(name)
    if node is not None and name in graph.before_softmax:
        floors = [_floor(graph, n, range_of) for n in mask_operands(graph, node, graph.before_softmax)]
        if node.op == "Max":
            return max(floors)
        if node.op == "Where":  # a row may be of one branch alone, but not of the one that is left out
            return min((floor for floor in floors if floor >= MASK), default=-math.inf)
        if node.op == "Add":
            (a, b) = node.inputs
            return max(_low(range_of(a)) + _floor(graph, b, range_of), _floor(graph, a, range_of) + _low(range_of(b)))
    found = range_of(name)
    # Of a mask only the extremes are known. It leaves something in each row: 0, or a bias as far below 0 as others are above it.
    if found is not None and found.low < MASK and not graph.is_constant(name):
        return -abs(found.high)
    data = graph.constant(name)
    if data is None:
        return _low(found)
    kept = data[data >= MASK]  # whatever the rows are: the constant may be moved before it gets to the Softmax
    return float(kept.min()) if kept.size else -math.inf


def _low(found: Range | None) -> float:
    return -math.inf if found is None else found.low


def clipped(found: Range, lowest: float | None) -> Range:
    """A range without what lies below ``lowest``."""
    return found if lowest is None or found.low >= lowest else Range(min(lowest, found.high), found.high)
