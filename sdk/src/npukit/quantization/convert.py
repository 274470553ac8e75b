"""A package without calibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs

from npukit.backend import Backend, Target
from npukit.encoding import propagate
from npukit.graph import fold_constants
from npukit.package import Package
from npukit.plugins import Registry
from npukit.quantization.finish import checked_edges, make_manifest
from npukit.quantization.floats import float_islands, with_floats
from npukit.quantization.options import Options
from npukit.quantization.plan import vanished
from npukit.quantization.request import read_source, resolve
from npukit.quantization.result import Quantized, Report


def convert(
    source: Any,
    backend: str | Backend | Target = "",
    *,
    options: Options | None = None,
    fold: bool = True,
    prepare: bool = False,
    registry: Registry | None = None,
    history: Sequence[str] = (),
) -> Quantized:
    """Make a package of a model, or of a Request, with the encodings it brings and those that follow from them; the rest stays
    float, in the types that ``options`` name (``float_type``, ``float_bias``).

    ``fold`` False leaves nodes that compute constants as they are, ``prepare`` makes the rewrites of the backend. With
    ``options.islands`` nodes at which integer and float tensors meet compute in float. ``options.edges`` are kept. ``backend`` is
    what the package is for; nothing is checked against its op constraints.
    """
    registry = registry or Registry.load()
    options = options or Options()
    origin = read_source(source, registry=registry)
    target = resolve(backend, origin, registry) if backend or options.float_bias or prepare else None
    graph = fold_constants(origin.graph) if fold else origin.graph
    graph = target.prepare(graph) if target is not None and prepare else graph
    given = origin.decided
    encodings = propagate(graph, {n: e for n, e in given.items() if n in graph.tensors})
    encodings = with_floats(graph, encodings, options, target.rules if target else None)
    islands = float_islands(graph, encodings) if options.islands else {}
    edges = checked_edges({**origin.edges, **options.edges}, graph, encodings)
    notes = (*origin.notes, *vanished(graph, given))
    manifest = make_manifest(origin, target if backend else None, attrs.evolve(options, node_types=origin.types), history)
    package = Package(manifest, graph, encodings, {**islands, **origin.types}, edges, origin.bindings)
    return Quantized(package, Report(Counter(e.origin for e in encodings.values()), (), notes))
