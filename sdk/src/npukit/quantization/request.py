"""What is asked about: a model, and the encodings and sizes that a user adds to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from npukit.backend import Backend, Edge, Target
from npukit.encoding import Encoding
from npukit.encoding.formats import extract_qdq, read_encodings
from npukit.errors import DataError, EncodingError, PluginError, UsageError, counted
from npukit.graph import Graph, load, source_hash
from npukit.package import Manifest, Package, is_package, read_package
from npukit.plugins import DEFAULT_BACKEND, KNOWN, READERS, Registry
from npukit.quantization.floats import FALLBACK, float_islands
from npukit.quantization.options import Options
from npukit.quantization.result import Quantized
from npukit.quantization.tied import Ties


@attrs.frozen(eq=False)
class Request:
    """A model and what a user says about it.

    ``source``: a path (.onnx, .dlc), ONNX bytes, a Graph, a Package, a Quantized, or a path or an object that a plugin reads.
    ``overrides``: an encodings file, or tensor -> Encoding; ``lenient`` skips those that match no tensor instead of refusing them.
    ``symbols`` binds symbolic dimensions, ``batch`` the first dimension of every input. ``example``: the inputs that a model which
    is a program (an nn.Module) is traced with, a tuple or name -> input. Every function that takes a model takes a Request in its
    place.
    """

    source: Any
    overrides: str | os.PathLike[str] | Mapping[str, Encoding] | None = None
    symbols: Mapping[str, int] = attrs.field(factory=dict)
    batch: int | None = None
    lenient: bool = False
    example: Any = None


@attrs.frozen(eq=False)
class Source:
    """A model that was read. ``encodings`` are those it carries (a package, or Q/DQ nodes), ``overrides`` the user's, which win;
    None when there are none. ``types``, ``edges``, ``ties`` and ``bindings`` are those of a package; ``islands`` are the types of
    its nodes that compute in float because integer and float tensors meet there, ``fallbacks`` of those whose integer form was
    refused. ``notes`` tell what reading left out.
    """

    graph: Graph
    encodings: Mapping[str, Encoding] = attrs.field(factory=dict)
    overrides: Mapping[str, Encoding] | None = None
    manifest: Manifest | None = None
    name: str = ""
    sha256: str = ""
    types: Mapping[str, str] = attrs.field(factory=dict)
    islands: Mapping[str, str] | None = None
    fallbacks: Mapping[str, str] = attrs.field(factory=dict)
    edges: Mapping[str, Edge] = attrs.field(factory=dict)
    ties: Ties = ()
    bindings: tuple[Mapping[str, int], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def float_fallback(self) -> bool:
        """Whether nodes of a package without a kernel may run in float."""
        return self.manifest is not None and bool(self.manifest.options.get("float_fallback"))

    @property
    def node_types(self) -> dict[str, str]:
        """What nodes compute in where it is not what the backend plans."""
        return {**self.fallbacks, **(self.islands or {}), **self.types}

    @property
    def given(self) -> dict[str, Encoding]:
        """All encodings that the model comes with."""
        return {**self.encodings, **(self.overrides or {})}

    @property
    def decided(self) -> dict[str, Encoding]:
        """All encodings that are decided before anything is calculated: those of tensors left in float are not."""
        return {n: e for n, e in self.given.items() if not e.origin.startswith(FALLBACK)}


def read_source(source: Any, *, example: Any = None, registry: Registry | None = None) -> Source:
    """Read a model, or a Request with one; ``example`` is that of a request. Raises UsageError for what is no model, ModelError for
    a damaged one, EncodingError for overrides that match no tensor."""
    request = source if isinstance(source, Request) else Request(source)
    if example is not None:
        request = attrs.evolve(request, example=example)
    found = _read(request, registry or Registry.load())
    return found if request.overrides is None else _overridden(found, request)


def _read(request: Request, registry: Registry) -> Source:
    source = request.source
    if not isinstance(source, (Source, Quantized, Package, Graph)):
        graph = registry.load_model(source, example=request.example, symbols=request.symbols, batch=request.batch)
        if graph is not None:
            return _of_graph(graph, source)
    _refuse(request)
    if isinstance(source, Source):
        return source
    if isinstance(source, Quantized):
        source = source.package
    if isinstance(source, Package):
        return _of_package(source)
    if isinstance(source, Graph):
        return Source(source, name=source.name)
    if not isinstance(source, bytes) and is_package(source):
        if request.symbols or request.batch is not None:
            raise UsageError(f"{source} is compiled already: symbols and batch are bound when a model is read from ONNX")
        return _of_package(read_package(source))
    return _of_graph(load(source, symbols=request.symbols, batch=request.batch), source)


def _refuse(request: Request) -> None:
    """Raise PluginError for what only a plugin that is not installed would read, UsageError for other objects that are no model and
    for an example that has no effect."""
    source = request.source
    packages = [kind.__module__.partition(".")[0] for kind in type(source).__mro__]
    keys = [Path(source).suffix] if isinstance(source, (str, os.PathLike)) else packages
    reader = next((READERS[key] for key in keys if key in READERS), None)
    if reader is not None:
        raise PluginError(f"{_label(source)} is read by plugin '{reader}', which is not here", hint=KNOWN[reader])
    if not isinstance(source, (Source, Quantized, Package, Graph, str, os.PathLike, bytes)):
        raise UsageError(f"a model is a path, bytes, Graph, Package or Quantized, not {type(source).__name__}")
    if request.example is not None:
        raise UsageError(f"{_label(source)} is not traced", hint="an example is for models that are programs, such as an nn.Module")


def _label(source: object) -> str:
    return f"'{source}'" if isinstance(source, (str, os.PathLike)) else f"a {type(source).__name__}"


def _of_graph(graph: Graph, source: Any) -> Source:
    """The graph of a model without its Q/DQ nodes, and the encodings that they stood for."""
    encodings: dict[str, Encoding] = {}
    if any(node.op in ("QuantizeLinear", "DequantizeLinear") for node in graph.nodes):
        graph, encodings = extract_qdq(graph)
    path = Path(source) if isinstance(source, (str, os.PathLike)) else None
    sha256 = source_hash(path) if path is not None and path.is_file() else ""
    return Source(graph, encodings, name=path.name if path else graph.name, sha256=sha256)


def _of_package(package: Package) -> Source:
    manifest = package.manifest
    asked = manifest.options.get("node_types")
    if asked is not None and not isinstance(asked, Mapping):
        raise DataError(f"the package's manifest is damaged: node_types is {asked!r}, not a mapping of node to type")
    return Source(
        package.graph,
        package.encodings,
        manifest=manifest,
        name=manifest.source_name,
        sha256=manifest.source_hash,
        types={n: t for n, t in package.types.items() if n in (asked or {})},
        islands=float_islands(package.graph, package.encodings) if manifest.options.get("islands") is True else None,
        fallbacks={n: t for n, t in package.types.items() if t == "float16"} if manifest.options.get("float_fallback") else {},
        edges=package.edges,
        ties=_ties_of(manifest),
        bindings=package.bindings,
    )


def _ties_of(manifest: Manifest) -> Ties:
    found = manifest.options.get("ties") or []
    if isinstance(found, list) and all(isinstance(p, list) and len(p) == 2 and all(isinstance(n, str) for n in p) for p in found):
        return tuple((a, b) for a, b in found)
    raise DataError(f"the package's manifest is damaged: ties is {str(found)[:80]!r}, not a list of pairs of tensors")


def _overridden(source: Source, request: Request) -> Source:
    """The source with the user's encodings, and notes about ignored ones."""
    overrides = request.overrides
    if isinstance(overrides, Mapping):
        return attrs.evolve(source, overrides=dict(overrides))
    assert overrides is not None
    try:
        read = read_encodings(overrides, source.graph, lenient=request.lenient)
    except EncodingError as error:
        name = os.fspath(overrides)
        message = error.message if name in error.message else f"{name}: {error.message}"
        raise EncodingError(message, hint=error.hint, code=error.code) from None
    notes = [f"{counted(len(read.encodings), 'encoding')} read from {os.fspath(overrides)}"]
    if read.ignored:
        notes.append(f"{counted(len(read.ignored), 'encoding')} ignored, no such tensor: {', '.join(sorted(read.ignored)[:5])}")
    return attrs.evolve(source, overrides=read.encodings, notes=(*source.notes, *notes))


def resolve(backend: str | Backend | Target, source: Source, registry: Registry, *, default: str = DEFAULT_BACKEND) -> Target:
    """The target of a model: the one named, else the one that a package was made for, else ``default``.

    A package brings its SoC and settings along when its backend is named without a SoC.
    """
    made_for = source.manifest.selection if source.manifest is not None else None
    return registry.target(backend, made_for=made_for, default=default)


def freed(source: Source, options: Options) -> Source:
    """A package with its overrides only, when types or a calibration are asked for: everything else is decided anew."""
    asked = options.decisions()
    if source.manifest is None or not source.encodings or not asked:
        return source
    kept = {n: e for n, e in source.encodings.items() if e.origin == "override"}
    count = counted(len(source.encodings), "encoding")
    note = f"{', '.join(asked)} asked for: what stays of the package are its overrides, {len(kept)} of {count}"
    return attrs.evolve(source, encodings=kept, notes=(*source.notes, note))
