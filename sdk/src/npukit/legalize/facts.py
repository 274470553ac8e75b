"""What the search asks about nodes, rows and tensors."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

import attrs

from npukit.backend import OpConstraint, Port, Problem, Rules
from npukit.backend.ports import input_ports, output_ports, port_tensor, takes_plain_integers
from npukit.encoding import Conflict, Encoding
from npukit.graph import Graph, Node
from npukit.legalize.price import FREE, Cost, add_up, candidates, is_grid, kept, price, same

# What the encoding of one tensor can mend, and what takes several.
ALONE = frozenset({"dtype", "granularity", "axis", "symmetric", "fixed-grid"})


TOGETHER = frozenset({"same-grid", "derived"})


Demand = tuple[int, int, str]  # what row (second) of node (first) demands of a tensor


class Facts:
    """What the search asks about nodes, rows and tensors, each answer being worked out once."""

    def __init__(
        self,
        rules: Rules,
        graph: Graph,
        encodings: Mapping[str, Encoding],
        conflicts: Iterable[Conflict],
        stated: Iterable[tuple[str, str]],
        float_fallback: bool,
    ) -> None:
        self.graph, self.encodings, self.stated = graph, encodings, tuple(stated)
        self.scheme = rules.backend.scheme(rules.soc)
        self._rules, self._float_fallback = rules, float_fallback
        # The float tensors of each node.
        self.floats = [
            [n for n in dict.fromkeys((*node.inputs, *node.outputs)) if n and graph.tensor(n).is_float] for node in graph.nodes
        ]
        self._alone = [graph.evolve(nodes=(node,)) for node in graph.nodes]
        self._only: dict[int, Rules] = {}
        self._problems: dict[object, tuple[Problem, ...]] = {}
        self._settled: dict[object, tuple[Cost, Encoding | None] | None] = {}
        self._biases: dict[object, Encoding | None] = {}
        self.readers: dict[str, list[int]] = {name: [] for pair in self.stated for name in pair}
        for index, node in enumerate(graph.nodes):
            for name in {n for n in (*node.inputs, *node.outputs) if n}:
                self.readers.setdefault(name, []).append(index)
        self.rows = [self._possible(index) for index in range(len(graph.nodes))]
        self.ports = [[named_ports(node, row) for row in self.rows[index]] for index, node in enumerate(graph.nodes)]
        self.ties = [[tied_pairs(node, row) for row in self.rows[index]] for index, node in enumerate(graph.nodes)]
        # Errors and warnings by the row that each node misses by least.
        self._before = [
            min((count_findings(self._judge(index, row, self._with(index, {}))) for row in rows), default=(0, 0))
            for index, rows in enumerate(self.rows)
        ]
        for index in self._broken(conflicts):
            self._before[index] = 1, 0
        self._tied = {n for ties in self.ties for pairs in ties for pair in pairs for n in pair}
        self._tied |= {name for pair in self.stated for name in pair}

    def node(self, index: int) -> Node:
        return self.graph.nodes[index]

    def legal(self, index: int, changed: Mapping[str, Encoding | None]) -> bool:
        """Whether a node has no error and no more warnings than it had; one that nothing can mend counts as legal."""
        rows = range(len(self.rows[index]))
        return not rows or any(self.verdict(index, row, changed) == 0 for row in rows)

    def refused(self) -> list[int]:
        """The nodes with errors that encodings may mend."""
        return [index for index, (errors, _) in enumerate(self._before) if errors]

    def verdict(self, index: int, row: int, changed: Mapping[str, Encoding | None]) -> int | None:
        """How many warnings a node gets by a row that it did not have; None when the row does not accept it."""
        errors, warnings = count_findings(self._judge(index, self.rows[index][row], self._with(index, changed)))
        return None if errors else max(0, warnings - self._before[index][1])

    def refusal(self, demand: Demand, encoding: Encoding | None) -> str:
        """The rule by which a port refuses an encoding of its tensor, "" when it takes it."""
        index, row, name = demand
        given = {} if encoding is None else {name: encoding}
        found = self._judge(index, self.rows[index][row], given)
        return next((p.rule for p in found if p.severity == "error" and p.tensor == name and p.rule in ALONE), "")

    def settle(self, members: tuple[str, ...], demands: tuple[Demand, ...]) -> tuple[Cost, Encoding | None] | None:
        """The least cost of a group of tied tensors, and its encoding (meaningless when it costs nothing); None: no way."""
        key = (members, demands)
        if key not in self._settled:
            self._settled[key] = self._settle(members, demands)
        return self._settled[key]

    def bias(self, name: str, x: Encoding | None, w: Encoding | None) -> Encoding | None:
        key = (name, x, w)
        if key not in self._biases:
            self._biases[key] = self.scheme.bias(x, w, self.graph.tensor(name))
        return self._biases[key]

    def least(self, demand: Demand) -> Cost:
        """A lower bound of what a tensor costs for a demand, whatever else is demanded of it."""
        name, current = demand[2], self.encodings.get(demand[2])
        if not self.refusal(demand, current):
            return FREE
        alone = self.settle((name,), (demand,)) if name not in self._tied else None
        return (0, 0, 1, kept(self.graph.tensor(name), current), 0, 0, 0.0) if alone is None else alone[0]

    def _broken(self, conflicts: Iterable[Conflict]) -> Iterator[int]:
        """The nodes whose tie is in conflict: they count as refused, even if a form without the tie accepts them with a warning."""
        for conflict in conflicts:
            chain = (conflict.tensor_a, *conflict.path, conflict.tensor_b)
            for a, b in itertools.pairwise(chain):
                for index in set(self.readers[a]) & set(self.readers[b]):
                    tied = {n for pairs in self.ties[index] for pair in pairs for n in pair}
                    if {a, b} <= tied and not same(self.encodings.get(a), self.encodings.get(b)):
                        yield index

    def _with(self, index: int, changed: Mapping[str, Encoding | None]) -> dict[str, Encoding]:
        found = {n: changed[n] if n in changed else self.encodings.get(n) for n in self.floats[index]}
        return {n: e for n, e in found.items() if e is not None}

    def _judge(self, index: int, row: OpConstraint, encodings: Mapping[str, Encoding]) -> tuple[Problem, ...]:
        """What the rules find at one node by one row."""
        key = (index, id(row), *((n, encodings.get(n)) for n in self.floats[index]))
        if key not in self._problems:
            if id(row) not in self._only:
                self._only[id(row)] = attrs.evolve(self._rules, rows={(row.domain, row.op): (row,)})
            found = self._only[id(row)].validate(self._alone[index], encodings, float_fallback=self._float_fallback)
            self._problems[key] = tuple(p for p in found if p.rule != "dynamic-shape")
        return self._problems[key]

    def _possible(self, index: int) -> tuple[OpConstraint, ...]:
        """The rows of a node's op that refuse it, if they do, for reasons that encodings can mend.

        A row for plain integers, which lists types that no encoding has (int64, bool), says nothing about encoded tensors.
        """
        node, encoded = self.node(index), {n for n in self.floats[index] if is_grid(self.encodings.get(n))}

        def mendable(problem: Problem) -> bool:
            return problem.rule in ALONE | TOGETHER and self.graph.tensor(problem.tensor).is_float

        def plain(row: OpConstraint) -> bool:
            return any(name in encoded and takes_plain_integers(port) for name, port in named_ports(node, row))

        rows = [row for row in self._rules.of_op(node) if not plain(row)]
        found = [(row, self._judge(index, row, self._with(index, {}))) for row in rows]
        return tuple(row for row, problems in found if all(mendable(p) for p in problems if p.severity == "error"))

    def _settle(self, members: tuple[str, ...], demands: tuple[Demand, ...]) -> tuple[Cost, Encoding | None] | None:
        tensors = [self.graph.tensor(name) for name in members]
        before = [self.encodings.get(name) for name in members]
        if all(same(before[0], e) for e in before) and not any(self.refusal(d, self.encodings.get(d[2])) for d in demands):
            return FREE, None
        best: tuple[Cost, Encoding | None] | None = None
        for encoding in candidates(self.scheme, tensors, before, [port for d in demands for port in self._ports(d)]):
            costs = [price(t, e, encoding) for t, e in zip(tensors, before, strict=True)]
            cost = add_up(c for c in costs if c is not None)
            better = best is None or cost < best[0]
            if better and None not in costs and not any(self.refusal(d, encoding) for d in demands):
                best = cost, encoding
        return best

    def _ports(self, demand: Demand) -> list[Port]:
        index, row, name = demand
        return [port for n, port in self.ports[index][row] if n == name]


def count_findings(problems: Iterable[Problem]) -> tuple[int, int]:
    """Errors, and other findings."""
    errors = [p.severity == "error" for p in problems]
    return sum(errors), len(errors) - sum(errors)


def named_ports(node: Node, row: OpConstraint) -> list[tuple[str, Port]]:
    return [*input_ports(node, row), *output_ports(node, row)]


def tied_pairs(node: Node, row: OpConstraint) -> list[tuple[str, str]]:
    """The pairs of tensors that a row ties to one grid."""
    pairs = [(n, port_tensor(node, port.same_as)) for n, port in named_ports(node, row) if port.same_as and not port.soft]
    return [(a, b) for a, b in pairs if b]
