"""QPC: a compiled model in a folder, ``programqpc.bin``, which is a package of npukit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from npukit.errors import ModelError, PackageError, UsageError
from npukit.graph import Graph, bind, part_of
from npukit.package import Package, read_package, write_package

FILE = "programqpc.bin"
# The first bytes of a QPC for the hardware, and of one of ours, which is a zip.
_VENDOR, _OURS = (0x00A1CD7C).to_bytes(4, "little"), b"PK\x03\x04"


@attrs.frozen
class Binding:
    """An input or output as callers hand it over: ``shapes`` has one entry per specialization, at least one."""

    name: str
    index: int
    is_input: bool
    dtype: np.dtype[Any]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """The bytes of the buffer that every specialization fits into."""
        return max(int(np.prod(shape, dtype=np.int64)) for shape in self.shapes) * self.dtype.itemsize


@attrs.frozen(eq=False)
class Qpc:
    """A compiled model: the package, the compiler's options by the names of qaic.Session's keywords, and its bindings, inputs
    first, then outputs, in the order of the graph."""

    package: Package
    options: Mapping[str, Any]
    bindings: tuple[Binding, ...]

    @classmethod
    def of(cls, package: Package) -> Qpc:
        """The QPC of a package that ``compile_model`` made. Raises PackageError for a package of another backend."""
        if package.manifest.backend != "aic":
            found = package.manifest.backend or "no backend"
            raise PackageError(f"the package is made for {found}, not for aic", hint="compile the ONNX model with qaic-exec")
        return cls(package, package.manifest.options.get("qaic") or {}, _bindings(package))

    @property
    def inputs(self) -> tuple[Binding, ...]:
        return tuple(b for b in self.bindings if b.is_input)

    @property
    def outputs(self) -> tuple[Binding, ...]:
        return tuple(b for b in self.bindings if not b.is_input)


def write_qpc(package: Package, folder: str | os.PathLike[str]) -> Path:
    """Write ``programqpc.bin`` into ``folder``. One that is not there yet appears with the whole file in it, or not at all."""
    target = Path(folder)
    if target.is_dir():
        write_package(package, target / FILE)
        return target / FILE
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(target)
        part.mkdir()
        try:
            write_package(package, part / FILE)
            part.rename(target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except OSError as error:
        raise UsageError(f"cannot make folder '{folder}': {error.strerror}") from None
    return target / FILE


def read_qpc(path: str | os.PathLike[str]) -> Qpc:
    """The QPC in a folder or a file. Raises UsageError when there is none, PackageError for one of the vendor or a damaged one."""
    found = Path(path)
    found = found / FILE if found.is_dir() else found
    try:
        with found.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UsageError(f"cannot read QPC '{found}': {error.strerror}") from None
    if start == _VENDOR:
        raise PackageError(
            f"QPC '{found}' was compiled for the hardware", hint="compile the ONNX model again with npukit's qaic-exec"
        )
    if start != _OURS:
        raise PackageError(f"'{found}' is no QPC, or it is truncated", hint="npukit's qaic-exec makes one of an ONNX model")
    return Qpc.of(read_package(found))


def _bindings(package: Package) -> tuple[Binding, ...]:
    graphs = [_native(package, bind(package.graph, sizes)) for sizes in package.bindings] or [_native(package, package.graph)]
    names = [(name, True) for name in package.graph.inputs] + [(name, False) for name in package.graph.outputs]
    return tuple(_binding(graphs, name, index, is_input) for index, (name, is_input) in enumerate(names))


def _native(package: Package, graph: Graph) -> Graph:
    """The graph with its inputs and outputs as callers hand them over."""
    encodings = package.encodings
    return graph.with_tensors(edge.native(graph.tensor(n), encodings.get(n)) for n, edge in package.edges.items())


def _binding(graphs: list[Graph], name: str, index: int, is_input: bool) -> Binding:
    tensors = [graph.tensor(name) for graph in graphs]
    shapes = tuple(t.static_shape for t in tensors)
    for tensor, shape in zip(tensors, shapes, strict=True):
        if shape is None:
            hint = "its shape follows from values: cut the model in front of it, output_node_names names what is left"
            raise ModelError(f"'{name}' has no fixed shape, found {list(tensor.shape or ())}", hint=hint)
    return Binding(name, index, is_input, np.dtype(tensors[0].dtype), tuple(s for s in shapes if s is not None))
