"""Shapes of inputs."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from npukit.errors import UsageError, did_you_mean
from npukit.graph import Graph, bind, infer_shapes

_FLAG = "--source_model_input_shape"


def with_shapes(graph: Graph, pairs: Sequence[Sequence[str]]) -> Graph:
    """The graph with the open dimensions of inputs fixed, as (name, "1,3,224,224") say. Raises UsageError for what does not fit."""
    symbols: dict[str, int] = {}
    unnamed = {}
    for name, text in pairs:
        if name not in graph.inputs:
            raise UsageError(f"{_FLAG}: the model has no input '{name}'", hint=did_you_mean(name, graph.inputs))
        dims = _dims(name, text)
        shape = graph.tensor(name).shape
        if shape is None:
            shape = (None,) * len(dims)
        fits = len(shape) == len(dims) and all(not isinstance(d, int) or d == size for d, size in zip(shape, dims, strict=True))
        if not fits:
            hint = "only open dimensions can be set: export the model with dynamic axes to change the others"
            raise UsageError(f"{_FLAG} {name} {text}: the source has {list(shape)}", hint=hint)
        for known, size in zip(shape, dims, strict=True):
            if isinstance(known, str) and symbols.setdefault(known, size) != size:
                raise UsageError(f"{_FLAG}: dimension '{known}' is both {symbols[known]} and {size}")
        if None in shape:
            unnamed[name] = dims
    graph = bind(graph, symbols) if symbols else graph
    if not unnamed:
        return graph
    open_ones = [attrs.evolve(t, shape=None) for t in graph.tensors.values() if not t.is_constant and t.static_shape is None]
    inputs = [attrs.evolve(graph.tensor(name), shape=dims) for name, dims in unnamed.items()]
    return infer_shapes(graph.with_tensors(open_ones).with_tensors(inputs))


def _dims(name: str, text: str) -> tuple[int, ...]:
    words = text.replace("x", ",").split(",")
    if not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise UsageError(f"{_FLAG} {name}: '{text}' is no shape", hint="numbers above 0 with commas, such as 1,3,224,224")
    return tuple(int(word) for word in words)
