"""What differs between two models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np

from npukit.encoding import Encoding
from npukit.graph import Array, Graph, Node, Tensor
from npukit.package.container import Package
from npukit.package.describe import short, typed_text


@attrs.frozen
class Difference:
    """One difference: ``kind`` is manifest, contract, layer, attribute, shape, weight, encoding or output.

    ``first`` and ``second`` are texts; "-" stands for what is absent.
    """

    kind: str
    name: str
    first: str
    second: str


def diff_packages(a: Package, b: Package) -> tuple[Difference, ...]:
    """All differences of two packages; layers (also those of subgraphs) and tensors are matched by name."""
    return (
        *_mappings("manifest", "", attrs.asdict(a.manifest), attrs.asdict(b.manifest)),
        *(d for part in ("types", "edges") for d in _mappings("contract", f"{part}: ", getattr(a, part), getattr(b, part))),
        *_mappings("contract", "", {"bindings": a.bindings}, {"bindings": b.bindings}),
        *_graphs("", a.graph, b.graph),
        *_encodings(a.encodings, b.encodings),
    )


def _graphs(prefix: str, a: Graph, b: Graph) -> Iterator[Difference]:
    left, right = _layers(a), _layers(b)
    for name in dict.fromkeys((*left, *right)):
        first, second = left.get(name), right.get(name)
        if first is None or second is None:
            yield Difference("layer", prefix + name, first.op if first else "-", second.op if second else "-")
        else:
            yield from _nodes(f"{prefix}{name}: ", first, second)
    if a.outputs != b.outputs:
        yield Difference("output", f"{prefix}graph outputs", ", ".join(a.outputs), ", ".join(b.outputs))
    for name in (n for n in a.tensors if n in b.tensors):
        yield from _tensors(prefix, a.tensors[name], b.tensors[name])


def _layers(graph: Graph) -> dict[str, Node]:
    """Nodes by name; one without a name, or with a name that is taken, goes by its first output, which is unique."""
    found: dict[str, Node] = {}
    for node in graph.nodes:
        free = node.name and node.name not in found
        found[node.name if free else f"{node.op} of {next(filter(None, node.outputs), '')}"] = node
    return found


def _nodes(prefix: str, a: Node, b: Node) -> Iterator[Difference]:
    for what in ("op", "domain", "inputs", "outputs"):
        first, second = getattr(a, what), getattr(b, what)
        if first != second:
            yield Difference("attribute", prefix + what, short(first), short(second))
    yield from _mappings("attribute", prefix, a.attributes, b.attributes)


def _mappings(kind: str, prefix: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    for key in sorted(a.keys() | b.keys()):
        first, second = a.get(key), b.get(key)
        if isinstance(first, Graph) and isinstance(second, Graph):
            yield from _graphs(f"{prefix}{key}: ", first, second)
        elif isinstance(first, Mapping) and isinstance(second, Mapping):
            yield from _mappings(kind, f"{prefix}{key}: ", first, second)
        elif isinstance(first, np.ndarray) and isinstance(second, np.ndarray) and first.shape == second.shape:
            if _changed(first, second).any():
                yield Difference(kind, prefix + key, short(first), _weight_text(first, second))
        elif type(first) is not type(second) or isinstance(first, np.ndarray) or first != second:
            yield Difference(kind, prefix + key, *("-" if v is None else short(v) for v in (first, second)))


def _tensors(prefix: str, a: Tensor, b: Tensor) -> Iterator[Difference]:
    if a.shape != b.shape or a.dtype != b.dtype:
        yield Difference("shape", prefix + a.name, *(f"{t.dtype} {_shape_text(t)}" for t in (a, b)))
        return
    first, second = a.data, b.data
    if first is not None and second is not None:
        if _changed(first, second).any():
            yield Difference("weight", prefix + a.name, "", _weight_text(first, second))
    elif a.is_constant != b.is_constant:
        yield Difference("weight", prefix + a.name, *("constant" if t.is_constant else "computed" for t in (a, b)))


def _shape_text(tensor: Tensor) -> str:
    return "of unknown rank" if tensor.shape is None else str(list(tensor.shape))


def _changed(a: Array, b: Array) -> Array:
    """Where two arrays of one shape differ; NaN equals NaN."""
    return np.asarray((a != b) & ~((a != a) & (b != b)))


def _weight_text(a: Array, b: Array) -> str:
    changed = _changed(a, b)
    text = f"{int(changed.sum())} of {a.size} values differ"
    if a.dtype == object:
        return text
    with np.errstate(invalid="ignore"):
        distance = np.abs(a[changed].astype(np.float64) - b[changed].astype(np.float64))
    return f"{text}, by at most {float(distance.max()):.4g}"


def _encodings(a: Mapping[str, Encoding], b: Mapping[str, Encoding]) -> Iterator[Difference]:
    for name in sorted(a.keys() | b.keys()):
        first, second = a.get(name), b.get(name)
        if first is None or second is None or not first.same_grid(second):
            texts = [typed_text(e) for e in (first, second)]
            if first is not None and second is not None and texts[0] == texts[1]:
                texts[1] = _grid_text(first, second)
            yield Difference("encoding", name, *texts)


def _grid_text(a: Encoding, b: Encoding) -> str:
    """What differs of two encodings that read the same."""
    fields = ("symmetric", "axis", "block_size")
    parts = [f"{f} {getattr(b, f)}, not {getattr(a, f)}" for f in fields if getattr(a, f) != getattr(b, f)]
    pairs = (("scales", a.steps, b.steps), ("zero points", a.zeros, b.zeros), ("block scales", a.block_scale, b.block_scale))
    for what, first, second in pairs:
        if first is not None and second is not None and first.shape == second.shape and _changed(first, second).any():
            parts.append(f"{what}: {_weight_text(first, second)}")
    return ", ".join(parts) or "scales of another shape"
