"""Sums of integers in float32 that no step rounds: whole, or in pieces that are added.

float32 holds integers up to 2**24, and multiples of 2**k up to 2**(24 + k). A sum that may grow beyond that is split: its weight,
or else its operand, into a multiple of a power of two and a rest. Both sums are exact, and adding them rounds once, as converting
the exact sum to float32 does. Splitting the weight takes no time, but it is enough for short sums only. A sum that is too long for
both is cut into blocks of inputs, whose sums are added in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import attrs
import numpy as np

from npukit.backend import FastCall, Operand
from npukit.backend.kernels import EXACT_FLOAT32
from npukit.backend.library.requantize import Requantization, spread
from npukit.backend.ort import OrtModel
from npukit.encoding import Array
from npukit.graph import Node, make_graph

# Pieces of weights, near to half of the bits of a type, the best first.
_WEIGHT_PIECES = (16, 8, 32, 4, 2)
PIECE = 256
# Adding and subtracting 1.5 * 2**23 * 256 leaves a float32 below 2**30 rounded to a multiple of 256.
_ROUND_TO_PIECE = np.float32(1.5 * 2**23 * PIECE)
_BLOCKS = 16  # at most
_LARGEST_TRIAL = 2**22  # elements of the operand: a larger convolution is not tried out
_FLOAT, _DOUBLE = 1, 11  # TensorProto


@attrs.frozen(eq=False)
class Sum:
    """The constant side of a sum: integer weights and an integer bias or None, as the kernels have them, and the scale of the sum.

    ``how`` is the requantization, None where the output is real values; ``bias`` has its offset in it. Output channels are on
    ``axis`` of the weights: 0, 1, or the last one.
    """

    weights: Array
    axis: int
    bias: Array | None
    scale: Array
    how: Requantization | None
    totals: Array = attrs.field(init=False)
    """The sums of the absolute weights per output channel."""

    @totals.default
    def _totals(self) -> Array:
        others = tuple(a for a in range(self.weights.ndim) if a != self.axis % self.weights.ndim)
        return np.asarray(np.abs(self.weights).sum(axis=others, dtype=np.float64))

    @property
    def depth(self) -> int:
        """The axis of the weights with the input channels."""
        return -2 if self.axis == -1 else 1 - self.axis

    def bound(self, most: float) -> float:
        """The largest absolute value of any partial sum when no value of the other operand is beyond ``most``."""
        return float(np.max(self.totals * most + (0 if self.bias is None else np.abs(self.bias)), initial=0))

    def write(self, call: FastCall, total: str, spatial: int) -> str | None:
        """The output for the total in float32, whose channels stand before ``spatial`` axes; None when it cannot be written."""
        out = call.wanted()
        if self.how is None or out is None:
            return call.write("Mul", total, call.variable(spread(self.scale, spatial)))
        return self.how.write(call, total, spatial, out)

    def parts(self, count: int) -> list[Sum]:
        """Sums over ``count`` parts of the input channels, the bias in the first one."""
        parts = np.array_split(self.weights, count, self.depth)
        return [attrs.evolve(self, weights=part, bias=None if index else self.bias) for index, part in enumerate(parts)]


Sums: TypeAlias = tuple[Sum, ...]
"""A sum, or two that add up to one."""


@attrs.frozen(eq=False)
class Term:
    """A sum that is exact in float32, with its other operand."""

    operand: Operand | str
    sum: Sum


def terms(call: FastCall, whole: Sum, operand: Operand | str, most: float, axis: int, *, grouped: bool) -> list[Term] | None:
    """Terms that add up to ``whole``; None when there are too many. No value of the operand is beyond ``most``.

    ``axis`` of the operand has the input channels, which can be cut into blocks unless they are ``grouped``.
    """
    cut = blocks(whole, lambda part: _pair(part, most), limit=1 if grouped else _BLOCKS)
    if cut is None:
        return None
    parts = zip(split(call, operand, cut, axis), cut, strict=True)
    return [term for part, sums in parts for term in _written(call, part, sums)]


def blocks(whole: Sum, exact: Callable[[Sum], Sums | None], limit: int = _BLOCKS) -> list[Sums] | None:
    """What ``exact`` makes of the least number of parts of a sum that it takes, up to ``limit`` of them; else None."""
    for count in (2**k for k in range(limit.bit_length())):
        if count <= whole.weights.shape[whole.depth]:
            found = [exact(part) for part in whole.parts(count)]
            if None not in found:
                return [sums for sums in found if sums]
    return None


def split(call: FastCall, operand: Operand | str, cut: Sequence[Sums], axis: int) -> Sequence[Operand | str]:
    """The parts of an operand for the blocks of a sum, whose input channels are on ``axis``."""
    if len(cut) == 1:
        return [operand]
    sizes = [sums[0].weights.shape[sums[0].depth] for sums in cut]
    return call.write_many("Split", operand, call.literal(sizes, np.int64), outputs=len(cut), axis=axis)


def total(call: FastCall, sums: Sequence[str]) -> str:
    """The total of exact sums, rounded once."""
    if len(sums) <= 2:
        return sums[0] if len(sums) == 1 else call.write("Add", *sums)
    wide = (call.write("Cast", each, to=_DOUBLE) for each in sums)
    return call.write("Cast", call.write("Sum", *wide), to=_FLOAT)


def is_short(whole: Sum, most: float) -> bool:
    """Whether a sum is exact in float32 as it is, or with its weight in two pieces."""
    return _short(whole, most) is not None


def _short(whole: Sum, most: float) -> Sums | None:
    """A sum that is exact in float32, or the sums of two pieces of its weight that are."""
    if whole.bound(most) <= EXACT_FLOAT32:
        return (whole,)
    for piece in _WEIGHT_PIECES:
        multiple = np.rint(whole.weights / piece) * piece
        pair = exact_pair(whole, piece, (multiple, most), (whole.weights - multiple, most))
        if pair is not None:
            return pair
    return None


def _pair(whole: Sum, most: float) -> Sums | None:
    """A short sum, or a sum twice, for two pieces of its operand."""
    return _short(whole, most) or exact_pair(whole, PIECE, (whole.weights, most + PIECE / 2), (whole.weights, PIECE / 2))


def exact_pair(whole: Sum, piece: int, *halves: tuple[Array, float]) -> Sums | None:
    """The sums of multiples of ``piece`` and of rests, each given by its weights and the largest value of its operand; None where
    one of them is not exact. The bias goes to the rests as far as they can hold it."""
    (upper, upper_most), (lower, lower_most) = halves
    for bias in (None, None if whole.bias is None else np.rint(whole.bias / piece) * piece):
        rest = whole.bias if bias is None or whole.bias is None else np.asarray(whole.bias - bias)
        pair = attrs.evolve(whole, weights=upper, bias=bias), attrs.evolve(whole, weights=lower, bias=rest)
        if pair[0].bound(upper_most) <= piece * EXACT_FLOAT32 and pair[1].bound(lower_most) <= EXACT_FLOAT32:
            return pair
    return None


def _written(call: FastCall, operand: Operand | str, sums: Sums) -> list[Term]:
    if len(sums) == 1 or sums[0].weights is not sums[1].weights:
        return [Term(operand, each) for each in sums]
    shift = call.literal(_ROUND_TO_PIECE)
    upper = call.write("Sub", call.write("Add", operand, shift), shift)
    return [Term(upper, sums[0]), Term(call.write("Sub", operand, upper), sums[1])]


def adds_once(terms: Sequence[Term], shape: Sequence[int | str | None], attributes: Mapping[str, Any]) -> bool:
    """Whether a depthwise Conv, to which ONNX Runtime fuses the addition of another one, still rounds once, as a trial tells.

    It does when all products are summed before the other sum is added. A Conv of many channels adds them block by block.
    """
    upper, lower = (term.sum for term in terms)
    sizes = tuple(d for d in shape if isinstance(d, int))
    if upper.weights.shape[1] != 1 or len(sizes) != upper.weights.ndim or upper.bias is not None:
        return False
    if math.prod(sizes) > _LARGEST_TRIAL:
        return False
    form = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in sorted(attributes.items()))
    return _trial(sizes, upper.weights.shape, lower.bias is not None, form)


@lru_cache(maxsize=256)
def _trial(shape: tuple[int, ...], weight: tuple[int, ...], has_bias: bool, attributes: tuple[tuple[str, Any], ...]) -> bool:
    """Whether the sum of two convolutions is rounded once, where both are exact and their sum needs up to 28 bits."""
    rng = np.random.default_rng(0)
    most = EXACT_FLOAT32 / (9 * math.prod(weight[1:]))
    x = np.rint(rng.uniform(0.9 * most, most, shape)).astype(np.float32)
    pieces = [rng.integers(6, 9, weight).astype(np.float32) for _ in range(2)]
    constants = {"a": 16 * pieces[0], "b": pieces[1]} | ({"bias": np.full(weight[0], most, np.float32)} if has_bias else {})
    nodes = [
        Node("Conv", "upper", ("x", "a"), ("upper",), dict(attributes)),
        Node("Conv", "lower", ("x", "b", *(["bias"] if has_bias else [])), ("lower",), dict(attributes)),
        Node("Add", "add", ("upper", "lower"), ("total",)),
    ]
    graph = make_graph(nodes, {"x": ("float32", shape)}, ["total"], constants)
    with OrtModel(graph) as fused, OrtModel(graph, ["upper", "lower"]) as apart:
        return bool(np.array_equal(fused.run({"x": x})["total"], np.add(*apart.run({"x": x}).values())))
