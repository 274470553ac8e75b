"""Quantizer groups and candidates: which tensors change their type together, and to what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from npukit.backend import Precision, Problem
from npukit.encoding import INT_BITS, Encoding
from npukit.errors import ConstraintError, UsageError
from npukit.graph import Graph, Node
from npukit.quantization import Job
from npukit.replay import frontier

_FLOAT32 = Encoding("float32")


@attrs.frozen
class Candidate:
    """The types of a group: of its activations and of its weights ("uint16", "int8", "float16")."""

    activations: str
    weights: str

    def __str__(self) -> str:
        return f"{self.activations}/{self.weights}"

    def signed_like(self, precision: Precision) -> Candidate:
        """The same widths with the signs of default types."""
        return Candidate(_signed_like(self.activations, precision.activations), _signed_like(self.weights, precision.weights))

    @property
    def bits(self) -> int:
        """Bits of an activation and a weight together; 16 for each float type."""
        return _bits(self.activations) + _bits(self.weights)


def _signed_like(dtype: str, model: str) -> str:
    if dtype not in INT_BITS:
        return dtype
    return f"{'u' if model.startswith('u') else ''}int{INT_BITS[dtype]}"


def _bits(dtype: str) -> int:
    return INT_BITS.get(dtype, 16)


@attrs.frozen
class Group:
    """Names of the tensors that the rules, or one op, bind together. ``name`` is that of the first one."""

    activations: tuple[str, ...]
    weights: tuple[str, ...]

    @property
    def name(self) -> str:
        return (self.activations or self.weights)[0]

    @property
    def tensors(self) -> tuple[str, ...]:
        return (*self.activations, *self.weights)


@attrs.frozen(eq=False)
class Menu:
    """What may be chosen: for every group the candidates that the backend accepts, and the encodings of every candidate.

    ``candidates`` are the widest first, ``base`` is the widest one that may be everywhere. ``settled`` are the encodings that are
    the same whatever is chosen: what was given, and tensors with one type in all candidates. ``refused`` says why a candidate is
    missing, by group name and candidate.
    """

    groups: tuple[Group, ...]
    candidates: tuple[Candidate, ...]
    base: Candidate
    settled: Mapping[str, Encoding]
    encodings: Mapping[Candidate, Mapping[str, Encoding]]
    allowed: Mapping[str, tuple[Candidate, ...]]
    refused: Mapping[tuple[str, Candidate], Problem]

    def everywhere(self, candidate: Candidate) -> dict[str, Candidate]:
        """The choice of one candidate for all groups that may have it; the others keep the base."""
        return {g.name: candidate if candidate in self.allowed[g.name] else self.base for g in self.groups}

    def encodings_of(self, group: Group, candidate: Candidate) -> dict[str, Encoding]:
        """The encodings of a group with a candidate. "float32" is one too: a tensor that nobody decided on would be quantized."""
        return {n: self.encodings[candidate].get(n, _FLOAT32) for n in group.tensors}

    def mixed(self, choice: Mapping[str, Candidate]) -> dict[str, Encoding]:
        """All that is decided when every group has the candidate of ``choice``; what follows from it (biases) is not in it."""
        found = dict(self.settled)
        for group in self.groups:
            found |= self.encodings_of(group, choice[group.name])
        return found


def precision_of(job: Job, candidate: Candidate) -> Precision:
    """The job's default types with those of a candidate in their place."""
    return attrs.evolve(job.judge.precision, activations=candidate.activations, weights=candidate.weights)


def find_groups(job: Job, names: Iterable[str]) -> tuple[Group, ...]:
    """The groups of all tensors of ``names`` that a node touches and nobody decided on, in graph order.

    Bound together are: tensors on one grid by a rule; the weights of an op and the activations it multiplies them with. Biases
    follow from both and belong to no group.
    """
    plan = job.judge.plan(job.graph, job.given)
    touched = {n for node in job.graph.nodes for n in (*node.inputs, *node.outputs)}
    free = [n for n in names if n in touched and n not in plan.derived and n not in job.given]
    parent = {name: name for name in free}

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    def bind(names: Iterable[str]) -> None:
        known = [find(n) for n in names if n in parent]
        for name in known[1:]:
            parent[find(name)] = find(known[0])

    for tie in plan.shared:
        bind(tie.tensors)
    for node in job.graph.nodes:
        weights = [n for n in node.inputs if n in plan.weights]
        if weights:
            bind([*weights, *(n for n in node.inputs if n and not job.graph.tensor(n).is_constant)])
    members: dict[str, list[str]] = {}
    for name in sorted(free, key=_order(job.graph).__getitem__):
        members.setdefault(find(name), []).append(name)
    return tuple(
        Group(tuple(n for n in names if n not in plan.weights), tuple(n for n in names if n in plan.weights))
        for names in members.values()
    )


def _order(graph: Graph) -> dict[str, int]:
    names = dict.fromkeys([*graph.inputs, *(n for node in graph.nodes for n in (*node.inputs, *node.outputs) if n), *graph.tensors])
    return {name: index for index, name in enumerate(names)}


