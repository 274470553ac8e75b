"""The smallest change of encodings that the op constraints accept.

A node is legal when one row of its op accepts all its ports. Once a row is chosen for a node, each of its tensors must meet the
demand of its port, tensors tied by ``same_as`` form a group, and groups are settled one by one: a group keeps its grids, or takes
the one that changes least. So the search is over rows: A* (P. Hart, N. Nilsson, B. Raphael, "A formal basis for the heuristic
determination of minimum cost paths", 1968) from the refused nodes outwards; a node joins when a change reaches it and makes it
illegal. What the nodes still to come will cost is bounded from below by what their ports cost alone, each tensor being charged to
one node only. A search that takes too long becomes a beam search.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping

import attrs
import numpy as np

from npukit.backend import OpConstraint, Port, Problem, Rules, Scheme, port_axis
from npukit.backend.ports import input_ports, output_ports, port_tensor, takes_plain_integers
from npukit.encoding import FLOAT_BITS, INT_BITS, Conflict, Encoding
from npukit.graph import Graph, Node, Tensor

ORIGIN = "optimizer:legalize"
# How many choices of rows a search looks at before it only follows the most promising ones, and how many those are.
LIMIT = 4000
WIDTH = 16
# What the encoding of one tensor can mend, and what takes several.
_ALONE = frozenset({"dtype", "granularity", "axis", "symmetric", "fixed-grid"})
_TOGETHER = frozenset({"same-grid", "derived"})
_NARROW = tuple(dtype for dtype, bits in INT_BITS.items() if bits <= 16)
_LEAVE = -1  # in the place of a row: the node stays illegal

# In order of weight: nodes left illegal, new warnings, tensors changed, overrides among them, bits of width lost, signs,
# symmetries and granularities changed, and range and resolution lost.
Cost = tuple[float, ...]
FREE: Cost = (0, 0, 0, 0, 0, 0, 0.0)
_ILLEGAL: Cost = (1, 0, 0, 0, 0, 0, 0.0)
_WARNING: Cost = (0, 1, 0, 0, 0, 0, 0.0)
Demand = tuple[int, int, str]  # what row (second) of node (first) demands of a tensor
Rows = Mapping[int, int]  # node -> row, or _LEAVE


@attrs.frozen(eq=False)
class Change:
    """One tensor gets another encoding (None: the tensor's own type) because of ``rule`` at ``node``, a node of type ``op``."""

    tensor: str
    before: Encoding | None
    after: Encoding | None
    rule: str
    node: str
    op: str

    @property
    def follows(self) -> bool:
        """Whether this is a bias, whose grid follows from input and weight: such changes are not counted."""
        return self.after is not None and self.after.origin == "derived"


def repair(
    rules: Rules,
    graph: Graph,
    encodings: Mapping[str, Encoding],
    *,
    conflicts: Iterable[Conflict] = (),
    float_fallback: bool = False,
) -> tuple[tuple[Change, ...], dict[str, Encoding]]:
    """Changes that make the graph legal and mend ``conflicts``, and all encodings after them.

    Fewest tensors are changed, and no error is traded for a warning; among equal choices overrides are kept, activations before
    weights, then wide types, then sign, symmetry and granularity, then range and resolution. A bias follows from input and
    weight and is not counted. Activations stay integer or float as they are, and a new grid keeps the real range; those of
    constants are made from their data. What no encoding can mend is left as it is.
    """
    facts = _Facts(rules, graph, encodings, conflicts, float_fallback)
    changes = {c.tensor: c for rows, outcome in _solve(facts) for c in _explain(facts, rows, outcome)}
    after = _apply(encodings, changes.values())
    for change in [c for c in changes.values() if c.rule == "derived"]:
        changes |= {c.tensor: c for c in _make_room(facts.scheme, graph, change, after, changes)}
        after = _apply(encodings, changes.values())
    return tuple(changes.values()), after


def _apply(encodings: Mapping[str, Encoding], changes: Iterable[Change]) -> dict[str, Encoding]:
    found: dict[str, Encoding | None] = {**encodings, **{c.tensor: c.after for c in changes}}
    return {name: encoding for name, encoding in found.items() if encoding is not None}


def _make_room(
    scheme: Scheme, graph: Graph, change: Change, encodings: Mapping[str, Encoding], changes: Mapping[str, Change]
) -> Iterator[Change]:
    """A wider scale of the weight, and the bias that follows from it, when a new bias scale is too fine for int32."""
    node = next(n for n in graph.nodes if change.tensor in n.inputs)
    weight = node.inputs[1]
    x, w, bias = encodings[node.inputs[0]], encodings[weight], graph.tensor(change.tensor)
    wide = scheme.with_room_for_bias(x, w, bias)
    if wide is not w and len(graph.consumers[weight]) == 1:
        before = changes[weight].before if weight in changes else w
        yield Change(weight, before, wide, "derived", node.name, node.op)
        yield attrs.evolve(change, after=scheme.bias(x, wide, bias))


class _Facts:
    """What the search asks about nodes, rows and tensors, each answer being worked out once."""

    def __init__(
        self, rules: Rules, graph: Graph, encodings: Mapping[str, Encoding], conflicts: Iterable[Conflict], float_fallback: bool
    ) -> None:
        self.graph, self.encodings = graph, encodings
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
        self.readers: dict[str, list[int]] = {}
        for index, node in enumerate(graph.nodes):
            for name in {n for n in (*node.inputs, *node.outputs) if n}:
                self.readers.setdefault(name, []).append(index)
        self.rows = [self._possible(index) for index in range(len(graph.nodes))]
        self.ports = [[_named_ports(node, row) for row in self.rows[index]] for index, node in enumerate(graph.nodes)]
        self.ties = [[_ties(node, row) for row in self.rows[index]] for index, node in enumerate(graph.nodes)]
        # Errors and warnings by the row that each node misses by least.
        self._before = [
            min((_count(self._judge(index, row, self._with(index, {}))) for row in rows), default=(0, 0))
            for index, rows in enumerate(self.rows)
        ]
        for index in self._broken(conflicts):
            self._before[index] = 1, 0
        self._tied = {n for ties in self.ties for pairs in ties for pair in pairs for n in pair}

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
        errors, warnings = _count(self._judge(index, self.rows[index][row], self._with(index, changed)))
        return None if errors else max(0, warnings - self._before[index][1])

    def refusal(self, demand: Demand, encoding: Encoding | None) -> str:
        """The rule by which a port refuses an encoding of its tensor, "" when it takes it."""
        index, row, name = demand
        given = {} if encoding is None else {name: encoding}
        found = self._judge(index, self.rows[index][row], given)
        return next((p.rule for p in found if p.severity == "error" and p.tensor == name and p.rule in _ALONE), "")

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
        return (0, 0, 1, _kept(self.graph.tensor(name), current), 0, 0, 0.0) if alone is None else alone[0]

    def _broken(self, conflicts: Iterable[Conflict]) -> Iterator[int]:
        """The nodes whose tie is in conflict: they count as refused, even if a form without the tie accepts them with a warning."""
        for conflict in conflicts:
            chain = (conflict.tensor_a, *conflict.path, conflict.tensor_b)
            for a, b in itertools.pairwise(chain):
                for index in set(self.readers[a]) & set(self.readers[b]):
                    tied = {n for pairs in self.ties[index] for pair in pairs for n in pair}
                    if {a, b} <= tied and not _same(self.encodings.get(a), self.encodings.get(b)):
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
        node, encoded = self.node(index), {n for n in self.floats[index] if _is_grid(self.encodings.get(n))}

        def mendable(problem: Problem) -> bool:
            return problem.rule in _ALONE | _TOGETHER and self.graph.tensor(problem.tensor).is_float

        def plain(row: OpConstraint) -> bool:
            return any(name in encoded and takes_plain_integers(port) for name, port in _named_ports(node, row))

        rows = [row for row in self._rules.of_op(node) if not plain(row)]
        found = [(row, self._judge(index, row, self._with(index, {}))) for row in rows]
        return tuple(row for row, problems in found if all(mendable(p) for p in problems if p.severity == "error"))

    def _settle(self, members: tuple[str, ...], demands: tuple[Demand, ...]) -> tuple[Cost, Encoding | None] | None:
        tensors = [self.graph.tensor(name) for name in members]
        before = [self.encodings.get(name) for name in members]
        if all(_same(before[0], e) for e in before) and not any(self.refusal(d, self.encodings.get(d[2])) for d in demands):
            return FREE, None
        best: tuple[Cost, Encoding | None] | None = None
        for encoding in _candidates(self.scheme, tensors, before, [port for d in demands for port in self._ports(d)]):
            costs = [_price(t, e, encoding) for t, e in zip(tensors, before, strict=True)]
            cost = _sum(c for c in costs if c is not None)
            better = best is None or cost < best[0]
            if better and None not in costs and not any(self.refusal(d, encoding) for d in demands):
                best = cost, encoding
        return best

    def _ports(self, demand: Demand) -> list[Port]:
        index, row, name = demand
        return [port for n, port in self.ports[index][row] if n == name]


def _count(problems: Iterable[Problem]) -> tuple[int, int]:
    """Errors, and other findings."""
    errors = [p.severity == "error" for p in problems]
    return sum(errors), len(errors) - sum(errors)


def _named_ports(node: Node, row: OpConstraint) -> list[tuple[str, Port]]:
    return [*input_ports(node, row), *output_ports(node, row)]


def _ties(node: Node, row: OpConstraint) -> list[tuple[str, str]]:
    """The pairs of tensors that a row ties to one grid."""
    pairs = [(n, port_tensor(node, port.same_as)) for n, port in _named_ports(node, row) if port.same_as and not port.soft]
    return [(a, b) for a, b in pairs if b]


def _sum(costs: Iterable[Cost]) -> Cost:
    return tuple(sum(parts) for parts in zip(FREE, *costs, strict=True))


def _same(a: Encoding | None, b: Encoding | None) -> bool:
    return a is b or (a is not None and b is not None and a.same_grid(b))


def _kept(tensor: Tensor, before: Encoding | None) -> int:
    """What it counts to lose an override."""
    return 0 if before is None or before.origin != "override" else 1 if tensor.is_constant else 2


def _price(tensor: Tensor, before: Encoding | None, after: Encoding | None) -> Cost | None:
    """What it costs to give a tensor another encoding; None when that cannot be."""
    if _same(before, after):
        return FREE
    if not tensor.is_constant and _is_grid(before) and not _is_grid(after):
        return None
    narrower = shape = 0
    if before is not None and after is not None:
        narrower = max(0, before.bits - after.bits)
        shape = sum(x != y for x, y in zip(_shape(before), _shape(after), strict=True))
        shape += before.granularity != after.granularity  # scales per channel are worth more than sign or symmetry
    return (0, 0, 1, _kept(tensor, before), narrower, shape, _loss(tensor, before, after))


def _is_grid(encoding: Encoding | None) -> bool:
    return encoding is not None and not encoding.is_float


def _shape(encoding: Encoding) -> tuple[bool, bool, str]:
    """Sign, symmetry and granularity."""
    if encoding.is_float:
        return True, True, encoding.granularity
    middle = 0 if encoding.signed else 1 << (encoding.bits - 1)
    return encoding.signed, bool(np.all(encoding.zeros == middle)), encoding.granularity


def _loss(tensor: Tensor, before: Encoding | None, after: Encoding | None) -> float:
    """Bits of resolution lost, and 16 for a range that is lost altogether."""
    if after is None or after.is_float:
        return 0.0
    fine = float(np.log2(after.steps).mean())
    if before is None or before.is_float:  # a constant: beside a grid of 16 bits
        return fine - _log2_range(tensor) + 16
    lost = max(0.0, fine - float(np.log2(before.steps).mean()))
    if tensor.is_constant:
        return lost
    low, high = float(before.min.min()), float(before.max.max())
    covered = max(0.0, min(high, float(after.max.max())) - max(low, float(after.min.min())))
    return lost + 16 * (1 - covered / (high - low))


def _log2_range(tensor: Tensor) -> float:
    data = tensor.data
    whole = 0.0 if data is None else float(data.max(initial=0) - data.min(initial=0))
    return float(np.log2(whole or 1.0))


def _candidates(
    scheme: Scheme, tensors: list[Tensor], before: list[Encoding | None], ports: list[Port]
) -> Iterator[Encoding | None]:
    """The encodings that a group of tied tensors might take; whether the ports accept them is for the rules to say."""
    yield from before
    limits = [port.dtypes for port in ports if port.dtypes]
    dtypes = [d for d in (*_NARROW, *FLOAT_BITS) if all(d in allowed for allowed in limits)]
    for dtype in dtypes:
        if dtype in FLOAT_BITS:
            yield None if dtype == tensors[0].dtype else Encoding(dtype, origin=ORIGIN)
            continue
        for port in ports:
            if dtype in port.fixed:
                yield Encoding(dtype, *port.fixed[dtype], origin="fixed")
        for tensor, encoding in zip(tensors, before, strict=True):
            if tensor.is_constant:
                yield from _weight_grids(scheme, tensor, encoding, dtype, ports)
            elif encoding is not None and not encoding.is_float and encoding.granularity == "tensor":
                for symmetric in (False, True):
                    yield scheme.activation(float(encoding.min), float(encoding.max), dtype, symmetric=symmetric, origin=ORIGIN)


def _weight_grids(scheme: Scheme, tensor: Tensor, before: Encoding | None, dtype: str, ports: list[Port]) -> Iterator[Encoding]:
    data = tensor.data
    assert data is not None  # the caller has looked
    axes = {port_axis(port, data.ndim) for port in ports if "channel" in port.granularity}
    if None in axes:  # any axis will do
        axes.add(None if before is None else before.axis)
    for symmetric in (False, True):
        yield scheme.weight(data, dtype, symmetric=symmetric, origin=ORIGIN)
        for axis in axes - {None}:
            yield scheme.weight(data, dtype, granularity="channel", axis=axis, symmetric=symmetric, origin=ORIGIN)


@attrs.frozen(eq=False)
class _Outcome:
    """A choice of rows worked out: ``values`` are the new encodings, ``cost`` what they and the nodes left cost."""

    cost: Cost
    values: Mapping[str, Encoding | None]
    groups: Mapping[str, tuple[Demand, ...]]


def _work_out(facts: _Facts, rows: Rows) -> _Outcome | None:
    """The least change that satisfies all chosen rows; None when there is none."""
    chosen = [(index, row) for index, row in sorted(rows.items()) if row != _LEAVE]
    follows = _biases(facts, chosen)
    costs = [_ILLEGAL] * (len(rows) - len(chosen))
    values: dict[str, Encoding | None] = {}
    groups: dict[str, tuple[Demand, ...]] = {}
    for members, demands in _groups(facts, chosen, follows):
        settled = facts.settle(members, demands)
        if settled is None:
            return None
        cost, encoding = settled
        costs.append(cost)
        groups |= dict.fromkeys(members, demands)
        if cost is not FREE:
            values |= {n: encoding for n in members if not _same(facts.encodings.get(n), encoding)}
    for name, (index, row) in follows.items():
        if facts.verdict(index, row, values) is None:
            x, w = (values.get(n, facts.encodings.get(n)) for n in facts.node(index).inputs[:2])
            bias = facts.bias(name, x, w)
            if bias is None:
                return None
            values[name] = bias
    warnings = [facts.verdict(index, row, values) for index, row in chosen]
    if None in warnings:
        return None
    costs += [_WARNING for w in warnings for _ in range(w or 0)]
    return _Outcome(_sum(costs), values, groups)


def _biases(facts: _Facts, chosen: list[tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The constants whose grid follows from input and weight -> (node, row)."""
    return {
        name: (index, row)
        for index, row in chosen
        for name, port in facts.ports[index][row]
        if port.derived and facts.graph.tensor(name).is_constant and facts.graph.tensor(name).is_float
    }


def _groups(
    facts: _Facts, chosen: list[tuple[int, int]], follows: Mapping[str, object]
) -> Iterator[tuple[tuple[str, ...], tuple[Demand, ...]]]:
    """Tied tensors, and what the chosen rows demand of them."""
    demands: dict[str, list[Demand]] = {}
    together: dict[str, list[str]] = {}
    for index, row in chosen:
        for name in facts.floats[index]:
            if name not in follows:
                demands.setdefault(name, []).append((index, row, name))
                together.setdefault(name, [name])
        for a, b in facts.ties[index][row]:
            if a in together and b in together and together[a] is not together[b]:
                joined = together[a] + together[b]
                together |= dict.fromkeys(joined, joined)
    for members in {id(found): found for found in together.values()}.values():
        yield tuple(sorted(members)), tuple(sorted(d for n in members for d in demands[n]))


def _solve(facts: _Facts) -> list[tuple[Rows, _Outcome]]:
    """One solution per conflict. Conflicts whose searches touched a common tensor are solved as one."""
    refused = [frozenset({index}) for index in facts.refused()]
    clusters = _merged(refused, {seeds: {n for index in seeds for n in facts.floats[index]} for seeds in refused})
    found: dict[frozenset[int], tuple[Rows, _Outcome, set[str]]] = {}
    while True:
        for seeds in clusters:
            if seeds not in found:
                found[seeds] = _Search(facts, seeds).run()
        merged = _merged(clusters, {seeds: found[seeds][2] for seeds in clusters})
        if len(merged) == len(clusters):
            return [found[seeds][:2] for seeds in clusters]
        clusters = merged


def _merged(clusters: Iterable[frozenset[int]], touched: Mapping[frozenset[int], set[str]]) -> list[frozenset[int]]:
    """The clusters, those with a tensor in common being put together."""
    groups: list[tuple[frozenset[int], set[str]]] = []
    for seeds in clusters:
        names = set(touched[seeds])
        apart = [g for g in groups if not g[1] & names]
        for other in (g for g in groups if g[1] & names):
            seeds, names = seeds | other[0], names | other[1]
        groups = [*apart, (seeds, names)]
    return [seeds for seeds, _ in groups]


class _Search:
    """The cheapest choice of rows that makes the seeds legal, and every node that this reaches."""

    def __init__(self, facts: _Facts, seeds: frozenset[int]) -> None:
        self._facts, self._seeds = facts, seeds
        self._seen: set[int] = set(seeds)

    def run(self) -> tuple[Rows, _Outcome, set[str]]:
        """The rows, what they come to, and all tensors of the nodes that were looked at."""
        rows, outcome = self._best() or self._beam()
        return rows, outcome, {n for index in self._seen for n in self._facts.floats[index]}

    def _best(self) -> tuple[Rows, _Outcome] | None:
        """A*; None when it takes too long. An entry without an outcome is not worked out yet: its cost is that of its parent."""
        order = itertools.count()
        heap: list[tuple[Cost, int, Rows, _Outcome | None]] = [(FREE, next(order), {}, None)]
        known: set[frozenset[tuple[int, int]]] = set()
        for _ in range(LIMIT):
            bound, _, rows, outcome = heapq.heappop(heap)
            if outcome is None:
                outcome = _work_out(self._facts, rows)
                if outcome is None:
                    continue
                bound = _sum([outcome.cost, self._ahead(rows, outcome)])
                if heap and bound > heap[0][0]:
                    heapq.heappush(heap, (bound, next(order), rows, outcome))
                    continue
            if not self._open(rows, outcome):
                return rows, outcome
            for child in self._children(rows, outcome):
                key = frozenset(child.items())
                if key not in known:
                    known.add(key)
                    heapq.heappush(heap, (bound, next(order), child, None))
        return None

    def _beam(self) -> tuple[Rows, _Outcome]:
        """Step by step, keeping the few most promising choices: not always the cheapest, in a time that the graph bounds."""
        best: tuple[Rows, _Outcome] | None = None
        beam: list[tuple[Rows, _Outcome]] = [({}, _Outcome(FREE, {}, {}))]
        while beam:
            done = [found for found in beam if not self._open(*found)]
            best = min([*done, *([best] if best else [])], key=lambda found: found[1].cost, default=None)
            going = [found for found in beam if self._open(*found) and (best is None or found[1].cost < best[1].cost)]
            children = {frozenset(child.items()): child for found in going for child in self._children(*found)}
            steps = [(child, outcome) for child in children.values() if (outcome := _work_out(self._facts, child)) is not None]
            beam = sorted(steps, key=lambda found: _sum([found[1].cost, self._ahead(*found)]))[:WIDTH]
        assert best is not None  # to leave all nodes illegal is always possible
        return best

    def _open(self, rows: Rows, outcome: _Outcome) -> list[int]:
        """The nodes that have no row yet and are not legal."""
        reached = {index for name in outcome.values for index in self._facts.readers[name]}
        found = [i for i in sorted(self._seeds | reached) if i not in rows and not self._facts.legal(i, outcome.values)]
        self._seen |= set(found)
        return found

    def _children(self, rows: Rows, outcome: _Outcome) -> Iterator[Rows]:
        """Further choices: all rows that are without alternative at once, or each row of one node; or to leave a node illegal."""
        waiting = self._open(rows, outcome)
        forced = [index for index in waiting if len(self._facts.rows[index]) == 1]
        if forced:
            yield {**rows, **dict.fromkeys(forced, 0)}
            yield from ({**rows, index: _LEAVE} for index in forced)
            return
        index = min(waiting, key=lambda i: (len(self._facts.rows[i]), i))
        yield from ({**rows, index: row} for row in (*range(len(self._facts.rows[index])), _LEAVE))

    def _ahead(self, rows: Rows, outcome: _Outcome) -> Cost:
        """A lower bound of what the open nodes will cost: each tensor that no chosen row speaks of is charged to one of them."""
        charged = set(outcome.groups)
        costs = []
        for index in self._open(rows, outcome):
            own = [name for name in self._facts.floats[index] if name not in charged]
            charged |= set(own)
            costs.append(min(self._least(index, row, own) for row in range(len(self._facts.rows[index]))))
        return _sum(min(cost, _ILLEGAL) for cost in costs)

    def _least(self, index: int, row: int, names: list[str]) -> Cost:
        derived = {n for n, port in self._facts.ports[index][row] if port.derived}
        return _sum(self._facts.least((index, row, name)) for name in names if name not in derived)


def _explain(facts: _Facts, rows: Rows, outcome: _Outcome) -> Iterator[Change]:
    """The changes of a solution, each with the rule that asks for it."""
    graph = facts.graph
    for name, after in outcome.values.items():
        before = facts.encodings.get(name)
        demands = outcome.groups.get(name, ())
        reasons = [(index, rule) for index, row, n in demands if n == name and (rule := facts.refusal((index, row, n), before))]
        for index, row in sorted(rows.items()):
            ties = facts.ties[index][row] if row != _LEAVE else []
            reasons += [(index, "same-grid") for pair in ties if name in pair]
            if name not in outcome.groups and index in facts.readers[name]:
                reasons.append((index, "derived"))
        index, rule = reasons[0]
        yield Change(name, before, after, rule, graph.nodes[index].name, graph.nodes[index].op)
