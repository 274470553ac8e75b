"""The plan of a model: what is decided, what is free, and the encodings that follow once ranges are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase

import attrs

from npukit.backend import Plan, Precision, Problem, Scheme, Target, takes_blocks
from npukit.calibration import Range
from npukit.encoding import INT_BITS, Conflict, Encoding, Solution, propagate, solve
from npukit.errors import EncodingError, UsageError, counted, did_you_mean
from npukit.graph import MASK, Graph, Tensor, bind
from npukit.legalize import Change, repair
from npukit.quantization.floats import fallen_back, float_islands, with_floats
from npukit.quantization.masks import clipped, lowest_useful
from npukit.quantization.options import Options
from npukit.quantization.request import Source
from npukit.quantization.roles import copy_per_role
from npukit.quantization.tied import as_shared, tie_problems, tied_pairs
from npukit.quantization.weights import weight_encoding

_GRIDS = frozenset(dtype for dtype, bits in INT_BITS.items() if bits <= 16)
# Stands for a range that only data would tell: neither symmetric nor one-sided, so that no rule takes it for a special case.
PLACEHOLDER = Range(-1.0, 1.5)


@attrs.frozen(eq=False)
class Task:
    """A prepared model on its way: what is free, what is decided. ``types`` are what the user wants nodes to compute in."""

    graph: Graph
    target: Target
    options: Options
    precision: Precision
    given: Mapping[str, Encoding]
    plan: Plan
    solution: Solution
    types: Mapping[str, str]
    notes: tuple[str, ...]

    @classmethod
    def prepare(cls, source: Source, target: Target, options: Options) -> Task:
        """The task of a model as it was read."""
        copies = copy_per_role(target.prepare(source.graph), target.rules)
        prepared, given = copies.graph, copies.spread(source.decided)
        types = {**source.types, **known_nodes(prepared, options.node_types)}
        fallback = options.float_fallback or source.float_fallback
        islands = options.islands or source.islands is not None
        ties = tied_pairs(prepared, (*source.ties, *options.ties))
        # What a package was made with stays asked for.
        options = attrs.evolve(options, node_types=types, float_fallback=fallback, islands=islands, ties=ties)
        notes = (*source.notes, *vanished(prepared, given))
        return cls.of(prepared, target, options, given, notes, types)

    @classmethod
    def of(
        cls,
        prepared: Graph,
        target: Target,
        options: Options,
        given: Mapping[str, Encoding],
        notes: tuple[str, ...] = (),
        types: Mapping[str, str] | None = None,
    ) -> Task:
        """The task of a graph that is prepared already, or of a part of one; the ties of ``options`` are names in full."""
        precision = options.precision(target.precision)
        decided = {n: e for n, e in given.items() if n in prepared.tensors and n not in prepared.index_tensors}
        ties = tuple((a, b) for a, b in options.ties if a in prepared.tensors and b in prepared.tensors)
        options = attrs.evolve(options, ties=ties)
        known = propagate(prepared, decided, ties)
        plan = target.rules.plan(prepared, precision, known, types)
        plan = attrs.evolve(plan, shared=(*plan.shared, *as_shared(ties)))
        floats = {n for n, e in known.items() if e.is_float}
        grids = {n: d for n, d in plan.activations.items() if n not in floats and d in _GRIDS}
        solution = solve(grids, plan.shared, plan.fixed, {n: e for n, e in known.items() if n in grids})
        notes = (*notes, *_shapes(prepared, given), *_unmet(options.weights, plan, known), *_whole(precision, plan, known))
        return cls(prepared, target, options, precision, known, plan, solution, types or {}, notes)

    def unknown(self) -> list[str]:
        """The tensors whose range must be observed."""
        free = [g for g in self.solution.groups if g.encoding is None]
        return [n for g in free for n in g.observed if not self.graph.tensor(n).is_constant]

    def placeholders(self) -> dict[str, Range]:
        """A range for every unknown one: legality depends on types and ties, not on ranges."""
        return dict.fromkeys(self.unknown(), PLACEHOLDER)

    def encodings(self, ranges: Mapping[str, Range]) -> dict[str, Encoding]:
        """The encodings of all tensors: groups from ranges, weights from their values, biases from both."""
        scheme = self.scheme
        lowest = self.lowest_useful(ranges)
        found = {n: e for n, e in self.given.items() if n not in self.plan.derived}
        for group in self.solution.groups:
            encoding = group.encoding
            if encoding is None:
                observed = {n: ranges[n] if n in ranges else _range_of(self.graph.tensor(n)) for n in group.observed}
                seen = [clipped(r, lowest.get(n)) for n, r in observed.items()]
                low, high = min(r.low for r in seen), max(r.high for r in seen)
                symmetric = True if self.plan.symmetric.intersection(group.tensors) else None
                with _named(", ".join(group.tensors[:3])):
                    encoding = scheme.activation(low, high, group.dtype, symmetric=symmetric)
                if any(r is PLACEHOLDER for r in observed.values()):
                    encoding = encoding.with_origin("placeholder")
            for name in group.tensors:
                origin = encoding if group.encoding is None or name in self.given else _spread_origin(encoding)
                found.setdefault(name, origin)
        for name, dtype in self.plan.activations.items():
            if dtype not in _GRIDS and name not in found:
                found[name] = Encoding(dtype, origin="calibrated")
        for name in self.plan.weights:
            if name not in found:
                with _named(name):
                    found[name] = weight_encoding(self, name, lowest.get(name))
        for bias, (x, w) in self.plan.derived.items():
            tensor = self.graph.tensor(bias)
            if w in self.plan.weights and w not in self.given:
                found[w] = scheme.with_room_for_bias(found.get(x), found[w], tensor)
            derived = scheme.bias(found.get(x), found.get(w), tensor, self.plan.bias_types[bias])
            if derived is not None:
                found[bias] = derived
        found = with_floats(self.graph, found, self.options, self.target.rules)
        return {n: e for n, e in found.items() if e.dtype != "float32"}

    @property
    def scheme(self) -> Scheme:
        """How ranges and weights become grids: the backend's way, with what the options change of it."""
        return self.options.grids(self.target.scheme)

    def lowest_useful(self, ranges: Mapping[str, Range]) -> dict[str, float]:
        """Where the grids of masks and scores in front of a Softmax may end (``npukit.quantization.masks``)."""
        if not self.graph.before_softmax:
            return {}
        shared: dict[str, Range] = {}
        for group in self.solution.groups:
            seen = [ranges[n] for n in group.observed if n in ranges]
            if seen:
                shared |= dict.fromkeys(group.tensors, Range(min(r.low for r in seen), max(r.high for r in seen)))

        def range_of(name: str) -> Range | None:
            if name in ranges or name in shared:
                return ranges[name] if name in ranges else shared[name]
            return _range_of(self.graph.tensor(name)) if self.graph.is_constant(name) else None

        return lowest_useful(self.graph, range_of, self.plan.activations)

    def mask_notes(self, ranges: Mapping[str, Range]) -> tuple[str, ...]:
        """What is said of masks that are cut."""
        cut = {n: low for n, low in self.lowest_useful(ranges).items() if self._lowest(n, ranges) < min(low, MASK)}
        if not cut:
            return ()
        name, low = min(cut.items(), key=lambda item: self._lowest(item[0], ranges))
        shown = f"{name} {self._lowest(name, ranges):.3g} becomes {low:.3g}"
        return (f"{len(cut)} masks and masked scores end where a Softmax gives 0 anyway ({shown})",)

    def _lowest(self, name: str, ranges: Mapping[str, Range]) -> float:
        tensor = self.graph.tensor(name)
        return ranges[name].low if name in ranges else _range_of(tensor).low if tensor.is_constant else 0.0

    def problems(self, encodings: Mapping[str, Encoding]) -> tuple[Problem, ...]:
        """What is wrong with complete encodings."""
        pairs = [(c, encodings.get(c.tensor_a), encodings.get(c.tensor_b)) for c in self.solution.conflicts]
        apart = [c for c, a, b in pairs if a is not None and b is not None and not a.same_grid(b)]
        conflicts = tuple(_conflict_problem(c) for c in apart)
        told = {frozenset((c.tensor_a, c.tensor_b)) for c in apart}
        ties = tuple(pair for pair in self.options.ties if frozenset(pair) not in told)
        conflicts += tuple(tie_problems(ties, encodings))
        conflicts += tuple(self._fallback_problems(encodings))
        found = self.target.problems(
            self.graph, encodings, types=self.node_types(encodings), float_fallback=self.options.float_fallback
        )
        return conflicts + found

    def node_types(self, encodings: Mapping[str, Encoding]) -> dict[str, str]:
        """What nodes compute in where it is not what the backend plans: what was asked for, islands, and what falls back."""
        return {**dict.fromkeys(self._fallen_back(encodings), "float16"), **self._asked_types(encodings)}

    def _asked_types(self, encodings: Mapping[str, Encoding]) -> dict[str, str]:
        islands = float_islands(self.graph, encodings) if self.options.islands else {}
        return {**islands, **self.types}

    def _fallen_back(self, encodings: Mapping[str, Encoding]) -> dict[str, Problem]:
        if not self.options.float_fallback:
            return {}
        return fallen_back(self.target, self.graph, encodings, self._asked_types(encodings))

    def _fallback_problems(self, encodings: Mapping[str, Encoding]) -> Iterator[Problem]:
        """A warning for each node that computes in float because its integer form is refused."""
        for cause in self._fallen_back(encodings).values():
            message = f"runs in float16 between a dequantize and a quantize: {cause.message}"
            yield attrs.evolve(cause, severity="warning", rule="float-fallback", message=message, hint="")

    def legal(self, encodings: Mapping[str, Encoding]) -> tuple[tuple[Change, ...], dict[str, Encoding]]:
        """The smallest change that makes the encodings legal, and the encodings after it."""
        conflicts, ties, fallback = self.solution.conflicts, self.options.ties, self.options.float_fallback
        return repair(self.target.rules, self.graph, encodings, conflicts=conflicts, ties=ties, float_fallback=fallback)


