"""contract.json: what the nodes of a package compute in, what callers hand over, and the sizes it runs with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from npukit.backend import Edge
from npukit.errors import NpukitError, PackageError
from npukit.graph import Graph

_TYPES = frozenset({"int", "float16", "float32"})
_MOST_BINDINGS = 1024
NO_CONTRACT: Mapping[str, Any] = {"types": {}, "edges": {}, "bindings": []}
"""That of a package of format version 1, which has none."""


def contract_to_json(
    types: Mapping[str, str], edges: Mapping[str, Edge], bindings: tuple[Mapping[str, int], ...]
) -> dict[str, Any]:
    """The content of contract.json."""
    return {"types": dict(types), "edges": {n: attrs.asdict(e) for n, e in edges.items()}, "bindings": [dict(b) for b in bindings]}


def contract_from_json(data: Any, graph: Graph) -> tuple[dict[str, str], dict[str, Edge], tuple[dict[str, int], ...]]:
    """Types, edges and bindings. Raises PackageError for content of another form, or that does not fit the graph."""
    if not isinstance(data, dict) or set(data) != {"types", "edges", "bindings"}:
        raise PackageError("contract.json must hold types, edges and bindings")
    types, edges, bindings = data["types"], data["edges"], data["bindings"]
    if not isinstance(types, dict) or not isinstance(edges, dict) or not isinstance(bindings, list):
        raise PackageError("contract.json: types and edges are objects, bindings a list")
    nodes = {node.name for node in graph.nodes}
    for node, dtype in types.items():
        if node not in nodes or dtype not in _TYPES:
            raise PackageError(f"contract.json: node '{node[:80]}' computes in '{str(dtype)[:40]}'")
    return (
        types,
        {name: _edge(name, entry, graph) for name, entry in edges.items()},
        tuple(_binding(b) for b in bindings[:_MOST_BINDINGS]),
    )


def _edge(name: str, entry: Any, graph: Graph) -> Edge:
    if name not in (*graph.inputs, *graph.outputs):
        raise PackageError(f"contract.json: '{name[:80]}' is no input or output of the model")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "layout"} or not all(isinstance(v, str) for v in entry.values()):
        raise PackageError(f"contract.json: the edge '{name[:80]}' must have a dtype and a layout")
    try:
        return Edge(**entry)
    except NpukitError as error:
        raise PackageError(f"contract.json: the edge '{name[:80]}': {error.message}") from None


def _binding(entry: Any) -> dict[str, int]:
    if not isinstance(entry, dict) or not all(type(size) is int and size > 0 for size in entry.values()):
        raise PackageError("contract.json: a binding gives symbols sizes above 0")
    return entry
