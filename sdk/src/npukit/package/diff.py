"""What differs between two models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np

from npukit.graph import Graph, Node
from npukit.package.container import Package
from npukit.package.describe import encoding_text


@attrs.frozen
class Difference:
    """One difference: ``kind`` is manifest, layer, attribute, shape, weight, encoding or output."""

    kind: str
    name: str
    first: str
    second: str


def diff_packages(a: Package, b: Package) -> tuple[Difference, ...]:
    """All differences of two packages; layers and tensors are matched by name."""
    return (*_manifests(a, b), *_layers(a.graph, b.graph), *_tensors(a.graph, b.graph), *_encodings(a, b))


def _manifests(a: Package, b: Package) -> Iterator[Difference]:
    left, right = attrs.asdict(a.manifest), attrs.asdict(b.manifest)
    yield from _mappings("manifest", "", left, right)


def _layers(a: Graph, b: Graph) -> Iterator[Difference]:
    left, right = {n.name: n for n in a.nodes}, {n.name: n for n in b.nodes}
    for name in (*left, *(n for n in right if n not in left)):
        if name not in left or name not in right:
            yield Difference("layer", name, left[name].op if name in left else "-", right[name].op if name in right else "-")
        else:
            yield from _nodes(left[name], right[name])
    if a.outputs != b.outputs:
        yield Difference("output", "graph outputs", ", ".join(a.outputs), ", ".join(b.outputs))


def _nodes(a: Node, b: Node) -> Iterator[Difference]:
    for what in ("op", "inputs", "outputs"):
        first, second = getattr(a, what), getattr(b, what)
        if first != second:
            yield Difference("attribute", f"{a.name}: {what}", str(first), str(second))
    yield from _mappings("attribute", f"{a.name}: ", a.attributes, b.attributes)


def _mappings(kind: str, prefix: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    for key in sorted(a.keys() | b.keys()):
        first, second = a.get(key, "-"), b.get(key, "-")
        if isinstance(first, Graph) or isinstance(second, Graph):
            continue
        if not np.array_equal(np.asarray(first, object), np.asarray(second, object)):
            yield Difference(kind, prefix + key, str(first), str(second))


def _tensors(a: Graph, b: Graph) -> Iterator[Difference]:
    for name in a.tensors:
        if name not in b.tensors:
            continue
        first, second = a.tensors[name], b.tensors[name]
        if first.shape != second.shape or first.dtype != second.dtype:
            yield Difference("shape", name, f"{first.dtype} {first.shape}", f"{second.dtype} {second.shape}")
        elif first.data is not None and second.data is not None and not np.array_equal(first.data, second.data):
            changed = int(np.sum(first.data != second.data))
            text = f"{changed} of {first.data.size} values differ"
            if first.is_float:
                text += f", by at most {float(np.max(np.abs(first.data.astype(np.float64) - second.data))):.4g}"
            yield Difference("weight", name, "", text)


def _encodings(a: Package, b: Package) -> Iterator[Difference]:
    for name in sorted(a.encodings.keys() | b.encodings.keys()):
        first, second = a.encodings.get(name), b.encodings.get(name)
        if first is None or second is None or not first.same_grid(second):
            texts = ["-" if e is None else f"{e.dtype} {encoding_text(e)}" for e in (first, second)]
            yield Difference("encoding", name, *texts)
