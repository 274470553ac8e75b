"""KernelBackend: a backend made of op constraints and numpy kernels; the graph is interpreted here."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import numpy as np

from npukit.backend._base import Backend, Program, Session
from npukit.backend._constraint import Soc
from npukit.backend._fast import Lowering, Segment, lower, stages
from npukit.backend._value import Value, value_of
from npukit.backend.ort import is_installed
from npukit.encoding import Array, Encoding, container
from npukit.errors import ModelError
from npukit.graph import Graph, Node, evaluate_node


@attrs.frozen(eq=False)
class Accumulator:
    """Exact integers (in any numeric dtype that holds them) and the scale, broadcastable, that makes them real."""

    values: Array
    scale: Array


@attrs.frozen(eq=False)
class Call:
    """What a kernel gets: the node, its input values (None for an absent one), and the encoding wanted for each output.

    ``memo`` is kept per node between runs: put prepared constants there.
    """

    node: Node
    inputs: tuple[Value | None, ...]
    outputs: tuple[Encoding | None, ...]
    memo: dict[str, Any]

    def value(self, index: int) -> Value:
        """Input ``index``, which must be present."""
        value = self.optional(index)
        if value is None:
            raise ModelError(f"node '{self.node.name}' ({self.node.op}) needs its input {index}")
        return value

    def optional(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """The memoized result of ``make``; use it only for what depends on constants alone."""
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]


Result: TypeAlias = "Accumulator | Value | Array"
"""An Accumulator is requantized by the backend, a Value taken as it is, an array of real values rounded to the output grid."""

Kernel: TypeAlias = Callable[[Call], Sequence[Result]]


class KernelBackend(Backend):
    """A backend whose ops are numpy kernels. Supply ``kernels`` and, when the chip rounds in its own way, ``requantize``."""

    @abc.abstractmethod
    def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
        """Op type -> kernel on this SoC; the key of an op outside the default domain has the domain in front (``Node.key``).

        An op that is missing is computed in float by the ONNX reference.
        """

    def lowerings(self, soc: Soc) -> Mapping[str, Lowering]:
        """Op type -> how to write nodes of it in ONNX, with the results of the kernel bit for bit; by default there are none."""
        return {}

    def supports(self, op: str, domain: str = "") -> bool:
        return (f"{domain}.{op}" if domain else op) in self.kernels(self.soc())

    def requantize(self, acc: Accumulator, out: Encoding, soc: Soc) -> Array:
        """Codes of ``out`` for an accumulator: rounded to float32, one float32 multiplier, round half to even, saturate.

        This is the arithmetic of ONNX QLinearConv (https://onnx.ai/onnx/operators/onnx__QLinearConv.html) as onnxruntime does
        it; a chip that rounds differently overrides it. Grids of more than 16 bits are computed in float64.
        """
        work: Any = np.float32 if out.bits <= 16 else np.float64
        multiplier = (np.asarray(acc.scale, np.float64) / out.steps.astype(np.float64)).astype(np.float32)
        codes = np.asarray(np.multiply(acc.values, multiplier, dtype=work))
        np.rint(codes, out=codes)
        codes += out.zeros.astype(work)
        np.clip(codes, out.qmin, out.qmax, out=codes)
        return codes.astype(container(out))

    def compile(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Program:
        constants = {name: value_of(t.data, encodings.get(name)) for name, t in graph.tensors.items() if t.data is not None}
        return Program(self.name, soc, graph, dict(encodings), constants)

    def open(self, program: Program, kernels: str = "") -> Session:
        """Load a program; ``kernels`` is one of FORMS.

        "numpy" runs every node on its kernel, "fast" lowered nodes on ONNX Runtime; by default the fast form is taken when
        onnxruntime is installed. Both give the same results. Raises PluginError when onnxruntime is needed and not installed.
        """
        fast = kernels == "fast" or (not kernels and is_installed())
        return _Interpreter(self, program, self.lowerings(program.soc) if fast else {})


FORMS = ("numpy", "fast")
"""The forms in which a KernelBackend runs a program."""


@attrs.frozen(eq=False)
class _Step:
    """One step of a run: a segment, or the node at a place in the graph; ``done`` are the tensors that nobody reads after it."""

    run: Segment | int
    done: tuple[str, ...]


@attrs.frozen(eq=False)
class _Plan:
    """The steps that give ``tensors``; ``inputs`` are the graph inputs that are needed in their stored form."""

    tensors: tuple[str, ...]
    steps: tuple[_Step, ...]
    inputs: frozenset[str]

    @property
    def segments(self) -> list[Segment]:
        return [step.run for step in self.steps if isinstance(step.run, Segment)]


class _Interpreter(Session):
    def __init__(self, backend: KernelBackend, program: Program, lowerings: Mapping[str, Lowering]) -> None:
        super().__init__(program)
        self._backend = backend
        self._kernels = backend.kernels(program.soc)
        self._memo: list[dict[str, Any]] = [{} for _ in program.graph.nodes]
        self._fast = lower(program, lowerings, self._results)
        self._stages = stages(program.graph, self._fast)
        self._plan = self._plan_for(tuple(program.graph.outputs))

    def _run(self, feeds: Mapping[str, Array], tensors: Sequence[str]) -> dict[str, Array]:
        if tuple(tensors) != self._plan.tensors:
            self.close()
            self._plan = self._plan_for(tuple(tensors))
        encodings = self.program.encodings
        values: dict[str, Value] = dict(self.program.payload)
        values |= {name: value_of(np.asarray(feeds[name]), encodings.get(name)) for name in self._plan.inputs}
        found = {name: values[name].real() for name in tensors if name in values}
        for step in self._plan.steps:
            if isinstance(step.run, Segment):
                made, shown = step.run.run(values, feeds)
                found |= shown
            else:
                made = self._compute(step.run, values)
                found |= {name: value.real() for name, value in made.items() if name in self._plan.tensors}
            values |= made
            for name in step.done:
                values.pop(name, None)
        return {name: found[name] for name in tensors}

    def metrics(self) -> dict[str, Any]:
        """How many nodes run in the fast form, in how many segments, and which do not."""
        nodes = self.program.graph.nodes
        slow = [f"{n.name} ({n.op})" for index, n in enumerate(nodes) if index not in self._fast]
        return {"nodes": len(nodes), "fast": len(self._fast), "segments": len(self._plan.segments), "numpy": slow}

    def close(self) -> None:
        for segment in self._plan.segments:
            segment.close()

    def _plan_for(self, tensors: tuple[str, ...]) -> _Plan:
        """Decide what every step reads, makes and frees."""
        graph = self.program.graph
        entries = [stage if stage[0] in self._fast else stage[0] for stage in self._stages]
        reads = [_reads(graph, entry) for entry in entries]
        last = {name: place for place, names in enumerate(reads) for name in names}
        runs = [
            self._segment(entry, last, place, tensors) if isinstance(entry, tuple) else entry for place, entry in enumerate(entries)
        ]
        steps = []
        for place, (run, names) in enumerate(zip(runs, reads, strict=True)):
            made = run.exports if isinstance(run, Segment) else graph.nodes[run].outputs
            done = [n for n in {*names, *made} if last.get(n, place) == place and not graph.tensors[n].is_constant]
            steps.append(_Step(run, tuple(done)))
        stored = {n for run, names in zip(runs, reads, strict=True) for n in (run.stored if isinstance(run, Segment) else names)}
        return _Plan(tensors, tuple(steps), frozenset(graph.inputs) & (stored | set(tensors)))

    def _segment(self, stage: tuple[int, ...], last: Mapping[str, int], place: int, tensors: Sequence[str]) -> Segment:
        graph = self.program.graph
        made = [n for index in stage for n in graph.nodes[index].outputs if n]
        exports, shown = [n for n in made if last.get(n, place) > place], [n for n in made if n in tensors]
        return Segment(graph, self.program.encodings, [self._fast[index] for index in stage], exports, shown)

    def _compute(self, index: int, values: Mapping[str, Value]) -> dict[str, Value]:
        """The outputs of a node, computed by its kernel."""
        node = self.program.graph.nodes[index]
        # What overflows or is undefined becomes infinite, NaN or saturates, as on the chip; numpy need not warn of it.
        with np.errstate(all="ignore"):
            results = self._results(node, tuple(values[n] if n else None for n in node.inputs), self._memo[index])
        return dict(zip(node.outputs, results, strict=False))

    def _results(self, node: Node, inputs: Sequence[Value | None], memo: dict[str, Any]) -> list[Value]:
        wanted = tuple(self.program.encodings.get(name) if name else None for name in node.outputs)
        kernel = self._kernels.get(node.key)
        results: Sequence[Result]
        if kernel is not None:
            results = kernel(Call(node, tuple(inputs), wanted, memo))
        else:
            results = evaluate_node(node, [None if v is None else v.real() for v in inputs], self.program.graph)
        return [self._place(result, encoding) for result, encoding in zip(results, wanted, strict=False)]

    def _place(self, result: Result, encoding: Encoding | None) -> Value:
        if isinstance(result, Value):
            return result
        if isinstance(result, Accumulator):
            if encoding is not None and not encoding.is_float:
                return Value(self._backend.requantize(result, encoding, self.program.soc), encoding)
            result = (result.values * result.scale).astype(np.float32)
        return value_of(result, encoding)


def _reads(graph: Graph, entry: tuple[int, ...] | int) -> set[str]:
    """The tensors that a node or a stage reads from outside."""
    indices = (entry,) if isinstance(entry, int) else entry
    made = {n for index in indices for n in graph.nodes[index].outputs}
    return {n for index in indices for n in graph.nodes[index].inputs if n} - made