def bound_problems(
    found: Iterable[Problem],
    target: Target,
    graph: Graph,
    encodings: Mapping[str, Encoding],
    bindings: Iterable[Mapping[str, int]],
    types: Mapping[str, str],
    float_fallback: bool,
) -> tuple[Problem, ...]:
    """``found``, the problems of a symbolic graph; with ``bindings`` those of the bound graphs too, none about open dimensions."""
    bound = tuple(bindings)
    every = dict.fromkeys(p for p in found if not bound or p.rule != "dynamic-shape")
    for binding in bound:
        part = target.prepare(bind(graph, binding))
        inner = {n: e for n, e in encodings.items() if n in part.tensors}
        every |= dict.fromkeys(target.problems(part, inner, types=types, float_fallback=float_fallback))
    return tuple(every)


def vanished(graph: Graph, given: Mapping[str, Encoding]) -> tuple[str, ...]:
    """A note about encodings of tensors that are no longer there."""
    lost = sorted(n for n in given if n not in graph.tensors)
    shown = ", ".join(lost[:5])
    what = "of tensors that folding removed, with no effect"
    return (f"{counted(len(lost), 'encoding')} {what}: {shown}",) if lost else ()


def _shapes(graph: Graph, given: Mapping[str, Encoding]) -> tuple[str, ...]:
    names = sorted(graph.index_tensors & given.keys())
    what = "of tensors that only feed shapes, indices or bounds, with no effect"
    return (f"{counted(len(names), 'encoding')} {what}: {', '.join(names[:5])}",) if names else ()


