"""Constants that are read in several roles: exporters merge equal ones, but a bias, a weight and an addend cannot share a grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import attrs

from npukit.backend import Rules, is_weight
from npukit.encoding import Encoding
from npukit.graph import Graph, Node

_Role: TypeAlias = tuple[str | int, ...]


@attrs.frozen(eq=False)
class Copies:
    """A graph with one constant per role. ``names`` maps each constant that was shared to itself and its copies, ``biases`` are
    those of them that are biases.
    """

    graph: Graph
    names: Mapping[str, tuple[str, ...]]
    biases: frozenset[str]

    def spread(self, given: Mapping[str, Encoding]) -> dict[str, Encoding]:
        """Encodings that name a shared constant, for the roles that they fit: int32 for biases, other types for the rest."""
        found = dict(given)
        for name, every in self.names.items():
            encoding = found.pop(name, None)
            if encoding is not None:
                found |= {n: encoding for n in every if (n in self.biases) == (encoding.dtype == "int32")}
        return found


def copy_per_role(graph: Graph, rules: Rules) -> Copies:
    """The graph with a copy of every float constant for each role but the first that it is read in.

    The roles are those of the op constraints. A bias has one per node, as its scale follows from that node's input and weight; a
    weight one per axis of its channels; whatever else is data. Copies share the values of the original and are named after their
    reader.
    """
    roles: dict[str, dict[_Role, str]] = {}
    originals: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        inputs = list(node.inputs)
        for index, name in enumerate(inputs):
            if not name or not graph.tensor(name).is_constant or not graph.tensor(name).is_float:
                continue
            known, role = roles.setdefault(name, {}), _role(rules, node, index)
            if role not in known:
                known[role] = _free_name(f"{name}:{node.name}", graph, originals) if known else name
                originals |= {known[role]: name} if len(known) > 1 else {}
            inputs[index] = known[role]
        nodes.append(node if tuple(inputs) == node.inputs else attrs.evolve(node, inputs=tuple(inputs)))
    shared = {name: found for name, found in roles.items() if len(found) > 1}
    names = {name: tuple(found.values()) for name, found in shared.items()}
    biases = frozenset(n for found in shared.values() for role, n in found.items() if role[0] == "bias")
    if not originals:
        return Copies(graph, names, biases)
    origins = {**graph.origin_names, **{copy: graph.origin_names.get(name, (name,)) for copy, name in originals.items()}}
    tensors = [attrs.evolve(graph.tensor(name), name=copy) for copy, name in originals.items()]
    return Copies(graph.evolve(nodes=tuple(nodes), origin_names=origins).with_tensors(tensors), names, biases)


def _free_name(name: str, graph: Graph, taken: Mapping[str, str]) -> str:
    while name in graph.tensors or name in taken:
        name += "'"
    return name


def _role(rules: Rules, node: Node, index: int) -> _Role:
    ports = [port for row in rules.of_op(node) if (port := row.input_port(index)) is not None]
    if any(port.derived or port.bias for port in ports):
        return "bias", node.name
    axes = sorted({-1 if port.axis is None else port.axis for port in ports if is_weight(port)})
    return ("weight", *axes) if axes else ("data",)
