"""The estimate in the form of ``npukit bench``: one row per node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from npukit.backend import OpCost, Soc, count_costs
from npukit.encoding import Encoding
from npukit.graph import Graph
from npukit_aic.speed.estimate import estimate


def op_costs(
    graph: Graph, encodings: Mapping[str, Encoding], types: Mapping[str, str], soc: Soc, settings: Mapping[str, Any]
) -> tuple[OpCost, ...]:
    """The cost of every node in one run of one activation: counts as on any chip, with microseconds and DDR bytes of this one.

    Conversions of inputs and outputs have no node and are left out.
    """
    found = estimate(graph, encodings, types, soc, settings)
    return tuple(
        cost if row.work.macs is None else attrs.evolve(cost, ddr_bytes=round(row.ddr_bytes), us=row.seconds * 1e6)
        for cost, row in zip(count_costs(graph, encodings), found.rows[: len(graph.nodes)], strict=True)
    )
