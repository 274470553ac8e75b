"""What a model costs, counted from its graph and encodings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import attrs

from npukit.encoding import Encoding
from npukit.graph import Graph, Node, Tensor, count_macs, mac_operands, sample_shape

_Number = TypeVar("_Number", int, float)


@attrs.frozen
class OpCost:
    """The cost of one node in one inference: an estimate, never a measurement.

    ``macs``: multiply-accumulates; ``operands`` the types of their two sides ("uint8 x int8"), "" when there are none; ``bit_ops``:
    macs times the bits of both operands (the BOPs of van Baalen et al., "Bayesian Bits", https://arxiv.org/abs/2005.07093).
    ``elements``: what a node without multiply-accumulates writes. ``bytes``: all inputs, constants and outputs as stored. None
    stands for what is not known (a shape, the cost of an op).

    A backend that knows its chip adds ``fits`` (whether ``bytes`` fit into the tightly coupled memory), ``ddr_bytes`` (what crosses
    the external memory) and ``us``, microseconds; None when a figure that they need is not known.
    """

    node: str
    op: str
    macs: int | None
    operands: str
    bit_ops: int | None
    elements: int | None
    bytes: int | None
    fits: bool | None = None
    ddr_bytes: int | None = None
    us: float | None = None


@attrs.frozen
class Speed:
    """What a whole model reaches on a chip by a backend's model: never a measurement.

    ``rate``: inferences per second, each sample of a batch counting as one; ``latency``: seconds from an input to its result;
    ``bound``: what limits the rate; ``setup``: how the chip is used, one line.
    """

    rate: float
    latency: float
    bound: str
    setup: str


@attrs.frozen
class TotalCost:
    """The sums of a model. ``macs``, ``bit_ops``, ``elements`` and ``bytes`` leave out what is not known; ``unknown`` counts the
    nodes with such a gap. ``ddr_bytes`` and ``us`` are None unless every node has them."""

    macs: int
    bit_ops: int
    elements: int
    bytes: int
    unknown: int
    ddr_bytes: int | None
    us: float | None

    @property
    def work(self) -> float:
        """One number to compare two precisions of one model on one SoC: microseconds, or bit operations when there is no time."""
        return float(self.bit_ops) if self.us is None else self.us


def total(costs: Iterable[OpCost]) -> TotalCost:
    """The sums over all nodes."""
    found = tuple(costs)
    return TotalCost(
        macs=sum(c.macs or 0 for c in found),
        bit_ops=sum(c.bit_ops or 0 for c in found),
        elements=sum(c.elements or 0 for c in found),
        bytes=sum(c.bytes or 0 for c in found),
        unknown=sum(None in (c.macs, c.elements, c.bytes) for c in found),
        ddr_bytes=_sum(c.ddr_bytes for c in found),
        us=_sum(c.us for c in found),
    )


def _sum(values: Iterable[_Number | None]) -> _Number | None:
    """The sum, None when a part of it is not known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known, start=0) if len(known) == len(found) else None


def count_costs(graph: Graph, encodings: Mapping[str, Encoding]) -> tuple[OpCost, ...]:
    """Counts of every node that hold on any chip; an open batch counts as 1."""
    return tuple(_count(graph, node, encodings) for node in graph.nodes)


def _count(graph: Graph, node: Node, encodings: Mapping[str, Encoding]) -> OpCost:
    macs = count_macs(graph, node)
    sides = [n for n in mac_operands(node) if n] if macs else []
    bits = [bits_of(graph.tensor(n), encodings.get(n)) for n in sides]
    written = [_elements(graph, n) for n in node.outputs if n]
    stored = [bytes_of(graph, n, encodings) for n in dict.fromkeys((*node.inputs, *node.outputs)) if n]
    return OpCost(
        node.name,
        node.op,
        macs,
        " x ".join(type_of(graph.tensor(n), encodings.get(n)) for n in sides),
        None if macs is None else macs * math.prod(bits) if macs else 0,
        0 if macs else _sum(written),
        _sum(stored),
    )


def type_of(tensor: Tensor, encoding: Encoding | None) -> str:
    """The type that a tensor is stored in."""
    return tensor.dtype if encoding is None else encoding.dtype


def bits_of(tensor: Tensor, encoding: Encoding | None) -> int:
    """The bits of one stored value; text counts as nothing."""
    if encoding is not None:
        return encoding.bits
    digits = re.search(r"\d+", tensor.dtype)
    return int(digits[0]) if digits else 8 if tensor.dtype == "bool" else 0


def bytes_of(graph: Graph, name: str, encodings: Mapping[str, Encoding]) -> int | None:
    """The bytes of a whole tensor as its encoding stores it, 4 bits being half a byte; None when its shape is not known."""
    count = _elements(graph, name)
    return None if count is None else -(-count * bits_of(graph.tensor(name), encodings.get(name)) // 8)


def _elements(graph: Graph, name: str) -> int | None:
    shape = sample_shape(graph, name)
    return None if shape is None else math.prod(shape)
