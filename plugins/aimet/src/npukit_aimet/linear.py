"""Conv, ConvTranspose, Gemm and MatMul as one thing: a constant matrix times columns taken from the input."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from functools import cached_property, lru_cache

import attrs
import numpy as np

from npukit.encoding import Array, Encoding, spread
from npukit.graph import Graph, Node, attribute
from npukit_aimet.reads import is_own

OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The ops that may be linear."""


@attrs.frozen(eq=False)
class Linear(abc.ABC):
    """A node whose output is ``scale x matrix x columns(input)`` plus a bias, with a constant matrix.

    ``x``, ``weight`` and ``bias`` are tensor names, ``bias`` "" when there is none that has one value per row. The matrix has shape
    (G, R, K): G groups with R rows each (output channels) of K weights. ``gain`` is what a change of the bias tensor has to be
    divided by to act like a change of matrix x columns: beta / alpha of a Gemm.
    """

    node: Node
    x: str
    weight: str
    bias: str
    shape: tuple[int, ...]
    groups: int = 1
    gain: float = 1.0

    @property
    def width(self) -> int:
        """K, the number of weights in a row."""
        return int(self.matrix(np.empty(self.shape, np.bool_)).shape[2])

    @abc.abstractmethod
    def matrix(self, values: Array) -> Array:
        """Values of the weight's shape as (G, R, K)."""

    @abc.abstractmethod
    def restore(self, matrix: Array) -> Array:
        """(G, R, K) back in the weight's shape."""

    @abc.abstractmethod
    def columns(self, x: Array, picks: Picks) -> Array:
        """Columns of one input as (G, K, n), float32; ``picks`` chooses n of all positions."""

    def grid(self, encoding: Encoding) -> tuple[Array, Array]:
        """Scale and zero point of every weight, (G, R, K) each: the same for all granularities."""
        parts = (encoding.steps, encoding.zeros)
        full = (np.broadcast_to(spread(part, encoding, self.shape), self.shape) for part in parts)
        scale, zero = (self.matrix(part).astype(np.float64) for part in full)
        return scale, zero

    def owners(self, encoding: Encoding) -> tuple[Array, bool]:
        """For every scale a row that uses it, counted through all groups (shape of the scales); whether no other does."""
        numbers = np.arange(encoding.steps.size).reshape(encoding.steps.shape)
        used = self.matrix(np.broadcast_to(spread(numbers, encoding, self.shape), self.shape))
        rows = np.arange(used.shape[0] * used.shape[1]).reshape(*used.shape[:2], 1)
        found = np.zeros(numbers.size, int)
        found[used] = rows
        return found.reshape(numbers.shape), bool((found[used] == rows).all())


class Picks:
    """Which positions of an output are looked at: at most ``limit`` per sample, drawn anew for every sample, reproducibly."""

    def __init__(self, limit: int, seed: Sequence[int]) -> None:
        self._limit = limit
        self._random = np.random.default_rng(list(seed))

    def of(self, count: int) -> Array:
        """Indices below ``count``, ascending."""
        if count <= self._limit:
            return np.arange(count)
        return np.sort(self._random.choice(count, self._limit, replace=False))


@attrs.frozen(eq=False)
class _Product(Linear):
    """Gemm and MatMul. ``transposed``: the weight is stored with its K axis last; ``left``: it is the first operand;
    ``flipped``: Gemm's transA."""

    transposed: bool = False
    left: bool = False
    flipped: bool = False

    def matrix(self, values: Array) -> Array:
        stacked = values.reshape(self.groups, *values.shape[-2:])
        return stacked if self.transposed else stacked.swapaxes(1, 2)

    def restore(self, matrix: Array) -> Array:
        return np.ascontiguousarray(matrix if self.transposed else matrix.swapaxes(1, 2)).reshape(self.shape)

    def columns(self, x: Array, picks: Picks) -> Array:
        rows = x.swapaxes(-1, -2) if self.left or self.flipped else x
        if self.groups > 1:  # a stack of matrices, one for each entry of the last batch axes
            batch = self.shape[:-2]
            rows = np.broadcast_to(rows, np.broadcast_shapes(rows.shape[:-2], batch) + rows.shape[-2:])
            rows = rows.reshape(-1, self.groups, *rows.shape[-2:]).swapaxes(0, 1).reshape(self.groups, -1, rows.shape[-1])
        else:
            rows = rows.reshape(1, -1, rows.shape[-1])
        return np.ascontiguousarray(rows[:, picks.of(rows.shape[1])].swapaxes(1, 2), np.float32)


