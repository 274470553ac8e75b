"""Models that are split over several cards."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from npukit.graph import Graph, Node, make_graph
from npukit_aic import speed
from npukit_aic.backend import AicBackend
from npukit_aic.speed.partitions import estimate_partitions


def network(width: int = 2048, depth: int = 32) -> Graph:
    """``depth`` products of (64, width) with (width, width): much work between small ends."""
    weights = {f"w{i}": np.broadcast_to(np.float32(0), (width, width)) for i in range(depth)}
    names = ["x", *(f"h{i}" for i in range(1, depth)), "y"]
    nodes = [Node("MatMul", f"m{i}", (names[i], f"w{i}"), (names[i + 1],), {}) for i in range(depth)]
    return make_graph(nodes, {"x": ("float32", (64, width))}, ["y"], weights)


FIRST, LAST = ([f"m{i}" for i in places] for places in (range(16), range(16, 32)))


def estimated(parts: list[dict[str, Any]], links: list[list[int]] | None = None) -> speed.Estimate:
    graph = network()
    count = partial(speed.model_of, encodings={}, types={n.name: "float16" for n in graph.nodes})
    card = speed.card_of(AicBackend().soc("Standard"))
    return estimate_partitions(graph, count, {"parts": parts, "links": links or []}, card, {"set_size": 10})


def part(devices: dict[int, int], *nodes: str) -> dict[str, Any]:
    return {"name": "p", "devices": devices, "nodes": nodes}


def test_two_cards_share_the_weights() -> None:
    """They are faster than one, slower than two of them would be without a link, and faster with a direct one."""
    one = estimated([part({0: 14})])
    host, direct = (estimated([part({0: 14, 1: 14})], links) for links in ([], [[0, 1]]))
    assert one.rate < host.rate < direct.rate < 2 * one.rate


def test_partitions_run_one_after_another() -> None:
    """Half of the model on each card: the rate is that of the slower half, the latency that of both."""
    whole = estimated([part({0: 2})])
    halves = estimated([part({0: 2}, *FIRST), part({1: 2}, *LAST)])
    uneven = estimated([part({0: 1}, *FIRST), part({1: 2}, *LAST)])
    assert whole.rate < uneven.rate < halves.rate
    assert uneven.latency > halves.latency
    assert halves.latency == pytest.approx(2 * 10 * 64 / halves.rate, rel=0.3)