def make_menu(job: Job, candidates: Iterable[Candidate]) -> Menu:
    """The groups, and which candidates the op constraints accept for each, all others having the base.

    Raises ConstraintError that says what the backend accepts when no group has a choice.
    """
    wanted = tuple(sorted(dict.fromkeys(candidates), key=lambda c: -c.bits))
    if len(wanted) < 2:
        raise UsageError("mixed precision needs at least two different candidates", hint="candidates: [[[16, int], [8, int]], ...]")
    encodings = {c: job.encodings(precision=precision_of(job, c)) for c in wanted}
    every = find_groups(job, {n for found in encodings.values() for n in found})
    whole = _accepted(job, encodings)
    # A base of floats may leave no choice, where integer and float tensors do not go together at a node.
    menus = [_menu_from(job, base, every, encodings) for base in whole or wanted]
    best = max(menus, key=lambda menu: sum(map(len, menu.allowed.values())) - len(menu.groups))
    if all(len(found) < 2 for found in best.allowed.values()):
        raise _no_choice(wanted, whole, best.refused)
    return best


def _menu_from(job: Job, base: Candidate, every: Iterable[Group], encodings: Mapping[Candidate, Mapping[str, Encoding]]) -> Menu:
    """The menu when all other groups have ``base``."""
    groups = tuple(g for g in every if any(_differs(g, encodings[base], e) for e in encodings.values()))
    allowed: dict[str, tuple[Candidate, ...]] = {}
    refused: dict[tuple[str, Candidate], Problem] = {}
    for group in groups:
        others = [c for c, e in encodings.items() if _differs(group, encodings[base], e)]
        found = {c: _problem(job, group, encodings[base], encodings[c]) for c in others}
        refused |= {(group.name, c): problem for c, problem in found.items() if problem is not None}
        allowed[group.name] = tuple(c for c in encodings if c == base or (c in found and found[c] is None))
    kept = {n: encodings[base].get(n, _FLOAT32) for g in every if g not in groups for n in g.tensors}
    return Menu(groups, tuple(encodings), base, {**job.given, **kept}, encodings, allowed, refused)


def _accepted(job: Job, encodings: Mapping[Candidate, Mapping[str, Encoding]]) -> list[Candidate]:
    """The candidates that every node may have, but for what is wrong with all of them."""
    found = {c: _errors(job, job.graph, e) for c, e in encodings.items()}
    common = set.intersection(*(set(errors) for errors in found.values()))
    return [c for c, errors in found.items() if set(errors) <= common]


def _no_choice(
    wanted: Iterable[Candidate], whole: Iterable[Candidate], refused: Mapping[tuple[str, Candidate], Problem]
) -> ConstraintError:
    names, accepted = " and ".join(map(str, wanted)), ", ".join(map(str, whole)) or "none"
    problem = next(iter(refused.values()), None)
    detail = f": {problem}" if problem else ": no tensor changes its type"
    hint = "quantize without amp, or give candidates of which the backend accepts two"
    text = f"there is no precision to mix: of {names} the backend accepts {accepted}{detail}"
    return ConstraintError(text, problems=tuple(refused.values()), hint=hint)


def _differs(group: Group, a: Mapping[str, Encoding], b: Mapping[str, Encoding]) -> bool:
    return any(a.get(n, _FLOAT32).dtype != b.get(n, _FLOAT32).dtype for n in group.tensors)


def _problem(job: Job, group: Group, base: Mapping[str, Encoding], changed: Mapping[str, Encoding]) -> Problem | None:
    """The first error that this group's change makes at the nodes around it; biases change with their input and weight."""
    around = neighbourhood(job.graph, group)
    derived = job.judge.plan(around, base).derived
    moved = {*group.tensors, *(bias for bias, sources in derived.items() if not set(sources).isdisjoint(group.tensors))}
    before = {n: e for n, e in base.items() if n in around.tensors}
    after = {n: e for n, e in before.items() if n not in moved} | {n: changed[n] for n in moved if n in changed}
    known = _errors(job, around, before)
    return next((problem for key, problem in _errors(job, around, after).items() if key not in known), None)


def _errors(job: Job, graph: Graph, encodings: Mapping[str, Encoding]) -> dict[tuple[str, str, str], Problem]:
    """The errors of some encodings, by node, rule and tensor."""
    return {(p.node, p.rule, p.tensor): p for p in job.judge.problems(graph, encodings) if p.severity == "error"}


def neighbourhood(graph: Graph, group: Group) -> Graph:
    """The nodes that touch a group, as a graph."""
    members = set(group.tensors)
    nodes = tuple(n for n in graph.nodes if members.intersection(n.inputs) or members.intersection(n.outputs))
    return part_of(graph, nodes)


def part_of(graph: Graph, nodes: tuple[Node, ...]) -> Graph:
    """Some nodes as a graph: what they read becomes an input, what they make an output."""
    made = dict.fromkeys(n for node in nodes for n in node.outputs if n)
    inputs = frontier(graph, nodes)
    constants = [n for node in nodes for n in node.inputs if n and graph.tensor(n).is_constant]
    tensors = {n: graph.tensor(n) for n in (*inputs, *constants, *made)}
    return graph.evolve(nodes=nodes, inputs=inputs, outputs=tuple(made), tensors=tensors)
