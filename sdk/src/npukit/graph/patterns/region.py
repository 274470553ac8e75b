"""A few nodes between two tensors as a function of real numbers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import attrs
import numpy as np

from npukit.graph.evaluate import attribute
from npukit.graph.model import Array, Graph, Node

_PARAMETERS = 1 << 16  # values in a constant of a region
_LARGEST = 16  # nodes that are looked at behind a tensor; the longest spelling known has 12


@attrs.frozen
class Region:
    """Nodes whose results follow from ``x`` and constants alone, each behind those that it reads."""

    graph: Graph
    x: str
    nodes: tuple[Node, ...]

    @property
    def root(self) -> str:
        """The last result."""
        return self.nodes[-1].outputs[0]

    def upto(self, last: Node) -> Region:
        """The part that the result of ``last`` needs."""
        names = set(last.outputs)
        kept = []
        for node in reversed(self.nodes):
            if names.intersection(node.outputs):
                names.update(node.inputs)
                kept.append(node)
        return Region(self.graph, self.x, tuple(reversed(kept)))

    def constants(self) -> list[str]:
        """The constants with more than one value that the nodes read as data."""
        names = dict.fromkeys(n for node in self.nodes for n in node.inputs[: _DATA_INPUTS.get(node.op)] if n)
        return [n for n in names if self.graph.is_constant(n) and self.graph.tensor(n).size > 1]

    def axes(self) -> list[int]:
        """The axes that nodes work along, counted from the end."""
        return sorted({a for node in self.nodes for a in _axes(node, self.graph)})

    def spelling(self) -> Hashable:
        """The same for regions that compute the same: ops, attributes, constants and who reads whom, without names."""
        numbers = {self.x: 0} | {node.outputs[0]: i + 1 for i, node in enumerate(self.nodes)}
        reads = (tuple(numbers[n] if n in numbers else _token(self.graph, n) for n in node.inputs) for node in self.nodes)
        attributes = (repr(sorted(node.attributes.items())) for node in self.nodes)
        shapes = (self.graph.tensor(n).shape for n in numbers)
        return tuple(zip((n.op for n in self.nodes), reads, attributes, strict=True)), tuple(shapes)

    def values(self, x: Array) -> dict[str, Array]:
        """Every result for values of ``x``, in float64; those whose shapes do not fit are missing."""
        found = {self.x: np.asarray(x, np.float64)}
        with np.errstate(all="ignore"):
            for node in self.nodes:
                try:
                    inputs = [found[n] if n in found else _constant(self.graph, n) for n in node.inputs]
                    found[node.outputs[0]] = np.asarray(_FUNCTIONS[node.op](node, inputs), np.float64)
                except (ValueError, IndexError, KeyError):
                    continue
        return found


def behind(graph: Graph, x: str) -> Region | None:
    """The nearest nodes behind a tensor that need nothing else than it and constants; None when there are less than two."""
    found: dict[str, Node] = {}
    waiting = deque(graph.consumers.get(x, ()))
    while waiting and len(found) < _LARGEST:
        node = waiting.popleft()
        known = all(not n or n == x or n in found or _is_parameter(graph, n) for n in node.inputs)
        if known and is_part(graph, node) and node.outputs[0] not in found:
            found[node.outputs[0]] = node
            waiting.extend(graph.consumers.get(node.outputs[0], ()))
    return Region(graph, x, tuple(found.values())) if len(found) > 1 else None


def _is_parameter(graph: Graph, name: str) -> bool:
    """Whether a constant may be a number or a gain; larger ones are data, and are not read."""
    return graph.is_constant(name) and graph.tensor(name).size <= _PARAMETERS


def is_part(graph: Graph, node: Node) -> bool:
    """Whether a node may be inside a region: a known function with one float result."""
    return node.op in _FUNCTIONS and not node.domain and len(node.outputs) == 1 and graph.tensor(node.outputs[0]).is_float


def _constant(graph: Graph, name: str) -> Array:
    """A constant; one of a single value has no axes, so that it changes no shapes. KeyError when it is none."""
    data = graph.constant(name)
    if name and data is None:
        raise KeyError(name)
    return np.zeros(0) if data is None else data.reshape(()) if data.size == 1 else data


def _token(graph: Graph, name: str) -> Hashable:
    """What tells the values of a constant from others."""
    data = graph.constant(name)
    return None if data is None else (data.shape, str(data.dtype), hash(data.tobytes()))


def _axes(node: Node, graph: Graph) -> tuple[int, ...]:
    """The axes that a node works along, counted from the end; () when it works on single values."""
    tensor = graph.tensors[node.inputs[0]]
    rank = len(tensor.shape or ())
    if node.op == "Softmax":
        axes: list[int] = [attribute(node, "axis")]
    elif node.op.startswith("Reduce"):
        given = graph.constant(node.input(1))
        axes = list(range(rank)) if given is None or not given.size else given.reshape(-1).tolist()
    else:
        return ()
    return tuple(sorted(a if a < 0 else a - rank for a in axes))


def _reduced(function: Callable[..., Array]) -> Callable[[Node, Sequence[Array]], Any]:
    def run(node: Node, inputs: Sequence[Array]) -> Any:
        if len(inputs) < 2 or not inputs[1].size:
            raise ValueError("a reduction over all axes")
        rank = inputs[0].ndim
        axes = tuple(int(a) % rank - rank for a in inputs[1].reshape(-1))
        return function(inputs[0], axis=axes, keepdims=bool(attribute(node, "keepdims")))

    return run


def _each(function: Callable[..., Any]) -> Callable[[Node, Sequence[Array]], Any]:
    return lambda node, inputs: function(*inputs)


def _clip(node: Node, inputs: Sequence[Array]) -> Any:
    low, high = (inputs[i] if len(inputs) > i and inputs[i].size else limit for i, limit in ((1, -np.inf), (2, np.inf)))
    return np.clip(inputs[0], low, high)


def _softmax(node: Node, inputs: Sequence[Array]) -> Any:
    axis = attribute(node, "axis")
    powers = np.exp(inputs[0] - inputs[0].max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def _sigmoid(x: Array) -> Any:
    return 1 / (1 + np.exp(-x))


# Elementwise functions and reductions. An Expand is left to the broadcasting of the node behind it.
_FUNCTIONS: dict[str, Callable[[Node, Sequence[Array]], Any]] = {
    "Abs": _each(np.abs),
    "Add": _each(np.add),
    "Cast": lambda node, inputs: inputs[0],
    "Clip": _clip,
    "Div": _each(np.divide),
    "Erf": _each(np.vectorize(math.erf, otypes=[np.float64])),
    "Exp": _each(np.exp),
    "Expand": lambda node, inputs: inputs[0],
    "HardSigmoid": lambda node, inputs: np.clip(attribute(node, "alpha") * inputs[0] + attribute(node, "beta"), 0, 1),
    "Log": _each(np.log),
    "Max": lambda node, inputs: np.maximum.reduce(np.broadcast_arrays(*inputs)),
    "Min": lambda node, inputs: np.minimum.reduce(np.broadcast_arrays(*inputs)),
    "Mul": _each(np.multiply),
    "Neg": _each(np.negative),
    "Pow": _each(np.power),
    "Reciprocal": _each(lambda x: 1 / x),
    "ReduceL2": _reduced(lambda x, **how: np.sqrt(np.sum(x * x, **how))),
    "ReduceMax": _reduced(np.max),
    "ReduceMean": _reduced(np.mean),
    "ReduceSum": _reduced(np.sum),
    "ReduceSumSquare": _reduced(lambda x, **how: np.sum(x * x, **how)),
    "Relu": _each(lambda x: np.maximum(x, 0)),
    "Sigmoid": _each(_sigmoid),
    "Softmax": _softmax,
    "Softplus": _each(lambda x: np.logaddexp(0, x)),
    "Sqrt": _each(np.sqrt),
    "Sub": _each(np.subtract),
    "Tanh": _each(np.tanh),
    "Unsqueeze": lambda node, inputs: np.expand_dims(inputs[0], tuple(int(a) for a in inputs[1].reshape(-1))),
}
# Of these ops only so many inputs hold data, the others axes and shapes.
_DATA_INPUTS = dict.fromkeys(("Expand", "Unsqueeze", *(op for op in _FUNCTIONS if op.startswith("Reduce"))), 1)
