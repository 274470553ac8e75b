"""How fast a card would run a model: a roofline with the pipelining of three units, not a simulation and never a measurement.

The terms (docs/explanation/aic-speed.md explains them and names what is assumed):

- a layer that is cut into ``ols`` pieces takes ``max + (sum - max) / ols`` of the times of tensor unit, vector unit, DDR and
  network on the chip: the time of a pipeline of so many pieces;
- a card is a closed system with ``set_size`` x ``num_activations`` runs in flight. Its rate is at most that of each shared
  resource, and at most the runs in flight divided by the time of one alone: the asymptotic bounds of P. Denning, J. Buzen, "The
  Operational Analysis of Queueing Network Models", ACM Computing Surveys 10(3), 1978, https://doi.org/10.1145/356733.356735;
- the latency follows from the rate by Little's law, which is in the same paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from npukit.backend import Edge, Soc
from npukit.encoding import Encoding
from npukit.graph import Graph
from npukit_aic.speed.card import Card, card_of
from npukit_aic.speed.plan import Plan, read_plan
from npukit_aic.speed.work import TENSOR_KINDS, Model, Work, model_of

_Vector = NDArray[np.float64]


@attrs.frozen
class Row:
    """One layer in one run: its work, the bytes that cross the DDR, the seconds of each unit and the seconds of all together."""

    work: Work
    ddr_bytes: float
    t_mac: float
    t_vec: float
    t_ddr: float
    t_noc: float
    seconds: float


@attrs.frozen(eq=False)
class Estimate:
    """Modelled speed of a model on a card.

    ``rate``: inferences per second of the card, each sample of a batch counting as one; ``latency``: seconds from handing over a
    batch to its result, with ``set_size`` of them in flight; ``bound`` names what limits the rate: "host link", "host",
    "transfers", "ddr", "noc", "compute", "vector", "overhead" or "floor"; ``ceilings`` has the rate that each resource alone would
    allow. ``resident``: whether the weights stay in vector memory. ``unknown``: nodes whose work is not known, so that ``rate`` is
    an upper bound.
    """

    rate: float
    latency: float
    bound: str
    ceilings: Mapping[str, float]
    resident: bool
    batch: int
    plan: Plan
    unknown: tuple[str, ...]
    _layers: tuple[Work, ...] = attrs.field(repr=False)
    _columns: tuple[_Vector, ...] = attrs.field(repr=False)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """One row per node, in order, then one per input and output that is converted."""
        columns = (column.tolist() for column in self._columns)
        return tuple(Row(layer, *numbers) for layer, *numbers in zip(self._layers, *columns, strict=True))


def estimate(
    graph: Graph,
    encodings: Mapping[str, Encoding],
    types: Mapping[str, str],
    soc: Soc,
    settings: Mapping[str, Any],
    edges: Mapping[str, Edge] | None = None,
) -> Estimate:
    """How fast ``soc`` would run ``graph``, whose nodes compute in ``types`` ("int", "float16", "float32", by name).

    ``settings`` are options by the names of qaic.Session's keywords; ``edges`` what callers hand over (custom IO). Raises
    UsageError for a chip without constants and for options out of range.
    """
    card = card_of(soc)
    return solve(model_of(graph, encodings, types, edges), card, read_plan(settings, card.cores))


def solve(model: Model, card: Card, plan: Plan) -> Estimate:
    """The estimate for work that is counted already."""
    chips = min(card.chips, math.ceil(plan.cores * card.chips / card.cores))  # of one activation
    busy = min(card.chips, math.ceil(plan.activations * plan.cores * card.chips / card.cores))  # of all of them
    ddr_bytes, resident = _ddr_bytes(model, card, plan)
    units = _unit_times(model, plan, card, ddr_bytes, chips)
    totals = {name: float(times.sum()) for name, times in units.items()}
    seconds = _layer_times(units, plan)
    overhead = np.full(len(model.layers), plan.ols * card.overhead_s)
    for (_, kind), where in model.groups.items():
        if kind == "free":
            overhead[where] = 0.0
    run = float((seconds + overhead).sum())
    host = _host_times(model, card, plan)
    waiting = sum(host.values())
    alone = max(card.floor_s, run + waiting)
    samples, flight = model.batch, plan.activations * model.batch
    ceilings = {
        "host link": _rate(samples, host["host link"]),
        "host": _rate(samples, host["host"]),
        "ddr": _rate(samples, totals["ddr"] * chips / busy),
        "noc": _rate(samples, totals["noc"] * chips / busy),
        "activation": _rate(flight, run),
        "in flight": _rate(flight * plan.set_size, alone),
    }
    rate = min(ceilings.values())
    parts = {**totals, "overhead": float(overhead.sum())}
    bound = _bound(ceilings, parts, host, floor=alone > run + waiting)
    latency = flight * plan.set_size / rate
    columns = (ddr_bytes, *units.values(), seconds + overhead)
    return Estimate(rate, latency, bound, ceilings, resident, samples, plan, model.unknown, model.layers, columns)


def _ddr_bytes(model: Model, card: Card, plan: Plan) -> tuple[_Vector, bool]:
    """Bytes of each layer that cross the DDR in one run, (L,), and whether the weights stay in vector memory.

    Weights that fit are loaded once, others at each run, by each group of cores that needs them unless they are multicast. What a
    layer reads and writes and does not fit beside them crosses as well. Of staying and streaming the compiler takes what moves
    less.
    """
    columns = model.columns
    room = plan.cores * card.vtcm_bytes * plan.vtcm_ratio
    kept = card.depth_first_bytes if plan.depth_first_bytes is None else plan.depth_first_bytes
    once = columns["weights"]
    if plan.mxfp6:
        once = once - np.maximum(0.0, columns["matrix_bytes"] - columns["matrix"] * card.mxfp6_bits / 8)
    weights = once * plan.copies

    def spilled(free: _Vector | float) -> _Vector:
        return np.maximum(0.0, columns["moved"] - np.maximum(0.0, free) - kept)

    streamed: _Vector = once * (1 if plan.multicast else plan.copies) + spilled(room - weights)
    whole = float((weights * columns["first"]).sum())
    stays: _Vector = spilled(room - whole)
    resident = bool(whole <= room and stays.sum() <= streamed.sum())
    return columns["gathered"] + (stays if resident else streamed), resident


def _unit_times(model: Model, plan: Plan, card: Card, ddr_bytes: _Vector, chips: int) -> dict[str, _Vector]:
    """Seconds of each layer on each unit, (L,): the longest run of one activation that has its chips for itself."""
    columns = model.columns
    times = {name: np.zeros(len(model.layers)) for name in ("compute", "vector")}
    for (precision, kind), where in model.groups.items():
        if kind in TENSOR_KINDS:
            unit = "vector" if precision == "float32" else "compute"
            times[unit][where] = columns["macs"][where] / (plan.cores * card.macs_per_s(precision, kind))
        elif kind != "convert" or not plan.host_preproc:
            times["vector"][where] = columns["vector"][where] / (plan.cores * card.vector_per_s(precision))
    times["ddr"] = ddr_bytes / (card.ddr_efficiency * card.ddr_bytes_per_s * chips / card.chips)
    times["noc"] = columns["exchanged"] * (1 - 1 / plan.mos) / (card.noc_bytes_per_s * chips)
    times["noc"] += columns["exchanged"] * (1 - 1 / card.cards) / card.between_bytes_per_s
    return times


def _layer_times(units: Mapping[str, _Vector], plan: Plan) -> _Vector:
    """Seconds of each layer, (L,): a pipeline of ``ols`` pieces through the units.

    With producer DMA the exchange begins as soon as values are made, so that it is hidden behind the other units.
    """
    hidden = units["noc"] if plan.producer_dma else np.zeros_like(units["noc"])
    stages = np.stack([times for name, times in units.items() if name != "noc" or not plan.producer_dma])
    longest: _Vector = stages.max(axis=0)
    found: _Vector = np.maximum(hidden, longest + (stages.sum(axis=0) - longest) / plan.ols)
    return found


def _host_times(model: Model, card: Card, plan: Plan) -> dict[str, float]:
    """Seconds of one run on the host link, in conversions by the host, and to set up transfers."""
    crossing = sum(port.stored if plan.host_preproc else port.native for port in model.ports)
    converted = sum(port.native for port in model.ports if port.native != port.stored) if plan.host_preproc else 0
    inputs = sum(port.is_input for port in model.ports)
    outputs = len(model.ports) - inputs
    transfers = min(inputs, 1 if plan.combine_inputs else inputs) + min(outputs, 1 if plan.combine_outputs else outputs)
    return {
        "host link": crossing / card.link_bytes_per_s,
        "host": converted / card.host_bytes_per_s,
        "transfers": transfers * card.transfer_s,
    }


def _rate(samples: float, seconds: float) -> float:
    return samples / seconds if seconds else math.inf


def _bound(ceilings: Mapping[str, float], parts: Mapping[str, float], host: Mapping[str, float], *, floor: bool) -> str:
    """What limits the rate: a shared resource, or the largest part of the time that one run takes."""
    lowest = min(ceilings, key=ceilings.__getitem__)
    if lowest == "in flight" and floor:
        return "floor"
    if lowest in ("activation", "in flight"):
        found = parts if lowest == "activation" else {**parts, **host}
        return max(found, key=found.__getitem__)
    return lowest
