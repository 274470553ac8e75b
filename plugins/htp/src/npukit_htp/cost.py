"""How long ops would take at the published peak figures of a SoC (data/cost.yaml): a roofline, not a simulation.

S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009: the time of an op is the longer one of its products at the
peak rate and its bytes at the peak rate of the external memory. What is not public is left out and named in
docs/explanation/cost-model.md: the time of the vector units, the bandwidth of the VTCM, the cost of a change of type between ops.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs
import yaml

from npukit.backend import OpCost, Soc, bytes_of, count_costs
from npukit.encoding import INT_BITS, Encoding
from npukit.graph import Graph

_MEBIBYTE = 1 << 20


@attrs.frozen
class Figure:
    """One public figure: ``value`` in the unit of its table, and where it comes from."""

    value: float
    source: str
    confidence: str


@attrs.frozen
class Figures:
    """All figures: ``peaks`` in TOPS and ``memories`` in GB/s by SoC; ``products`` in 8 x 8 bit products by (wider, narrower)."""

    peaks: Mapping[str, Figure]
    memories: Mapping[str, Figure]
    products: Mapping[tuple[str, str], Figure]


@lru_cache(maxsize=1)
def figures() -> Figures:
    """The rows of data/cost.yaml."""
    data = yaml.safe_load((Path(__file__).parent / "data" / "cost.yaml").read_text(encoding="utf-8"))

    def table(name: str, key: str, value: str) -> dict[Any, Figure]:
        return {_key(row[key]): Figure(float(row[value]), row["source"], row["confidence"]) for row in data[name]}

    return Figures(table("peaks", "soc", "tops"), table("memories", "soc", "gb_per_s"), table("products", "operands", "cost"))


def _key(value: str | list[Any]) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else tuple(str(v) for v in value)


def estimate(graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> tuple[OpCost, ...]:
    """The cost of every node on ``soc``.

    A node fits when all it reads and writes fits into the VTCM together. Constants are read from external memory once per
    inference; so is every tensor that the graph takes or gives, or that a node which does not fit reads or writes.
    """
    # Float tensors are float16 on the chip.
    halves = {n: Encoding("float16") for n, t in graph.tensors.items() if t.dtype == "float32" and n not in encodings}
    stored = {**encodings, **halves}
    room = None if soc.memory_mb is None else soc.memory_mb * _MEBIBYTE
    costs = [attrs.evolve(cost, fits=_fits(cost, room)) for cost in count_costs(graph, stored)]
    outside = _outside(graph, costs)
    found = []
    for cost, node in zip(costs, graph.nodes, strict=True):
        names = [n for n in dict.fromkeys((*node.inputs, *node.outputs)) if n in outside]
        sizes = [bytes_of(graph, n, stored) for n in names]
        known = [size for size in sizes if size is not None]
        ddr = sum(known) if cost.fits is not None and len(known) == len(sizes) else None
        found.append(attrs.evolve(cost, ddr_bytes=ddr, us=_microseconds(cost, ddr, soc)))
    return tuple(found)


def _fits(cost: OpCost, room: float | None) -> bool | None:
    return None if room is None or cost.bytes is None else cost.bytes <= room


def _outside(graph: Graph, costs: list[OpCost]) -> set[str]:
    """The tensors that live in external memory."""
    found = {*graph.inputs, *graph.outputs, *(n for n, t in graph.tensors.items() if t.is_constant)}
    for cost, node in zip(costs, graph.nodes, strict=True):
        if not cost.fits:
            found |= {n for n in (*node.inputs, *node.outputs) if n}
    return found


def _microseconds(cost: OpCost, ddr: int | None, soc: Soc) -> float | None:
    peak, memory = figures().peaks.get(soc.name), figures().memories.get(soc.name)
    if peak is None or memory is None or ddr is None or cost.macs is None:
        return None
    products = cost.macs * product_cost(cost.operands) if cost.macs else 0.0
    return max(2 * products / (peak.value * 1e6), ddr / (memory.value * 1e3))


def product_cost(operands: str) -> float:
    """What one product of such operands ("uint16 x int8") costs in 8 x 8 bit products."""
    sides = operands.split(" x ")
    if all(side in INT_BITS for side in sides):
        bits = sorted((min(16, max(8, INT_BITS[side])) for side in sides), reverse=True)
        return figures().products[str(bits[0]), str(bits[1])].value
    return figures().products["float16", "float16"].value
