"""Program and Session: a model compiled for a chip, and loaded."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any

import attrs
import numpy as np

from npukit.backend.constraint import Problem
from npukit.backend.edge import Edge
from npukit.backend.soc import Soc
from npukit.encoding import Array, Encoding
from npukit.errors import DataError, UsageError, did_you_mean
from npukit.graph import Graph, Node, Tensor


@attrs.frozen(eq=False)
class Program:
    """A model compiled for one SoC of one backend; ``payload`` is the backend's own.

    ``settings`` are those of the backend (all of its options, by name). ``types`` says what each node computes in, by its name:
    "int", "float16" or "float32"; a node that is missing follows its encodings. ``edges`` are what callers hand over and get when a
    session runs natively; an input or output that is missing is handed over as the model has it.
    """

    backend: str
    soc: Soc
    graph: Graph
    encodings: Mapping[str, Encoding]
    payload: Any = None
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    types: Mapping[str, str] = attrs.field(factory=dict)
    edges: Mapping[str, Edge] = attrs.field(factory=dict)

    @cached_property
    def is_float32(self) -> bool:
        """Whether every node computes in float32."""
        return all(self.type_of(node) == "float32" for node in self.graph.nodes)

    def type_of(self, node: Node) -> str:
        """What ``node`` computes in."""
        return self.types.get(node.name) or stored_type(node, self.encodings)


def stored_type(node: Node, encodings: Mapping[str, Encoding]) -> str:
    """What a node's tensors are stored in: "int" when one has an integer grid, else "float16" when one is, else "float32"."""
    found = [encodings[name] for name in (*node.inputs, *node.outputs) if name in encodings]
    if not all(e.is_float for e in found):
        return "int"
    return "float16" if any(e.dtype == "float16" for e in found) else "float32"


@attrs.frozen
class OpTime:
    """What one op took in a run: ``value`` in ``unit`` ("us", "cycles"); ``op`` is "" for a step that is no node of the graph."""

    node: str
    op: str
    value: float
    unit: str


class Session(abc.ABC):
    """A program that is loaded and can run; a context manager.

    Sessions are thread-safe: any number of threads may call ``run`` of one session at once, for any tensors, and each gets bit for
    bit what it would get alone. ``close`` ends the session for all of them: runs that have begun are finished, later ones raise
    UsageError. A subclass implements ``_run``, which keeps to the same, and ``_close`` when it holds something.
    """

    problems: tuple[Problem, ...] = ()
    """What the op constraints say against the program, when it was opened in spite of that."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(self.program.graph.tensor(name) for name in self.program.graph.inputs)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return tuple(self.program.graph.tensor(name) for name in self.program.graph.outputs)

    @property
    def native_graph(self) -> Graph:
        """The graph with its inputs as ``edges`` say: what native data is checked against."""
        graph, program = self.program.graph, self.program
        edges = {n: e for n, e in program.edges.items() if n in graph.inputs}
        return graph.with_tensors(e.native(graph.tensor(n), program.encodings.get(n)) for n, e in edges.items())

    @property
    def ignores_encodings(self) -> bool:
        """Whether this session computes the float model whatever encodings the program has."""
        return False

    def run(self, feeds: Mapping[str, Array], tensors: Sequence[str] | None = None, *, native: bool = False) -> dict[str, Array]:
        """Run once.

        ``feeds`` has every graph input, real values in the model's own dtype. Returns real values (dequantized) of the graph
        outputs, or of ``tensors``, which may name any tensor of the graph. ``native``: inputs and outputs are handed over as
        ``program.edges`` say (codes, float16, channels last). Raises DataError when an input is missing, unknown, not finite, or of
        another dtype or shape; UsageError when the session is closed.
        """
        if self._closed:
            raise UsageError("the session is closed", hint="run inside the with block, or open another one")
        if native:
            real = self.run(self._to_real(feeds), tensors)
            return {name: self._from_real(name, value) for name, value in real.items()}
        check_feeds(self.program.graph, feeds)
        wanted = tuple(self.program.graph.outputs if tensors is None else tensors)
        for name in wanted:
            if name not in self.program.graph.tensors:
                raise DataError(f"tensor '{name}' is not in the model", hint=did_you_mean(name, self.program.graph.tensors))
        return self._run(feeds, wanted)

    def _to_real(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        program = self.program
        edges = {name: edge for name, edge in program.edges.items() if name in feeds and name in program.graph.inputs}
        found = {n: e.to_real(np.asarray(feeds[n]), program.graph.tensor(n), program.encodings.get(n)) for n, e in edges.items()}
        return {**feeds, **found}

    def _from_real(self, name: str, value: Array) -> Array:
        program = self.program
        edge = program.edges.get(name)
        return value if edge is None else edge.from_real(value, program.graph.tensor(name), program.encodings.get(name))

    @abc.abstractmethod
    def _run(self, feeds: Mapping[str, Array], tensors: Sequence[str]) -> dict[str, Array]:
        """``run`` on feeds and names that were checked; several threads may be in here."""

    def metrics(self) -> dict[str, Any]:
        """What the session knows about its own cost; empty by default."""
        return {}

    def profile(self, feeds: Mapping[str, Array]) -> tuple[OpTime, ...]:
        """Run once and return per-op figures. Raises UsageError when the backend has none."""
        raise UsageError(f"backend '{self.program.backend}' gives no per-op figures", code="no-profile")

    def close(self) -> None:
        """End the session and free what it holds; doing so again does nothing."""
        if not self._closed:
            self._closed = True
            self._close()

    def _close(self) -> None:  # noqa: B027  most sessions hold nothing
        """Free what the session holds; runs that have begun may still need it."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def check_feeds(graph: Graph, feeds: Mapping[str, Array]) -> None:
    """Raise DataError when ``feeds`` does not fit the inputs in names, dtypes, ranks or static dims, or is not finite.

    A mask in front of a Softmax may have -inf.
    """
    for name in feeds:
        if name not in graph.inputs:
            raise DataError(f"'{name}' is not an input of the model", hint=did_you_mean(name, graph.inputs))
    for name in graph.inputs:
        tensor = graph.tensor(name)
        if name not in feeds:
            raise DataError(f"input '{name}' is missing", hint=f"the model takes {', '.join(graph.inputs)}")
        value = np.asarray(feeds[name])
        if tensor.dtype and str(value.dtype) != tensor.dtype:
            raise DataError(f"input '{name}' is {value.dtype}, the model takes {tensor.dtype}")
        shape = tensor.shape
        if shape is not None and (
            len(shape) != value.ndim or any(isinstance(d, int) and d != v for d, v in zip(shape, value.shape, strict=True))
        ):
            raise DataError(f"input '{name}' has shape {list(value.shape)}, the model takes {list(shape)}")
        lowest = np.isneginf(value) if name in graph.before_softmax else False
        if value.dtype.kind == "f" and not np.all(np.isfinite(value) | lowest):
            raise DataError(f"input '{name}' has NaN or infinite values")
