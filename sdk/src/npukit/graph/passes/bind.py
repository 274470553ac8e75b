"""Bind the symbolic dimensions of a graph."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from npukit.errors import UsageError, did_you_mean
from npukit.graph.infer import infer_shapes
from npukit.graph.model import Graph, Tensor


def bind(graph: Graph, symbols: Mapping[str, int]) -> Graph:
    """The graph with symbols replaced by sizes and its shapes inferred anew; constants are shared with ``graph``.

    Raises UsageError for a symbol that no input has, and for a size below 1.
    """
    known = {d for name in graph.inputs for d in graph.tensor(name).shape or () if isinstance(d, str)}
    for symbol, size in symbols.items():
        if symbol not in known:
            raise UsageError(f"the model has no symbolic dimension '{symbol}'", hint=did_you_mean(symbol, known))
        if size < 1:
            raise UsageError(f"dimension '{symbol}' must be at least 1, found {size}")
    inputs = [_bound(graph.tensor(name), symbols) for name in graph.inputs]
    # What was inferred for open dimensions says less than what follows from the bound ones.
    open_ones = [attrs.evolve(t, shape=None) for t in graph.tensors.values() if not t.is_constant and t.static_shape is None]
    return infer_shapes(graph.with_tensors(open_ones).with_tensors(inputs))


def _bound(tensor: Tensor, symbols: Mapping[str, int]) -> Tensor:
    if tensor.shape is None:
        return tensor
    return attrs.evolve(tensor, shape=tuple(symbols.get(d, d) if isinstance(d, str) else d for d in tensor.shape))
