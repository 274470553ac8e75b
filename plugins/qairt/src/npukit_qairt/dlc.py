"""What the tools do with a DLC besides computing it: facts that QAIRT keeps in it, counts, and what a flag changed."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np

from npukit.encoding import Encoding
from npukit.errors import NpukitError
from npukit.graph import Graph, Tensor
from npukit.package import Manifest, Package
from npukit_qairt.table import Tool

_FACTS = "qairt"
# How the report calls the origins of encodings; what is not listed is "calibrated".
_ORIGINS = {"override": "given", "propagated": "propagated", "derived": "derived", "fixed": "fixed"}


def facts(manifest: Manifest | None) -> dict[str, Any]:
    """What QAIRT keeps in a DLC and npukit does not know: commands, version, copyright, trace."""
    found = manifest.options.get(_FACTS, {}) if manifest is not None else {}
    return dict(found) if isinstance(found, Mapping) else {}


def with_facts(package: Package, found: Mapping[str, Any]) -> Package:
    """The package with these facts."""
    options = {**package.manifest.options, _FACTS: dict(found)}
    return attrs.evolve(package, manifest=attrs.evolve(package.manifest, options=options))


def float_tensors(graph: Graph) -> tuple[str, ...]:
    """The float tensors that hold data: what an encoding is for."""
    used = {*graph.inputs, *graph.outputs, *graph.consumers, *graph.producers}
    return tuple(n for n, t in graph.tensors.items() if t.is_float and n in used and n not in graph.index_tensors)


def decision(encoding: Encoding | None) -> str:
    """Who decided about a tensor: given, propagated, calibrated, derived, fixed, optimizer, fallback."""
    if encoding is None or encoding.origin.startswith("fallback:"):
        return "fallback"
    return "optimizer" if encoding.origin.startswith("optimizer") else _ORIGINS.get(encoding.origin, "calibrated")


def counts_text(package: Package) -> str:
    """How many tensors there are, and who decided about them: the counts add up."""
    names = float_tensors(package.graph)
    found = Counter(decision(package.encodings.get(name)) for name in names)
    always = ("given", "propagated", "calibrated", "fallback", "derived")
    words = [f"{name} {found[name]}" for name in (*always, *sorted(found.keys() - set(always)))]
    return f"tensors: {len(names)} = {' + '.join(words)}"


def decisions_text(package: Package) -> str:
    """A line per tensor."""
    lines = []
    for name in float_tensors(package.graph):
        encoding = package.encodings.get(name)
        lines.append(f"{name}: {encoding.dtype if encoding else package.graph.tensor(name).dtype}, {decision(encoding)}")
    return "\n".join(lines)


def affected(a: Package, b: Package) -> int:
    """How many tensors differ: in values, type, shape, grid, place, what makes them, or how they are handed over."""
    names = a.graph.tensors.keys() | b.graph.tensors.keys()
    return sum(_form(a, name) != _form(b, name) or _values_differ(a, b, name) for name in names)


def _form(package: Package, name: str) -> Any:
    graph = package.graph
    tensor = graph.tensors.get(name)
    if tensor is None:
        return None
    encoding, node = package.encodings.get(name), graph.producers.get(name)
    grid = None if encoding is None else (encoding.dtype, encoding.axis, _bytes(encoding.scale), _bytes(encoding.zero_point))
    made = None if node is None else (node.key, node.inputs, str(node.attributes), package.types.get(node.name))
    place = [names.index(name) if name in names else None for names in (graph.inputs, graph.outputs)]
    return tensor.dtype, tensor.shape, tensor.is_constant, grid, made, place, package.edges.get(name)


def _bytes(values: Any) -> bytes:
    return b"" if values is None else bytes(np.asarray(values).tobytes())


def _values_differ(a: Package, b: Package, name: str) -> bool:
    first, second = (package.graph.tensors.get(name) for package in (a, b))
    if first is None or second is None or first.stored is second.stored:
        return False
    return not _equal(first, second)


def _equal(first: Tensor, second: Tensor) -> bool:
    x, y = first.data, second.data
    return x is not None and y is not None and bool(np.array_equal(x, y))


def report_flags(
    tool: Tool, args: Namespace, package: Package, make: Callable[[Namespace], Package], say: Callable[[str], Any]
) -> None:
    """Say of every flag that was given how many tensors it changed: ``make`` runs again without it.

    A flag without which nothing can be made needs no line.
    """
    for name in args.given:
        flag = tool.flag(name)
        if not flag.counts:
            continue
        without = Namespace(**{**vars(args), flag.key: flag.absent})
        try:
            count = affected(package, make(without))
        except NpukitError:
            continue
        say(f"{name}: {count} tensors affected")
