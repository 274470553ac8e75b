"""Which tensors share a grid: independent of order, with conflicts that say what to look at."""

from __future__ import annotations

import random

import attrs
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from npukit.encoding import Encoding, Fixed, Shared, Solution, propagate, solve
from npukit.graph import Graph, Node, make_graph

NAMES = [f"t{i}" for i in range(10)]
GRIDS = [Encoding("uint8", s, z, origin="override") for s, z in ((0.1, 0), (0.2, 3), (0.5, 128))]

ties = st.lists(
    st.builds(
        lambda names, soft, rule: Shared(tuple(names), rule, soft=soft),
        st.lists(st.sampled_from(NAMES), min_size=2, max_size=3, unique=True),
        st.booleans(),
        st.sampled_from(["Reshape", "Concat"]),
    ),
    max_size=8,
)
fixes = st.lists(
    st.builds(lambda n, s: Fixed(n, {"uint8": (s, 0)}, f"fix {n}"), st.sampled_from(NAMES), st.sampled_from([0.25, 0.5]))
)
givens = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(GRIDS), max_size=3)


def grid(encoding: Encoding | None) -> object:
    return None if encoding is None else (float(encoding.steps), encoding.origin)


def summary(solution: Solution) -> object:
    """What must not depend on order."""
    groups = sorted((g.tensors, g.observed, g.dtype, grid(g.encoding)) for g in solution.groups)
    return groups, sorted((c.tensor_a, c.tensor_b, c.path) for c in solution.conflicts)


@given(ties, fixes, givens, st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_solve_is_independent_of_order(
    shared: list[Shared], fixed: list[Fixed], given_: dict[str, Encoding], rng: random.Random
) -> None:
    """Any order of tensors, ties and rules gives the same groups, encodings and conflicts."""
    dtypes = dict.fromkeys(NAMES, "uint8")
    first = summary(solve(dtypes, shared, fixed, given_))
    for _ in range(3):
        names, shared, fixed, items = list(NAMES), list(shared), list(fixed), list(given_.items())
        for sequence in (names, shared, fixed, items):
            rng.shuffle(sequence)
        turned = [attrs.evolve(t, tensors=tuple(rng.sample(t.tensors, len(t.tensors)))) for t in shared]
        assert summary(solve(dict.fromkeys(names, "uint8"), turned, fixed, dict(items))) == first


def test_fixed_beats_free_and_given_beats_fixed() -> None:
    """A fixed grid decides a free group; what the user gives decides over it, for the validator to judge."""
    dtypes = dict.fromkeys("abc", "uint8")
    tie, fix = Shared(("a", "b"), "Reshape"), Fixed("b", {"uint8": (1 / 256, 0)}, "Sigmoid")
    groups = {g.tensors: g for g in solve(dtypes, [tie], [fix], {}).groups}
    assert groups["a", "b"].encoding is not None
    assert groups["a", "b"].encoding.origin == "fixed"
    assert groups[("c",)].encoding is None
    over = solve(dtypes, [tie], [fix], {"a": GRIDS[0]})
    assert next(g for g in over.groups if "a" in g.tensors).encoding is GRIDS[0]
    assert not over.conflicts


def test_soft_tie_leaves_the_fixed_member_alone() -> None:
    """In a soft tie the free members share, and the fixed one keeps its own grid."""
    dtypes = dict.fromkeys("abc", "uint8")
    found = solve(dtypes, [Shared(("a", "b", "c"), "Concat", soft=True)], [Fixed("b", {"uint8": (1 / 256, 0)}, "Sigmoid")], {})
    assert {g.tensors for g in found.groups} == {("a", "c"), ("b",)}


def test_conflict_names_rules_and_path() -> None:
    """Two different grids in one group: both tensors, both rules, and the tensors between."""
    tie = [Shared(("a", "b"), "Reshape"), Shared(("b", "c"), "Transpose")]
    (conflict,) = solve(dict.fromkeys("abc", "uint8"), tie, [], {"a": GRIDS[0], "c": GRIDS[1]}).conflicts
    assert (conflict.tensor_a, conflict.tensor_b, conflict.path) == ("a", "c", ("b",))
    assert "override" in str(conflict)


def test_inner_tensors_are_not_observed() -> None:
    """The range of a fused op is that of its last tensor."""
    (group,) = solve(dict.fromkeys("ab", "uint8"), [Shared(("a", "b"), "fusion", inner=("a",))], [], {}).groups
    assert group.observed == ("b",)


def chain() -> Graph:
    """x -> Reshape -> a -> Transpose -> b -> Relu -> c -> Flatten -> y, and b is read twice."""
    nodes = [
        Node("Reshape", "n1", ("x", "shape"), ("a",)),
        Node("Transpose", "n2", ("a",), ("b",), {"perm": (1, 0)}),
        Node("Relu", "n3", ("b",), ("c",)),
        Node("Concat", "n4", ("b", "c"), ("d",), {"axis": 0}),
        Node("Flatten", "n5", ("d",), ("y",)),
    ]
    return make_graph(nodes, {"x": ("float32", (2, 3, 2))}, ["y"], {"shape": np.array([2, 6])})


def test_propagate_forward_and_backward() -> None:
    """An encoding crosses movers in both directions, but not an op that computes."""
    found = propagate(chain(), {"a": GRIDS[0]})
    assert {n: e.origin for n, e in found.items()} == {"a": "override", "x": "propagated", "b": "propagated"}
    found = propagate(chain(), {"b": GRIDS[0], "c": GRIDS[0]})
    assert set(found) == {"x", "a", "b", "c", "d", "y"}
    assert "d" not in propagate(chain(), {"b": GRIDS[0], "c": GRIDS[1]})


@given(st.permutations(range(5)), st.dictionaries(st.sampled_from(list("abcdxy")), st.sampled_from(GRIDS)))
@settings(max_examples=100)
def test_propagate_is_independent_of_order(order: list[int], given_: dict[str, Encoding]) -> None:
    """Shuffled nodes give the same encodings."""
    graph = chain()
    shuffled = graph.evolve(nodes=tuple(graph.nodes[i] for i in order))
    first, second = propagate(graph, given_), propagate(shuffled, given_)
    assert {n: (float(e.steps), e.origin) for n, e in first.items()} == {n: (float(e.steps), e.origin) for n, e in second.items()}
