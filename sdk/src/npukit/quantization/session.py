"""Open a model on a backend."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from npukit.backend import FORMS, Backend, KernelBackend, Session, Soc
from npukit.errors import UsageError, did_you_mean
from npukit.plugins import Registry
from npukit.quantization.pipeline import Source, read_source

KERNELS_HINT = "--kernels is for emulators such as htp"


def open_session(
    source: Any,
    *,
    backend: str = "",
    soc: str = "",
    soc_file: str | os.PathLike[str] | None = None,
    registry: Registry | None = None,
    symbols: Mapping[str, int] | None = None,
    batch: int | None = None,
    kernels: str = "",
) -> Session:
    """Load a model on a backend: a Quantized, a Package, or the path of a .dlc or .onnx file.

    Without ``backend`` a package runs where it was made for, a float model on cpu; the backend it was made for without a SoC means
    the SoC it was made for. Encodings that the model carries are used as
    they are; the rest is float. ``kernels`` "numpy" or "fast" chooses the form in which an emulator runs (KernelBackend.open).
    """
    registry = registry or Registry.load()
    origin = read_source(source, registry=registry, symbols=symbols, batch=batch)
    made_for = origin.manifest.backend if origin.manifest else ""
    selector = backend or made_for or "cpu"
    if origin.manifest is not None and selector.lower() == made_for and not soc:
        soc = origin.manifest.soc
    chosen, chip = registry.resolve(selector, soc=soc, soc_file=soc_file)
    return _open(chosen, registry.planner(chosen), chip, origin, kernels)


def _open(backend: Backend, planner: Backend, soc: Soc, origin: Source, kernels: str) -> Session:
    graph = planner.prepare(origin.graph) if origin.manifest is None else origin.graph
    encodings = {n: e for n, e in origin.encodings.items() if n in graph.tensors}
    program = backend.compile(graph, encodings, soc)
    if not kernels:
        return backend.open(program)
    if kernels not in FORMS:
        raise UsageError(f"there are no kernels '{kernels}'", hint=did_you_mean(kernels, FORMS))
    if not isinstance(backend, KernelBackend):
        raise UsageError(f"backend '{backend.name}' has no kernels to choose from", hint=KERNELS_HINT)
    return backend.open(program, kernels)
