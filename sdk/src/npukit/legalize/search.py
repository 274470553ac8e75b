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

from npukit.backend import Rules, Scheme
from npukit.encoding import Conflict, Encoding
from npukit.graph import Graph
from npukit.legalize.facts import Demand, Facts
from npukit.legalize.price import FREE, Cost, add_up, same

# How many choices of rows a search looks at before it only follows the most promising ones, and how many those are.
LIMIT = 4000


WIDTH = 16


_LEAVE = -1  # in the place of a row: the node stays illegal


_ILLEGAL: Cost = (1, 0, 0, 0, 0, 0, 0.0)


_WARNING: Cost = (0, 1, 0, 0, 0, 0, 0.0)


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
    ties: Iterable[tuple[str, str]] = (),
    float_fallback: bool = False,
) -> tuple[tuple[Change, ...], dict[str, Encoding]]:
    """Changes that make the graph legal and mend ``conflicts``, and all encodings after them; tensors of ``ties`` change together.

    Fewest tensors are changed, and no error is traded for a warning; among equal choices overrides are kept, activations before
    weights, then wide types, then sign, symmetry and granularity, then range and resolution. A bias follows from input and
    weight and is not counted. Activations stay integer or float as they are, and a new grid keeps the real range; those of
    constants are made from their data. What no encoding can mend is left as it is.
    """
    facts = Facts(rules, graph, encodings, conflicts, ties, float_fallback)
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


@attrs.frozen(eq=False)
class _Outcome:
    """A choice of rows worked out: ``values`` are the new encodings, ``cost`` what they and the nodes left cost."""

    cost: Cost
    values: Mapping[str, Encoding | None]
    groups: Mapping[str, tuple[Demand, ...]]


def _work_out(facts: Facts, rows: Rows) -> _Outcome | None:
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
            values |= {n: encoding for n in members if not same(facts.encodings.get(n), encoding)}
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
    return _Outcome(add_up(costs), values, groups)


def _biases(facts: Facts, chosen: list[tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The constants whose grid follows from input and weight -> (node, row)."""
    return {
        name: (index, row)
        for index, row in chosen
        for name, port in facts.ports[index][row]
        if port.derived and facts.graph.tensor(name).is_constant and facts.graph.tensor(name).is_float
    }


def _groups(
    facts: Facts, chosen: list[tuple[int, int]], follows: Mapping[str, object]
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
            if a in together and b in together:
                _join(together, a, b)
    waiting = list(facts.stated)
    while reached := [pair for pair in waiting if not together.keys().isdisjoint(pair)]:
        waiting = [pair for pair in waiting if pair not in reached]
        for a, b in reached:
            _join(together, a, b)
    for members in {id(found): found for found in together.values()}.values():
        yield tuple(sorted(members)), tuple(sorted(d for n in members for d in demands.get(n, ())))


def _join(together: dict[str, list[str]], a: str, b: str) -> None:
    """Put the groups of two tensors together; one without a group is one by itself."""
    first, second = together.get(a, [a]), together.get(b, [b])
    if first is not second:
        joined = first + second
        together |= dict.fromkeys(joined, joined)


def _solve(facts: Facts) -> list[tuple[Rows, _Outcome]]:
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

    def __init__(self, facts: Facts, seeds: frozenset[int]) -> None:
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
                bound = add_up([outcome.cost, self._ahead(rows, outcome)])
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
            beam = sorted(steps, key=lambda found: add_up([found[1].cost, self._ahead(*found)]))[:WIDTH]
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
        return add_up(min(cost, _ILLEGAL) for cost in costs)

    def _least(self, index: int, row: int, names: list[str]) -> Cost:
        derived = {n for n, port in self._facts.ports[index][row] if port.derived}
        return add_up(self._facts.least((index, row, name)) for name in names if name not in derived)


def _explain(facts: Facts, rows: Rows, outcome: _Outcome) -> Iterator[Change]:
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
        reasons += [(index, "tie") for index, _, _ in demands]  # what a stated tie brings along
        index, rule = reasons[0]
        yield Change(name, before, after, rule, graph.nodes[index].name, graph.nodes[index].op)
