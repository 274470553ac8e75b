"""A package without calibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from npukit.encoding import propagate
from npukit.graph import fold_constants
from npukit.package import Package
from npukit.plugins import Registry
from npukit.quantization.finish import make_manifest
from npukit.quantization.options import Options
from npukit.quantization.plan import vanished
from npukit.quantization.request import read_source
from npukit.quantization.result import Quantized, Report


def convert(source: Any, *, registry: Registry | None = None, history: Sequence[str] = ()) -> Quantized:
    """Make a package of a model, or of a Request, with the encodings it brings and those that follow from them; the rest stays
    float.
    """
    origin = read_source(source, registry=registry)
    graph = fold_constants(origin.graph)
    encodings = propagate(graph, {n: e for n, e in origin.given.items() if n in graph.tensors})
    notes = (*origin.notes, *vanished(graph, origin.given))
    manifest = make_manifest(origin, None, Options(), history)
    package = Package(manifest, graph, encodings, origin.types, origin.edges, origin.bindings)
    return Quantized(package, Report(Counter(e.origin for e in encodings.values()), (), notes))
