"""Open a model on a backend."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from npukit.backend import FORMS, Backend, KernelBackend, Problem, Program, Session, Target
from npukit.encoding import Array
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
        return self.load(origin, self.problems(origin))

    def problems(self, origin: Source) -> tuple[Problem, ...]:
        """What the op constraints say of a prepared model. Raises ConstraintError for errors when strict.

        A backend that knows better is asked only when there are errors: opening asks it anyway.
        """
        graph, encodings = origin.graph, origin.encodings
        if self.target.ignores_encodings:
            return ()
        fallback = self.float_fallback or origin.float_fallback
        found = self.target.rules.validate(graph, encodings, types=origin.node_types, float_fallback=fallback)
        if any(p.severity == "error" for p in found):
            found = self.target.backend.judge(graph, encodings, self.target.soc, found)
        if self.strict and not self.target.rules.open_ended:  # a backend without constraints runs what it can
            remedy = "npukit legalize changes encodings to end this" if encodings else "npukit quantize gives it encodings"
            refuse(self.target, found, remedy)
        return found

    def load(self, origin: Source, problems: tuple[Problem, ...]) -> Session:
        """A session for a prepared model with these problems."""
        target, graph, encodings = self.target, origin.graph, origin.encodings
        types = origin.node_types
        if not target.ignores_encodings:
            fallback = self.float_fallback or origin.float_fallback or not self.strict
            types = target.types(graph, encodings, float_fallback=fallback) | types
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


class _Bindings(Session):
    """One session for every binding of a symbolic model, all judged at once and loaded when first needed; weights are shared."""

    def __init__(self, how: _How, origin: Source) -> None:
        target, edges = how.target, checked_edges(origin.edges, origin.graph, origin.encodings)
        super().__init__(
            Program(
                target.backend.name,
                target.soc,
                origin.graph,
                origin.encodings,
                settings=target.settings,
                types=origin.node_types,
                edges=edges,
            )
        )
        self._how, self._origin = how, origin
        self._bound = [_bound(origin, how.target.prepare(bind(origin.graph, binding))) for binding in origin.bindings]
        self._judged = [how.problems(bound) for bound in self._bound]
        self.problems = tuple(dict.fromkeys(problem for found in self._judged for problem in found))
        self._opened: dict[int, Session] = {}
        self._lock = threading.Lock()

    @property
    def ignores_encodings(self) -> bool:
        return self._how.target.ignores_encodings

    def _run(self, feeds: Mapping[str, Array], tensors: Sequence[str]) -> dict[str, Array]:
        return self._session(self._fitting(feeds)).run(feeds, tensors)

    def _fitting(self, feeds: Mapping[str, Array]) -> int:
        """The number of the binding that the shapes of the inputs are those of."""
        for index, bound in enumerate(self._bound):
            if all(bound.graph.tensor(name).shape == feeds[name].shape for name in bound.graph.inputs):
                return index
        found = ", ".join(f"{name} {list(feeds[name].shape)}" for name in self.program.graph.inputs)
        known = "; ".join(", ".join(f"{s}={size}" for s, size in binding.items()) for binding in self._origin.bindings)
        raise DataError(f"no binding of the package has inputs of these shapes: {found}", hint=f"it is bound for {known}")

    def _session(self, index: int) -> Session:
        with self._lock:
            if index not in self._opened:
                self._opened[index] = self._how.load(self._bound[index], self._judged[index])
            return self._opened[index]

    def metrics(self) -> dict[str, Any]:
        """Those of every binding that has run."""
        texts = [", ".join(f"{s}={size}" for s, size in binding.items()) for binding in self._origin.bindings]
        return {texts[index]: session.metrics() for index, session in sorted(self._opened.items())}

    def _close(self) -> None:
        for session in self._opened.values():
            session.close()


def _bound(origin: Source, graph: Graph) -> Source:
    """A symbolic model with ``graph``, one of its bindings, in its place."""
    inner = {n: e for n, e in origin.encodings.items() if n in graph.tensors}
    return attrs.evolve(origin, graph=graph, encodings=inner, bindings=())
