"""The partition file of several devices (JSON): which cards a model runs on, and which nodes on which card.

Format: https://quic.github.io/cloud-ai-sdk-pages/, model partitioning. It changes no result.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from npukit.errors import UsageError, did_you_mean
from npukit.graph import Graph, write_atomic
from npukit_aic.files.entries import kind, mapping, read_json, sequence

WHAT = "partition file"


@attrs.frozen
class Partition:
    """Part of a model on ``devices`` (id -> cores); ``nodes`` are names of nodes, empty: all of them."""

    name: str
    devices: Mapping[int, int]
    nodes: tuple[str, ...] = ()


@attrs.frozen
class Partitions:
    """``links``: the groups of devices that reach one another without the host."""

    parts: tuple[Partition, ...]
    links: tuple[tuple[int, ...], ...] = ()


def read_partitions(path: Path, graph: Graph, *, devices: Collection[int], cores: int) -> Partitions:
    """What a file says, for a machine with ``devices`` of ``cores`` cores each and the nodes of ``graph``.

    Raises UsageError for a device that is not there, more cores than it has, and node lists that do not cover every node once.
    """
    where = f"{WHAT} {path}"
    document = mapping(read_json(path, WHAT), where, ("connections", "partitions"), needs=("partitions",))
    raw = sequence(document["partitions"], f"{where}: partitions", "partitions")
    if not raw:
        raise UsageError(f"{where}: partitions is empty, there is at least one")
    parts = tuple(_part(part, f"{where}, partitions[{i}]", devices, cores) for i, part in enumerate(raw))
    _check_nodes(parts, graph, where)
    links = [_link(link, f"{where}, connections[{i}]", devices) for i, link in enumerate(_connections(document, where))]
    return Partitions(parts, tuple(links))


def _connections(document: Mapping[str, Any], where: str) -> Sequence[Any]:
    return sequence(document.get("connections"), f"{where}: connections", "connections")


def _part(value: Any, where: str, devices: Collection[int], cores: int) -> Partition:
    found = mapping(value, where, ("name", "devices", "nodeList"), needs=("name", "devices"))
    given: dict[int, int] = {}
    for index, raw in enumerate(sequence(found["devices"], f"{where}: devices", "devices")):
        place = f"{where}, devices[{index}]"
        entry = mapping(raw, place, ("deviceId", "numCores"), needs=("deviceId", "numCores"))
        device = _device(entry["deviceId"], place, devices)
        if device in given:
            raise UsageError(f"{place}: device {device} is there twice")
        count = entry["numCores"]
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= cores:
            raise UsageError(f"{place}: numCores of device {device} is 1..{cores}, found {kind(count)}")
        given[device] = count
    if not given:
        raise UsageError(f"{where}: devices is empty, there is at least one")
    nodes = sequence(found.get("nodeList"), f"{where}: nodeList", "names of nodes")
    return Partition(str(found["name"]), given, tuple(map(str, nodes)))


def _device(value: Any, where: str, devices: Collection[int]) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value not in devices:
        hint = f"NPUKIT_AIC_DEVICES sets the number of cards, now {len(devices)}"
        raise UsageError(f"{where}: there is no device {kind(value)}", hint=hint)
    return value


def _link(value: Any, where: str, devices: Collection[int]) -> tuple[int, ...]:
    found = mapping(value, where, ("devices", "type"), needs=("devices", "type"))
    if found["type"] != "p2p":
        raise UsageError(f"{where}: type is p2p, found '{found['type']}'", hint="leave the connection out to go through the host")
    return tuple(_device(d, where, devices) for d in sequence(found["devices"], f"{where}: devices", "ids"))


def _check_nodes(parts: Sequence[Partition], graph: Graph, where: str) -> None:
    if not any(part.nodes for part in parts):
        if len(parts) > 1:
            raise UsageError(f"{where}: {len(parts)} partitions without a nodeList", hint="say which nodes each of them has")
        return
    # A node without a name in the file is known by its first output.
    keys = {key: node.outputs[0] for node in graph.nodes for key in (node.outputs[0], node.name)}
    for part in parts:
        for name in part.nodes:
            if name not in keys:
                raise UsageError(f"{where}, '{part.name}': the model has no node '{name}'", hint=did_you_mean(name, keys))
    counts = Counter(keys[name] for part in parts for name in part.nodes)
    wrong = next((node for node in graph.nodes if counts[node.outputs[0]] != 1), None)
    if wrong is not None:
        times = counts[wrong.outputs[0]]
        raise UsageError(f"{where}: node '{wrong.name}' ({wrong.op}) is in {times} node lists", hint="each is in one of them")


def write_partition_template(path: Path, graph: Graph, cores: int) -> None:
    """Write a file with all nodes on ``cores`` cores of device 0."""
    nodes = [node.name for node in graph.nodes]
    parts = [{"name": "Partition0", "devices": [{"deviceId": 0, "numCores": cores}], "nodeList": nodes}]
    write_atomic(path, [json.dumps({"connections": [], "partitions": parts}, indent=1).encode() + b"\n"])