@attrs.frozen(eq=False)
class _Convolution(Linear):
    """Conv and ConvTranspose in any number of dimensions."""

    @property
    def _is_transpose(self) -> bool:
        return self.node.op == "ConvTranspose"

    def matrix(self, values: Array) -> Array:
        if self._is_transpose:  # (in, out / groups, ...) per group: inputs are columns
            parts = values.reshape(self.groups, values.shape[0] // self.groups, values.shape[1], -1)
            return parts.swapaxes(1, 2).reshape(self.groups, values.shape[1], -1)
        return values.reshape(self.groups, values.shape[0] // self.groups, -1)

    def restore(self, matrix: Array) -> Array:
        if self._is_transpose:
            inner = (self.groups, self.shape[1], self.shape[0] // self.groups, -1)
            return np.ascontiguousarray(matrix.reshape(inner).swapaxes(1, 2)).reshape(self.shape)
        return matrix.reshape(self.shape)

    def columns(self, x: Array, picks: Picks) -> Array:
        tables = _sources(self._window, x.shape[2:])
        sizes = [table.shape[1] for table in tables]
        image, *spots = np.unravel_index(picks.of(len(x) * math.prod(sizes)), (len(x), *sizes))
        taps = np.unravel_index(np.arange(math.prod(self.shape[2:])), self.shape[2:])
        index, outside = image[None, :], np.zeros((1, 1), bool)
        for table, spot, tap, size in zip(tables, spots, taps, x.shape[2:], strict=True):
            source = table[tap[:, None], spot[None, :]]
            outside = outside | (source < 0)
            index = index * size + np.maximum(source, 0)
        columns = x.swapaxes(0, 1).reshape(x.shape[1], -1)[:, index]  # (channels, taps, n)
        if outside.any():
            columns[:, outside] = 0
        return np.asarray(columns.reshape(self.groups, -1, index.shape[1]), np.float32)

    @cached_property
    def _window(self) -> _Window:
        return _Window.of(self.node, self.shape[2:])


@attrs.frozen
class _Window:
    """Where the taps of a kernel lie, axis by axis (https://onnx.ai/onnx/operators/onnx__Conv.html and ...ConvTranspose.html)."""

    transpose: bool
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str
    output_padding: tuple[int, ...]
    output_shape: tuple[int, ...]

    @staticmethod
    def of(node: Node, kernel: tuple[int, ...]) -> _Window:
        rank = len(kernel)

        def numbers(name: str, default: int, count: int = rank) -> tuple[int, ...]:
            return tuple(int(v) for v in node.get(name) or (default,) * count)

        auto = node.get("auto_pad", "NOTSET")
        return _Window(
            node.op == "ConvTranspose",
            kernel,
            numbers("strides", 1),
            numbers("dilations", 1),
            numbers("pads", 0, 2 * rank),
            auto.decode() if isinstance(auto, bytes) else str(auto),
            numbers("output_padding", 0),
            tuple(int(v) for v in node.get("output_shape") or ()),
        )

    def sources(self, axis: int, size: int) -> Array:
        """For one axis an int table (taps, outputs): the input index that a tap reads at an output position, -1 for none."""
        stride, reach = self.strides[axis], self.dilations[axis] * np.arange(self.kernel[axis])[:, None]
        before, count = self._extent(axis, size)
        out = np.arange(count)[None, :]
        if not self.transpose:
            found = out * stride + reach - before
            return np.where((found >= 0) & (found < size), found, -1)
        spread_out = out + before - reach
        found = spread_out // stride
        return np.where((spread_out % stride == 0) & (found >= 0) & (found < size), found, -1)

    def _extent(self, axis: int, size: int) -> tuple[int, int]:
        """Padding in front, and number of outputs."""
        stride, span = self.strides[axis], self.dilations[axis] * (self.kernel[axis] - 1) + 1
        first, last = self.pads[axis], self.pads[axis + len(self.kernel)]
        if self.transpose:
            full = stride * (size - 1) + self.output_padding[axis] + span
            if self.output_shape or self.auto_pad.startswith("SAME"):
                count = self.output_shape[axis] if self.output_shape else size * stride
                total = max(full - count, 0)
                return (total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2), count
            return (0, full) if self.auto_pad == "VALID" else (first, full - first - last)
        if self.auto_pad.startswith("SAME"):
            count = -(-size // stride)
            total = max((count - 1) * stride + span - size, 0)
            return (total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2), count
        if self.auto_pad == "VALID":
            first = last = 0
        return first, (size + first + last - span) // stride + 1


@lru_cache(maxsize=64)
def _sources(window: _Window, sizes: tuple[int, ...]) -> tuple[Array, ...]:
    return tuple(window.sources(axis, size) for axis, size in enumerate(sizes))


def linear_view(graph: Graph, node: Node) -> Linear | None:
    """How a node multiplies its input by a constant; None for other ops, and when no operand is constant."""
    if node.domain or node.op not in OPS:
        return None
    left = node.op == "MatMul" and graph.constant(node.inputs[0]) is not None
    x, weight = (node.inputs[1], node.inputs[0]) if left else (node.inputs[0], node.inputs[1])
    values = graph.constant(weight)
    if values is None or graph.constant(x) is not None or values.ndim < 2 or not graph.tensor(weight).is_float:
        return None
    groups = int(attribute(node, "group")) if node.op.startswith("Conv") else math.prod(values.shape[:-2])
    if node.op.startswith("Conv"):
        rows = values.shape[1] * groups if node.op == "ConvTranspose" else values.shape[0]
        return _Convolution(node, x, weight, _bias(graph, node, rows), values.shape, groups)
    if node.op == "MatMul":
        return _Product(node, x, weight, "", values.shape, groups, transposed=left, left=left)
    turned = bool(attribute(node, "transB"))
    rows, alpha, beta = values.shape[0 if turned else 1], float(attribute(node, "alpha")), float(attribute(node, "beta"))
    bias = _bias(graph, node, rows) if alpha and beta else ""
    gain = beta / alpha if bias else 1.0
    flipped = bool(attribute(node, "transA"))
    return _Product(node, x, weight, bias, values.shape, 1, gain, transposed=turned, flipped=flipped)


def _bias(graph: Graph, node: Node, rows: int) -> str:
    """The third input when it is a constant with one value per row that nobody else reads."""
    name = node.input(2)
    data = graph.constant(name)
    fits = data is not None and data.size == rows and data.shape[-1:] == (rows,)
    return name if fits and is_own(graph, name) else ""
