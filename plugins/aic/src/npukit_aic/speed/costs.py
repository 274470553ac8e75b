"""The estimate in the form of ``npukit bench``: one row per node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from npukit.backend import OpCost, Soc, count_costs
from npukit.encoding import Encoding
from npukit.graph import Graph
from npukit_aic.speed.card import card_of
from npukit_aic.speed.estimate import estimate
from npukit_aic.speed.work import stored


def op_costs(
    graph: Graph, encodings: Mapping[str, Encoding], types: Mapping[str, str], soc: Soc, settings: Mapping[str, Any]
) -> tuple[OpCost, ...]:
    """The cost of every node in one run of one activation: counts as on any chip, with microseconds and DDR bytes of this one.

    Conversions of inputs and outputs have no node and are left out.
    """
    card, found = card_of(soc), estimate(graph, encodings, types, soc, settings)
    room = found.plan.cores * card.vtcm_bytes * found.plan.vtcm_ratio
    costs = count_costs(graph, stored(graph, encodings, types))
    return tuple(
        cost
        if cost.bytes is None or row.work.macs is None
        else attrs.evolve(cost, fits=cost.bytes <= room, ddr_bytes=round(row.ddr_bytes), us=row.seconds * 1e6)
        for cost, row in zip(costs, found.rows[: len(graph.nodes)], strict=True)
    )
