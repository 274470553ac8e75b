"""A model opened on every backend that is compared, and the float model beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from npukit.backend import Backend, KernelBackend, Session, Target
from npukit.encoding import has_original_weights
from npukit.errors import UsageError
from npukit.events import OnEvent, ignore
from npukit.graph import Graph
from npukit.plugins import FLOAT_BACKEND, REFERENCE, Registry
from npukit.quantization import Options, Quantized, Source, open_session, quantize, read_source, resolve
from npukit.quantization.session import KERNELS_HINT
from npukit.quantization.tied import tied_pairs


@attrs.frozen(eq=False)
class Opened:
    """``exact`` is the float model, called ``title``; ``sessions`` are the others by label. Tensors are compared by the names of
    ``graph``. ``ties`` are pairs that share a grid; ``notes`` are what a reader should know. The end of a with block closes them.
    """

    graph: Graph
    exact: Session
    title: str
    sessions: Mapping[str, Session]
    targets: Mapping[str, Target]
    ties: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        for session in (self.exact, *self.sessions.values()):
            session.close()


def open_all(
    source: Any,
    backends: Sequence[str | Backend | Target] | Mapping[str, Target] = (),
    *,
    data: Any,
    calibration: Any = None,
    options: Options | None = None,
    kernels: str = "",
    reference: Any = None,
    registry: Registry | None = None,
    on_event: OnEvent = ignore,
) -> Opened:
    """Open ``source`` on every backend, quantized for it first when it carries no encodings; the parameters are ``compare``'s.

    Raises UsageError when ``reference`` lacks an output.
    """
    options = options or Options()
    registry = registry or Registry.load()
    origin = read_source(source, registry=registry)
    targets = _targets(backends or (FLOAT_BACKEND, ""), origin, registry)
    emulators = {label for label, target in targets.items() if isinstance(target.backend, KernelBackend)}
    if kernels and not emulators:
        raise UsageError(f"none of {', '.join(targets)} has kernels to choose from", hint=KERNELS_HINT)
    anew = origin.overrides is not None or (origin.manifest is not None and bool(options.decisions()))
    models: dict[str, Source | Quantized] = {}
    for label, target in targets.items():
        ready = target.ignores_encodings or (origin.encodings and not anew)
        samples = data if calibration is None else calibration
        made = origin if ready else quantize(origin, target, data=samples, options=options, registry=registry, on_event=on_event)
        models[label] = made
    # The float model is that of the first quantized one: its names are the ones to compare by.
    base = next((m for m in models.values() if isinstance(m, Quantized)), None)
    graph = base.graph if base is not None else origin.graph
    sessions = {}
    for label, model in models.items():
        sessions[label] = open_session(
            model,
            targets[label],
            kernels=kernels if label in emulators else "",
            strict=options.strict,
            float_fallback=options.float_fallback,
            registry=registry,
        )
    judge = origin if reference is None else read_source(reference, registry=registry)
    exact = open_session(Source(graph if reference is None else judge.graph), REFERENCE, registry=registry)
    missing = [n for n in graph.outputs if n not in exact.program.graph.tensors]
    if missing:
        raise UsageError(f"the reference has no tensor '{missing[0]}', an output of the model", hint="name the original model")
    title = REFERENCE if reference is None else f"{judge.name} on {REFERENCE}"
    ties = tied_pairs(graph, (*origin.ties, *options.ties))
    return Opened(graph, exact, title, sessions, targets, ties, _weights_notes(origin) if reference is None else ())


def _targets(
    backends: Sequence[str | Backend | Target] | Mapping[str, Target], origin: Source, registry: Registry
) -> dict[str, Target]:
    """The targets by label: what they were asked for with, or their names."""
    if isinstance(backends, Mapping):
        return dict(backends)
    found: dict[str, Target] = {}
    for backend in backends:
        target = resolve(backend, origin, registry)
        named = backend if isinstance(backend, str) else target.name if isinstance(backend, Target) else ""
        found[named or target.backend.name] = target
    return found


def _weights_notes(origin: Source) -> tuple[str, ...]:
    """A note when the float weights of a package are not, or may not be, those of the model it was made from."""
    used = origin.manifest.options.get("optimize") if origin.manifest else None
    after = f" after {', '.join(map(str, used))}" if isinstance(used, (list, tuple)) and used else ""
    advice = f"name the original with --reference {origin.name}"
    if not has_original_weights(origin.graph):
        return (f"the weights compared with are those that the codes of the package stand for{after}: {advice}",)
    return (f"the weights compared with may be those{after}: {advice}",) if after else ()
