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

    ``refused`` says why a candidate is missing, by group name and candidate.
    """

    groups: tuple[Group, ...]
    candidates: tuple[Candidate, ...]
    encodings: Mapping[Candidate, Mapping[str, Encoding]]
    allowed: Mapping[str, tuple[Candidate, ...]]
    refused: Mapping[tuple[str, Candidate], Problem]

    def mixed(self, choice: Mapping[str, Candidate]) -> dict[str, Encoding]:
        """The encodings of all groups when each has the candidate of ``choice``."""
        return {t: self.encodings[choice[g.name]][t] for g in self.groups for t in g.tensors if t in self.encodings[choice[g.name]]}


def precision_of(job: Job, candidate: Candidate) -> Precision:
    """The job's default types with those of a candidate in their place."""
    return attrs.evolve(job.judge.precision, activations=candidate.activations, weights=candidate.weights)


def find_groups(job: Job, encodings: Mapping[str, Encoding]) -> tuple[Group, ...]:
    """The groups of all tensors that a node touches and nobody decided on, in graph order.

    Bound together are: tensors on one grid by a rule; the weights of an op and the activations it multiplies them with. Biases
    follow from both and belong to no group.
    """
    plan = job.judge.plan(job.graph, job.given)
    touched = {n for node in job.graph.nodes for n in (*node.inputs, *node.outputs)}
    free = [n for n in encodings if n in touched and n not in plan.derived and n not in job.given]
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
    """The groups, and which candidates the op constraints accept for each, all others having the first candidate.

    Raises ConstraintError that names groups and rules when no group can take a second candidate.
    """
    wanted = tuple(dict.fromkeys(candidates))
    if len(wanted) < 2:
        raise UsageError("mixed precision needs at least two different candidates", hint="candidates: [[[16, int], [8, int]], ...]")
    encodings = {c: job.encodings(precision=precision_of(job, c)) for c in wanted}
    base = encodings[wanted[0]]
    groups = tuple(g for g in find_groups(job, base) if any(_differs(g, base, encodings[c]) for c in wanted[1:]))
    allowed: dict[str, tuple[Candidate, ...]] = {}
    refused: dict[tuple[str, Candidate], Problem] = {}
    for group in groups:
        found = [wanted[0]]
        for candidate in wanted[1:]:
            if not _differs(group, base, encodings[candidate]):
                continue
            problem = _problem(job, group, base, encodings[candidate])
            if problem is None:
                found.append(candidate)
            else:
                refused[group.name, candidate] = problem
        allowed[group.name] = tuple(found)
    if all(len(found) < 2 for found in allowed.values()):
        first = next(iter(refused.items()), None)
        detail = f": group '{first[0][0]}' cannot be {first[0][1]}, {first[1]}" if first else ""
        problems = tuple(refused.values())
        raise ConstraintError(f"no group can take another candidate than {wanted[0]}{detail}", problems=problems)
    return Menu(groups, wanted, encodings, allowed, refused)


def _differs(group: Group, a: Mapping[str, Encoding], b: Mapping[str, Encoding]) -> bool:
    return any((a[n].dtype if n in a else "") != (b[n].dtype if n in b else "") for n in group.tensors)


def _problem(job: Job, group: Group, base: Mapping[str, Encoding], changed: Mapping[str, Encoding]) -> Problem | None:
    """The first error that this group's change makes at the nodes around it."""
    around = neighbourhood(job.graph, group)
    biases = job.judge.plan(around, base).derived  # they follow later: what they lack is wrong before and after
    before = {n: e for n, e in base.items() if n in around.tensors and n not in biases}
    after = before | {n: changed[n] for n in group.tensors if n in changed}
    known = {(p.node, p.rule, p.tensor) for p in job.judge.problems(around, before)}
    problems = job.judge.problems(around, after)
    return next((p for p in problems if p.severity == "error" and (p.node, p.rule, p.tensor) not in known), None)


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
