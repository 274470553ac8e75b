"""Which tensors share one grid, and who decides it: shared, fixed and free groups by union-find.

The result does not depend on the order of nodes or rules: groups are the connected components of the ties, and every choice
among members is made by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from npukit.encoding.types import INT_BITS, Encoding


@attrs.frozen
class Shared:
    """``tensors`` have one grid because of ``rule``.

    A ``soft`` tie is a preference: a member whose grid is fixed or given stays alone, and the others still share.
    ``inner`` lists members that exist only inside a fused op: their own range does not count.
    """

    tensors: tuple[str, ...]
    rule: str
    soft: bool = False
    inner: tuple[str, ...] = ()


@attrs.frozen
class Fixed:
    """``tensor`` must have, when it is of a listed encoding type, exactly this (scale, zero point)."""

    tensor: str
    choices: Mapping[str, tuple[float, int]]
    rule: str


@attrs.frozen(eq=False)
class Group:
    """Tensors with one grid. ``encoding`` is None when it is free: then the range of ``observed`` decides."""

    tensors: tuple[str, ...]
    observed: tuple[str, ...]
    dtype: str
    encoding: Encoding | None = None


@attrs.frozen
class Conflict:
    """Two grids are demanded for one group: ``rule_a`` on ``tensor_a`` against ``rule_b`` on ``tensor_b``, tied by ``path``."""

    tensor_a: str
    rule_a: str
    tensor_b: str
    rule_b: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        between = f" through {', '.join(self.path)}" if self.path else ""
        return (
            f"tensors '{self.tensor_a}' ({self.rule_a}) and '{self.tensor_b}' ({self.rule_b}) must share one grid{between}, "
            "but have different ones"
        )


@attrs.frozen(eq=False)
class Solution:
    groups: tuple[Group, ...]
    conflicts: tuple[Conflict, ...]


class _UnionFind:
    def __init__(self, names: Iterable[str]) -> None:
        self._parent = {name: name for name in names}

    def find(self, name: str) -> str:
        root = name
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[name] != root:
            self._parent[name], name = root, self._parent[name]
        return root

    def union(self, a: str, b: str) -> None:
        low, high = sorted((self.find(a), self.find(b)))
        self._parent[high] = low

    def components(self) -> dict[str, list[str]]:
        """Root -> its members, both sorted by name."""
        found: dict[str, list[str]] = {}
        for name in sorted(self._parent):
            found.setdefault(self.find(name), []).append(name)
        return found


def solve(dtypes: Mapping[str, str], shared: Iterable[Shared], fixed: Iterable[Fixed], given: Mapping[str, Encoding]) -> Solution:
    """Group the tensors of ``dtypes`` (tensor -> encoding type when free) and decide each group's encoding or leave it free.

    A given encoding beats a fixed one (the validator reports it when it is not legal), a fixed one beats free. Ties to tensors
    outside ``dtypes`` are ignored. Conflicting givens or fixed grids in one group are reported; each tensor then keeps its own.
    """
    ties = [attrs.evolve(tie, tensors=tuple(t for t in tie.tensors if t in dtypes)) for tie in shared]
    fixed_rows = sorted(
        (row for row in fixed if row.tensor in dtypes), key=lambda row: (row.tensor, row.rule, sorted(row.choices.items()))
    )
    finder = _UnionFind(dtypes)
    for tie in ties:
        if not tie.soft:
            _join(finder, tie.tensors)
    decided: dict[str, Encoding] = {}
    apart: dict[str, Encoding] = {}
    conflicts: list[Conflict] = []
    demands = _demands(dtypes, fixed_rows, given, finder)
    for root, members in finder.components().items():
        wanted = demands.get(root, [])
        if wanted:
            decided[root] = wanted[0][2]
            apart |= {tensor: encoding for tensor, _, encoding in wanted if not encoding.same_grid(decided[root])}
            conflicts += _conflicts(wanted, members, ties)
    free = {root for root in finder.components() if root not in decided}
    for tie in ties:
        if tie.soft:
            _join(finder, [t for t in tie.tensors if finder.find(t) in free])
            free |= {finder.find(t) for t in tie.tensors if finder.find(t) not in decided}
    inner = {name for tie in ties for name in tie.inner}
    groups = []
    for root, members in finder.components().items():
        counted = tuple(m for m in members if m not in inner) or tuple(members)
        dtype = max((dtypes[m] for m in members), key=lambda d: (INT_BITS.get(d, 0), d))
        groups.append(Group(tuple(m for m in members if m not in apart), counted, dtype, decided.get(root)))
    groups += [Group((name,), (name,), dtypes[name], encoding) for name, encoding in apart.items()]
    return Solution(tuple(groups), tuple(conflicts))


def _join(finder: _UnionFind, tensors: Iterable[str]) -> None:
    first, *rest = list(tensors) or [""]
    for other in rest:
        finder.union(first, other)


_Demand = tuple[str, str, Encoding]


def _demands(
    dtypes: Mapping[str, str], fixed: Iterable[Fixed], given: Mapping[str, Encoding], finder: _UnionFind
) -> dict[str, list[_Demand]]:
    """Root -> (tensor, rule, encoding) demanded in its group: the givens when there are any, else the fixed grids."""
    found: dict[str, list[_Demand]] = {}
    for name in sorted(set(given) & set(dtypes)):
        found.setdefault(finder.find(name), []).append((name, given[name].origin, given[name]))
    settled = set(found)
    members = finder.components()
    for row in fixed:
        root = finder.find(row.tensor)
        dtype = max((dtypes[m] for m in members[root]), key=lambda d: (INT_BITS.get(d, 0), d))
        if root not in settled and dtype in row.choices:
            scale, zero = row.choices[dtype]
            found.setdefault(root, []).append((row.tensor, row.rule, Encoding(dtype, scale, zero, origin="fixed")))
    return found


def _conflicts(wanted: list[_Demand], members: list[str], ties: Iterable[Shared]) -> list[Conflict]:
    """A conflict for every demand that differs from the first one by name."""
    first_tensor, first_rule, first = wanted[0]
    found = []
    for tensor, rule, encoding in wanted[1:]:
        if not encoding.same_grid(first):
            found.append(Conflict(first_tensor, first_rule, tensor, rule, _path(first_tensor, tensor, members, ties)))
    return found


def _path(start: str, end: str, members: list[str], ties: Iterable[Shared]) -> tuple[str, ...]:
    """The tensors strictly between two members along hard ties: a shortest path, neighbours taken in order of name."""
    near: dict[str, set[str]] = {m: set() for m in members}
    for tie in ties:
        if not tie.soft:
            for name in tie.tensors:
                if name in near:
                    near[name] |= set(tie.tensors) - {name}
    came: dict[str, str] = {start: ""}
    queue = [start]
    for name in queue:
        for other in sorted(near[name] - came.keys()):
            came[other] = name
            queue.append(other)
    steps: list[str] = []
    step = came.get(end, "")
    while step and step != start:
        steps.append(step)
        step = came[step]
    return tuple(reversed(steps))
