"""A model that is split over several cards.

A partition on several cards has its weights split over all their cores: what layers with weights read is exchanged over the links
between the cards. Partitions run one after another, each on its next batch meanwhile: the slowest one sets the rate, and what one
makes for the next crosses a link.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from npukit.graph import Graph, subgraph
from npukit_aic.speed.card import Card
from npukit_aic.speed.estimate import Estimate, solve
from npukit_aic.speed.plan import read_plan
from npukit_aic.speed.work import Model


def estimate_partitions(
    graph: Graph, count: Callable[[Graph], Model], partitions: Mapping[str, Any], card: Card, settings: Mapping[str, Any]
) -> Estimate:
    """How fast cards like ``card`` run ``graph`` together; ``partitions`` are those that the compiler keeps in the manifest, and
    ``count`` counts the work in a part of the graph.

    The estimate is that of the slowest partition, with the latency of all.
    """
    direct = {device for link in partitions["links"] for device in link}
    found = []
    for part, nodes in zip(partitions["parts"], _nodes(graph, partitions["parts"]), strict=True):
        devices = {int(device): int(cores) for device, cores in part["devices"].items()}
        joined = _joined(card, len(devices), is_direct=direct.issuperset(devices))
        plan = read_plan({**settings, "aic_num_cores": sum(devices.values())}, joined.cores)
        found.append(solve(count(_cut(graph, nodes)), joined, plan))
    slowest = min(found, key=lambda one: one.rate)
    return attrs.evolve(slowest, latency=sum(one.latency for one in found))


def _joined(card: Card, count: int, *, is_direct: bool) -> Card:
    """``count`` cards as one; without a direct connection what they exchange crosses the host link twice."""
    if count == 1:
        return card
    whole = ("cores", "chips", "float16_ops_per_s", "int8_ops_per_s", "ddr_bytes_per_s")
    crossing = card.link_bytes_per_s if is_direct else card.link_bytes_per_s / 2
    return attrs.evolve(card, cards=count, between_bytes_per_s=crossing, **{name: getattr(card, name) * count for name in whole})


def _nodes(graph: Graph, parts: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The places of the nodes of each partition. A node that was put together or made by the compiler goes where the first of its
    origins is, else where its first input is made."""
    if len(parts) == 1:
        return [list(range(len(graph.nodes)))]
    home = {name: index for index, part in enumerate(parts) for name in part["nodes"]}
    places: list[list[int]] = [[] for _ in parts]
    for place, node in enumerate(graph.nodes):
        names = (node.name, *node.outputs, *graph.origin_names.get(node.name, ()), *node.inputs)
        index = next((home[name] for name in names if name in home), 0)
        home |= dict.fromkeys(node.outputs, index)
        places[index].append(place)
    return places


def _cut(graph: Graph, places: Sequence[int]) -> Graph:
    """The part of a graph with some of its nodes, by place."""
    if len(places) == len(graph.nodes):
        return graph
    nodes = [graph.nodes[place] for place in places]
    made = {name for node in nodes for name in node.outputs if name}
    read = dict.fromkeys(name for node in nodes for name in node.inputs if name and name not in made)
    inside = {node.name for node in nodes}
    outside = {name for node in graph.nodes if node.name not in inside for name in node.inputs}
    outputs = [name for name in made if name in outside or name in graph.outputs]
    return subgraph(graph, [name for name in read if not graph.is_constant(name)], outputs)
