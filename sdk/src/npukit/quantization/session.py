"""Open a model on a backend."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from npukit.backend import FORMS, Backend, KernelBackend, Problem, Program, Session, Target
from npukit.encoding import Array, Encoding
from npukit.errors import DataError, UsageError, did_you_mean
from npukit.graph import Graph, bind
from npukit.plugins import DEFAULT_BACKEND, FLOAT_BACKEND, Registry
from npukit.quantization.finish import checked_edges, refuse
from npukit.quantization.request import Source, read_source, resolve

KERNELS_HINT = f"--kernels is for emulators such as {DEFAULT_BACKEND}"


def open_session(
    source: Any,
    backend: str | Backend | Target = "",
    *,
    kernels: str = "",
    strict: bool = True,
    float_fallback: bool = False,
    registry: Registry | None = None,
) -> Session:
    """Load a model on a backend: a Quantized, a Package, the path of a .dlc or .onnx file, or a Request.

    Without ``backend`` a package runs where it was made for, a float model on the float reference; the backend it was made for
    without a SoC means the SoC it was made for, with the settings it was made with. Encodings that the model carries are used as
    they are; the rest is float. ``kernels`` "numpy" or "fast" chooses the form in which an emulator runs (KernelBackend.open).

    What the op constraints refuse does not run: ConstraintError with all problems, unless ``strict`` is False; then ``problems`` of
    the session lists them. A node without a kernel runs in float only with ``float_fallback``, where that was asked
    for when the package was made, or when not ``strict``; ``metrics()`` names such nodes.
    """
    registry = registry or Registry.load()
    origin = read_source(source, registry=registry)
    target = resolve(backend, origin, registry, default=FLOAT_BACKEND)
    if origin.manifest is None:
        origin = attrs.evolve(origin, graph=target.prepare(origin.graph))
    origin = attrs.evolve(origin, encodings={n: e for n, e in origin.given.items() if n in origin.graph.tensors}, overrides=None)
    how = _How(target, kernels, strict, float_fallback)
    return _Bindings(how, origin) if origin.bindings else how.open(origin)


@attrs.frozen(eq=False)
class _How:
    """Where and in which form to open a model."""

    target: Target
    kernels: str
    strict: bool
    float_fallback: bool

    def open(self, origin: Source) -> Session:
        """A session for a prepared model."""
        target, graph, encodings = self.target, origin.graph, origin.encodings
        types = dict(origin.types)
        problems: tuple[Problem, ...] = ()
        if not target.ignores_encodings:
            fallback = self.float_fallback or origin.float_fallback
            types = target.types(graph, encodings, float_fallback=fallback or not self.strict) | types
            problems = self._problems(graph, encodings, origin.types, fallback)
        program = target.compile(graph, encodings, types)
        program = attrs.evolve(program, edges=checked_edges(origin.edges, graph, encodings))
        session = self._loaded(program)
        session.problems = problems
        return session

    def _loaded(self, program: Program) -> Session:
        backend = self.target.backend
        if not self.kernels:
            return backend.open(program)
        if self.kernels not in FORMS:
            raise UsageError(f"there are no kernels '{self.kernels}'", hint=did_you_mean(self.kernels, FORMS))
        if not isinstance(backend, KernelBackend):
            raise UsageError(f"backend '{backend.name}' has no kernels to choose from", hint=KERNELS_HINT)
        return backend.open(program, self.kernels)

    def _problems(
        self, graph: Graph, encodings: Mapping[str, Encoding], types: Mapping[str, str], fallback: bool
    ) -> tuple[Problem, ...]:
        """What the op constraints say. Raises ConstraintError for errors when strict.

        A backend that knows better is asked only when there are errors: opening asks it anyway.
        """
        found = self.target.rules.validate(graph, encodings, types=types, float_fallback=fallback)
        if any(p.severity == "error" for p in found):
            found = self.target.backend.judge(graph, encodings, self.target.soc, found)
        if self.strict and not self.target.rules.open_ended:  # a backend without constraints runs what it can
            remedy = "npukit legalize changes encodings to end this" if encodings else "npukit quantize gives it encodings"
            refuse(self.target, found, remedy)
        return found


class _Bindings(Session):
    """One session for every binding of a symbolic model, opened when first needed; weights are shared."""

    def __init__(self, how: _How, origin: Source) -> None:
        program = how.target.compile(origin.graph, origin.encodings, origin.types)
        super().__init__(attrs.evolve(program, edges=dict(origin.edges)))
        self._how, self._origin = how, origin
        self._graphs = [how.target.prepare(bind(origin.graph, binding)) for binding in origin.bindings]
        self._opened: dict[int, Session] = {}
        self._lock = threading.Lock()

    @property
    def ignores_encodings(self) -> bool:
        return self._how.target.ignores_encodings

    def _run(self, feeds: Mapping[str, Array], tensors: Sequence[str]) -> dict[str, Array]:
        return self._session(self._fitting(feeds)).run(feeds, tensors)

    def _fitting(self, feeds: Mapping[str, Array]) -> int:
        """The number of the binding that the shapes of the inputs are those of."""
        for index, graph in enumerate(self._graphs):
            if all(graph.tensor(name).shape == feeds[name].shape for name in graph.inputs):
                return index
        found = ", ".join(f"{name} {list(feeds[name].shape)}" for name in self.program.graph.inputs)
        known = "; ".join(", ".join(f"{s}={size}" for s, size in binding.items()) for binding in self._origin.bindings)
        raise DataError(f"no binding of the package has inputs of these shapes: {found}", hint=f"it is bound for {known}")

    def _session(self, index: int) -> Session:
        with self._lock:
            if index not in self._opened:
                graph = self._graphs[index]
                inner = {n: e for n, e in self._origin.encodings.items() if n in graph.tensors}
                self._opened[index] = self._how.open(attrs.evolve(self._origin, graph=graph, encodings=inner, bindings=()))
                self.problems = tuple(dict.fromkeys((*self.problems, *self._opened[index].problems)))
            return self._opened[index]

    def metrics(self) -> dict[str, Any]:
        """Those of every binding that has run."""
        texts = [", ".join(f"{s}={size}" for s, size in binding.items()) for binding in self._origin.bindings]
        return {texts[index]: session.metrics() for index, session in sorted(self._opened.items())}

    def _close(self) -> None:
        for session in self._opened.values():
            session.close()
