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
    batch to its result, with ``set_size`` of them in flight; ``bound`` names what limits the rate: "host link", "ddr", "noc",
    "compute", "vector", "overhead" or "floor"; ``ceilings`` has the rate that each resource alone would allow. ``resident``:
    whether the weights stay in vector memory. ``unknown``: nodes whose work is not known, so that ``rate`` is an upper bound.
    """

    rows: tuple[Row, ...]
    rate: float
    latency: float
    bound: str
    ceilings: Mapping[str, float]
    resident: bool
    batch: int
    plan: Plan
    unknown: tuple[str, ...]


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
    overhead = np.where([layer.kind == "free" for layer in model.layers], 0.0, plan.ols * card.overhead_s)
    run = float((seconds + overhead).sum())
    link, host = _host_times(model, card, plan)
    alone = max(card.floor_s, run + host)
    samples, flight = model.batch, plan.activations * model.batch
    ceilings = {
        "host link": _rate(samples, link),
        "ddr": _rate(samples, totals["ddr"] * chips / busy),
        "noc": _rate(samples, totals["noc"] * chips / busy),
        "activation": _rate(flight, run),
        "in flight": _rate(flight * plan.set_size, alone),
    }
    rate = min(ceilings.values())
    parts = {**totals, "overhead": float(overhead.sum())}
    bound = _bound(ceilings, parts, host, floor=alone > run + host)
    columns = (ddr_bytes, *units.values(), seconds + overhead)
    rows = tuple(Row(layer, *numbers) for layer, *numbers in zip(model.layers, *(c.tolist() for c in columns), strict=True))
    latency = flight * plan.set_size / rate
    return Estimate(rows, rate, latency, bound, ceilings, resident, samples, plan, model.unknown)


def _ddr_bytes(model: Model, card: Card, plan: Plan) -> tuple[_Vector, bool]:
    """Bytes of each layer that cross the DDR in one run, (L,), and whether the weights stay in vector memory.

    Weights that fit are loaded once, others at each run, by each group of cores that needs them unless they are multicast. What a
    layer reads and writes and does not fit beside them crosses as well. Of staying and streaming the compiler takes what moves
    less.
    """
    columns = model.columns
    room = plan.cores * card.vtcm_bytes * plan.vtcm_ratio
    kept = card.depth_first_bytes if plan.depth_first_bytes is None else plan.depth_first_bytes
    weights = columns["weights"] * plan.copies

    def spilled(free: _Vector | float) -> _Vector:
        return np.maximum(0.0, columns["moved"] - np.maximum(0.0, free) - kept)

    streamed: _Vector = columns["weights"] * (1 if plan.multicast else plan.copies) + spilled(room - weights)
    stays: _Vector = spilled(room - weights.sum())
    resident = bool(weights.sum() <= room and stays.sum() <= streamed.sum())
    return columns["gathered"] + (stays if resident else streamed), resident


def _unit_times(model: Model, plan: Plan, card: Card, ddr_bytes: _Vector, chips: int) -> dict[str, _Vector]:
    """Seconds of each layer on each unit, (L,): the longest run of one activation that has its chips for itself."""
    pairs = [(layer.precision, layer.kind) for layer in model.layers]
    macs = {pair: card.macs_per_s(*pair) for pair in set(pairs)}
    vector = {precision: card.vector_per_s(precision) for precision, _ in pairs}
    products = model.columns["macs"] * [kind in TENSOR_KINDS for _, kind in pairs]
    t_products: _Vector = products / plan.cores / [macs[pair] for pair in pairs]
    t_vector: _Vector = model.columns["vector"] / plan.cores / [vector[precision] for precision, _ in pairs]
    if plan.host_preproc:
        t_vector = np.where([kind == "convert" for _, kind in pairs], 0.0, t_vector)
    wide = np.array([precision == "float32" for precision, _ in pairs])
    exchanged = model.columns["exchanged"] * (1 - 1 / plan.mos)
    return {
        "compute": np.where(wide, 0.0, t_products),
        "vector": t_vector + np.where(wide, t_products, 0.0),
        "ddr": ddr_bytes / (card.ddr_efficiency * card.ddr_bytes_per_s * chips / card.chips),
        "noc": exchanged / (card.noc_bytes_per_s * chips),
    }


def _layer_times(units: Mapping[str, _Vector], plan: Plan) -> _Vector:
    """Seconds of each layer, (L,): a pipeline of ``ols`` pieces through the units.

    With producer DMA the exchange begins as soon as values are made, so that it is hidden behind the other units.
    """
    hidden = units["noc"] if plan.producer_dma else np.zeros_like(units["noc"])
    stages = np.stack([times for name, times in units.items() if name != "noc" or not plan.producer_dma])
    longest: _Vector = stages.max(axis=0)
    found: _Vector = np.maximum(hidden, longest + (stages.sum(axis=0) - longest) / plan.ols)
    return found


def _host_times(model: Model, card: Card, plan: Plan) -> tuple[float, float]:
    """Seconds of the host link in one run, and of all that the host does for it: transfers, and conversions with host_preproc."""
    crossing = sum(port.stored if plan.host_preproc else port.native for port in model.ports)
    inputs = sum(port.is_input for port in model.ports)
    outputs = len(model.ports) - inputs
    transfers = min(inputs, 1 if plan.combine_inputs else inputs) + min(outputs, 1 if plan.combine_outputs else outputs)
    converted = sum(port.native for port in model.ports if port.native != port.stored) if plan.host_preproc else 0
    link = crossing / card.link_bytes_per_s
    return link, link + transfers * card.transfer_s + converted / card.host_bytes_per_s


def _rate(samples: float, seconds: float) -> float:
    return samples / seconds if seconds else math.inf


def _bound(ceilings: Mapping[str, float], parts: Mapping[str, float], host: float, *, floor: bool) -> str:
    """What limits the rate: a shared resource, or the largest part of the time that one run takes."""
    lowest = min(ceilings, key=ceilings.__getitem__)
    if lowest == "activation":
        return max(parts, key=parts.__getitem__)
    if lowest == "in flight":
        return "floor" if floor else max({**parts, "host link": host}.items(), key=lambda item: item[1])[0]
    return lowest
