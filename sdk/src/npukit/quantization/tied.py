"""Ties that a user states: pairs of tensors with one grid, such as a cache that a model takes and the one it gives back."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from npukit.backend import Problem
from npukit.encoding import Encoding, Shared
from npukit.errors import UsageError, did_you_mean
from npukit.graph import Graph

Ties: TypeAlias = tuple[tuple[str, str], ...]


def tied_pairs(graph: Graph, ties: Iterable[tuple[str, str]]) -> Ties:
    """The pairs of tensors that ``ties`` name, each once.

    A name in full is that of any float tensor with a grid of its own. In patterns, which look at inputs and outputs of the graph
    only, ``*`` stands for any text and ``?`` for one character, the same on both sides: ("past_*", "new_*") ties past_key to
    new_key. Raises UsageError for tensors that are not there, that have no grid of their own or another type than their partner,
    and for patterns that match nothing.
    """
    found = [pair for a, b in ties for pair in _matching(graph, a, b)]
    able = frozenset(graph.float_activations())
    for pair in found:
        types = [graph.tensor(name).dtype for name in pair]
        for name, dtype in zip(pair, types, strict=True):
            if name not in able:
                what = "a constant" if graph.tensor(name).is_constant else dtype if "float" not in dtype else "for shapes only"
                raise UsageError(f"tie {_text(pair)}: tensor '{name}' is {what}, so it has no grid to share")
        if types[0] != types[1]:
            raise UsageError(f"tie {_text(pair)}: tensor '{pair[0]}' is {types[0]}, '{pair[1]}' is {types[1]}")
    return tuple(dict.fromkeys(found))


def _matching(graph: Graph, a: str, b: str) -> Iterator[tuple[str, str]]:
    wild = [re.findall(r"[*?]", text) for text in (a, b)]
    if (a in graph.tensors and b in graph.tensors) or wild == [[], []]:
        for name in (a, b):
            if name not in graph.tensors:
                raise UsageError(f"tie {a}={b}: the model has no tensor '{name}'", hint=did_you_mean(name, graph.tensors))
        yield a, b
        return
    if wild[0] != wild[1]:
        raise UsageError(f"tie {a}={b}: both sides must have the same wildcards", hint="as in 'past_*=new_*'")
    ends = (*graph.inputs, *graph.outputs)
    pattern = re.compile(re.escape(a).replace(r"\*", "(.*)").replace(r"\?", "(.)"), re.DOTALL)
    matches = [match for name in ends if (match := pattern.fullmatch(name))]
    if not matches:
        raise UsageError(f"tie {a}={b}: no input or output of the model matches '{a}'", hint=did_you_mean(a, ends))
    for match in matches:
        partner = "".join(itertools.chain.from_iterable(zip(re.split(r"[*?]", b), (*match.groups(), ""), strict=True)))
        if partner not in ends:
            hint = did_you_mean(partner, ends)
            raise UsageError(f"tie {a}={b}: '{match[0]}' has no partner, '{partner}' is no input or output", hint=hint)
        yield match[0], partner


def tie_problems(ties: Ties, encodings: Mapping[str, Encoding]) -> Iterator[Problem]:
    """An error for every tie whose tensors have different encodings."""
    for a, b in ties:
        first, second = encodings.get(a), encodings.get(b)
        alike = first is second if first is None or second is None else first.same_grid(second)
        if not alike:
            message = f"tensors '{a}' ({_grid(first)}) and '{b}' ({_grid(second)}) are tied, but have different grids"
            yield Problem("error", "conflict", a, "tie", b, message, "give them one encoding, or drop the tie")


def as_shared(ties: Ties) -> tuple[Shared, ...]:
    """The ties as those of op constraints are."""
    return tuple(Shared(pair, f"tie {_text(pair)}") for pair in ties)


def idle_note(idle: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """A note about ties that change nothing."""
    shown = ", ".join(map(_text, idle[:5])) + (" ..." if len(idle) > 5 else "")
    return (f"ties that change nothing, because both tensors have one grid without them: {shown}",) if idle else ()


def _text(pair: tuple[str, str]) -> str:
    return "=".join(pair)


def _grid(encoding: Encoding | None) -> str:
    if encoding is None or encoding.is_float:
        return "float32" if encoding is None else encoding.dtype
    return f"{encoding.dtype}, scale {float(encoding.steps.max()):.6g}"
