"""The counts behind a cost: by hand, for any backend."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from npukit.backend import Backend, Program, Session, Soc, count_costs, total
from npukit.encoding import Encoding, encoding_for_range
from npukit.graph import Graph, Node, make_graph

NODES = [
    Node("Conv", "conv", ("x", "w", "b"), ("c",), {"pads": (1, 1, 1, 1)}),
    Node("Relu", "relu", ("c",), ("r",)),
    Node("Add", "twice", ("r", "r"), ("y",)),
]
WEIGHTS = {"w": np.ones((4, 2, 3, 3), np.float32), "b": np.ones(4, np.float32)}


def graph(batch: int | str = 1, side: int | str = 8) -> Graph:
    return make_graph(NODES, {"x": ("float32", (batch, 2, side, side))}, ["y"], WEIGHTS)


def encodings(activation: str, weight: str) -> dict[str, Encoding]:
    grid = encoding_for_range(-1, 1, activation)
    found = dict.fromkeys("xcry", grid)
    return found | {"w": Encoding(weight, 0.1, symmetric=True), "b": Encoding("int32", 0.001, symmetric=True)}


class Plain(Backend):
    """A backend that says nothing of its chip."""

    name = "plain"

    def compile(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Program:
        raise NotImplementedError

    def open(self, program: Program) -> Session:
        raise NotImplementedError


def test_counts_by_hand() -> None:
    """Multiply-accumulates, bit operations, elements and bytes of a small network, and no device figures."""
    conv, relu, add = Plain().estimate(graph(), encodings("uint8", "int4"), Soc("plain", ""))
    macs = 8 * 8 * 4 * 2 * 9
    assert (conv.macs, conv.operands, conv.bit_ops, conv.elements) == (macs, "uint8 x int4", macs * 32, 0)
    assert conv.bytes == 128 + 72 // 2 + 4 * 4 + 256
    assert (relu.macs, relu.operands, relu.bit_ops, relu.elements, relu.bytes) == (0, "", 0, 256, 512)
    assert add.bytes == 512  # one tensor read twice is stored once
    assert {(c.fits, c.ddr_bytes, c.us) for c in (conv, relu, add)} == {(None, None, None)}


def test_an_open_batch_counts_as_one() -> None:
    """The cost is that of one inference of one sample."""
    assert count_costs(graph("N"), {}) == count_costs(graph(1), {})


def test_unknown_shapes_stay_unknown() -> None:
    """A node of unknown shape has no counts, and the total says how many such nodes it leaves out."""
    costs = count_costs(graph(1, "S"), {})
    assert [c.bytes for c in costs] == [None, None, None]
    assert total(costs).unknown == 3
    assert total(count_costs(graph(), {})).unknown == 0


def test_total() -> None:
    """Sums; a time only when every node has one, and bit operations as the measure of work without it."""
    costs = count_costs(graph(), encodings("uint8", "int8"))
    whole = total(costs)
    assert whole.macs == costs[0].macs
    assert whole.bytes == sum(c.bytes or 0 for c in costs)
    assert whole.us is None
    assert whole.work == whole.bit_ops == 64 * (costs[0].macs or 0)
    timed = total(attrs.evolve(c, us=1.5, ddr_bytes=10) for c in costs)
    assert (timed.us, timed.work, timed.ddr_bytes) == (4.5, 4.5, 30)
    partly = total((attrs.evolve(costs[0], us=1.5), *costs[1:]))
    assert partly.us is None