def known_nodes(graph: Graph, types: Mapping[str, str]) -> Mapping[str, str]:
    """``types`` by the names of nodes. A key that is no name is a pattern of them, "layers.0.*"; of several, the last one counts.

    Raises UsageError for a key without nodes.
    """
    names = [node.name for node in graph.nodes]
    found: dict[str, str] = {}
    for key, dtype in types.items():
        meant = [key] if key in names else [name for name in names if fnmatchcase(name, key)]
        if not meant:
            raise UsageError(f"the model has no node '{key}'", hint=did_you_mean(key, names))
        found |= dict.fromkeys(meant, dtype)
    return found


def _spread_origin(encoding: Encoding) -> Encoding:
    """The origin of a grid that reached a tensor through a tie."""
    return encoding if encoding.origin == "fixed" else encoding.with_origin("propagated")


def _unmet(wished: str, plan: Plan, given: Mapping[str, Encoding]) -> tuple[str, ...]:
    """A note when weights cannot have the type that was asked for."""
    others = {name: dtype for name, dtype in plan.weights.items() if wished and dtype != wished and name not in given}
    if not others:
        return ()
    shown = ", ".join(f"{name} {dtype}" for name, dtype in sorted(others.items())[:5])
    return (f"{len(others)} of {len(plan.weights)} weights have no {wished} form here and get another type: {shown}",)


def _whole(precision: Precision, plan: Plan, given: Mapping[str, Encoding]) -> tuple[str, ...]:
    """A note when weights cannot have the blocks that were asked for."""
    kind, names = precision.blocks[0], [name for name in plan.weights if name not in given]
    others = [name for name in names if kind and not takes_blocks(plan.weight_ports[name], kind)]
    if not others:
        return ()
    return (f"{len(others)} of {len(plan.weights)} weights have no {kind} form here and get another one: {', '.join(others[:5])}",)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say which tensor has no grid: one of a constant with infinite values, as ranges of data are finite."""
    try:
        yield
    except EncodingError as error:
        hint = "a constant may have -inf in a mask that only a Softmax reads"
        raise EncodingError(f"tensor '{name}': {error}", hint=error.hint or hint) from None


def _range_of(tensor: Tensor) -> Range:
    data = tensor.data
    assert data is not None  # only constants have no observed range
    return Range(float(data.min(initial=0)), float(data.max(initial=0)))


def _conflict_problem(conflict: Conflict) -> Problem:
    hint = "give them one encoding, or drop one of the overrides or ties"
    return Problem("error", "conflict", conflict.tensor_a, "tie", conflict.tensor_b, str(conflict), hint)
