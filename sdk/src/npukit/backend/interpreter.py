"""Running a program of a KernelBackend: the steps, on kernels and on segments of the fast form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from npukit.backend.call import Accumulator, Call, Result
from npukit.backend.constants import Constants, joined, parts_of
from npukit.backend.fast import Lowering, Segment, lower, stages
from npukit.backend.recent import Recent
from npukit.backend.session import Program, Session
from npukit.backend.value import Value, value_of
from npukit.encoding import Array, Encoding
from npukit.graph import Graph, Node, evaluate_node

if TYPE_CHECKING:
    from npukit.backend.kernel import KernelBackend


@attrs.frozen(eq=False)
class _Step:
    """One step of a run: a segment, or the node at a place in the graph; ``done`` are the tensors that nobody reads after it."""

    run: Segment | int
    done: tuple[str, ...]


@attrs.frozen(eq=False)
class _Plan:
    """The steps that give ``tensors``; ``inputs`` are the graph inputs that are needed in their stored form."""

    tensors: frozenset[str]
    steps: tuple[_Step, ...]
    inputs: frozenset[str]


class Interpreter(Session):
    """Runs the steps of a plan, which is made for each set of tensors asked for and never changed; the last few are kept.

    Threads share plans and ``_memo``, whose entries are set whole: threads that make the same one at once each use their own.
    """

    def __init__(self, backend: KernelBackend, program: Program, lowerings: Mapping[str, Lowering]) -> None:
        super().__init__(program)
        self._backend = backend
        self._constants: Constants = program.payload
        self._kernels = backend.kernels(program.soc)
        self._memo: list[dict[str, Any]] = [{} for _ in program.graph.nodes]
        self._fast = lower(program, lowerings, self._results)
        self._stages = stages(program.graph, self._fast)
        self._plans: Recent[_Plan] = Recent()
        self._plan(program.graph.outputs)  # what ONNX Runtime refuses is refused when the session is opened

    def _run(self, feeds: Mapping[str, Array], tensors: Sequence[str]) -> dict[str, Array]:
        plan = self._plan(tensors)
        encodings = self.program.encodings
        values: dict[str, Value] = dict(self._constants.kept)
        values |= {name: value_of(np.asarray(feeds[name]), encodings.get(name)) for name in plan.inputs}
        found = {name: values[name].real() for name in tensors if name in values}
        found |= {name: self._constants[name].real() for name in tensors if name in self._constants.deferred}
        for step in plan.steps:
            if isinstance(step.run, Segment):
                made, shown = step.run.run(values, feeds)
                found |= shown
            else:
                made = self._compute(step.run, values)
                found |= {name: value.real() for name, value in made.items() if name in plan.tensors}
            values |= made
            for name in step.done:
                values.pop(name, None)
        return {name: found[name] for name in tensors}

    def metrics(self) -> dict[str, Any]:
        """How many nodes run in the fast form, in how many segments, and which do not."""
        nodes = self.program.graph.nodes
        slow = [f"{n.name} ({n.op})" for index, n in enumerate(nodes) if index not in self._fast]
        segments = sum(stage[0] in self._fast for stage in self._stages)
        return {"nodes": len(nodes), "fast": len(self._fast), "segments": segments, "numpy": slow}

    def _close(self) -> None:
        self._plans.clear()

    def _plan(self, tensors: Sequence[str]) -> _Plan:
        wanted = frozenset(tensors)
        return self._plans.get(wanted, lambda: self._plan_for(wanted))

    def _plan_for(self, tensors: frozenset[str]) -> _Plan:
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
        return _Plan(tensors, tuple(steps), frozenset(graph.inputs) & (stored | tensors))

    def _segment(self, stage: tuple[int, ...], last: Mapping[str, int], place: int, tensors: frozenset[str]) -> Segment:
        graph = self.program.graph
        made = [n for index in stage for n in graph.nodes[index].outputs if n]
        exports, shown = [n for n in made if last.get(n, place) > place], [n for n in made if n in tensors]
        return Segment(graph, self.program.encodings, [self._fast[index] for index in stage], exports, shown)

    def _compute(self, index: int, values: Mapping[str, Value]) -> dict[str, Value]:
        """The outputs of a node, computed by its kernel."""
        node = self.program.graph.nodes[index]
        deferred = self._constants.deferred.intersection(node.inputs)
        inputs = [(self._constants[n] if n in deferred else values[n]) if n else None for n in node.inputs]
        # What overflows or is undefined becomes infinite, NaN or saturates, as on the chip; numpy need not warn of it.
        with np.errstate(all="ignore"):
            results = self._in_parts(node, inputs) if deferred else self._results(node, inputs, self._memo[index])
        return dict(zip(node.outputs, results, strict=False))

    def _in_parts(self, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
        """The outputs of a node with large constants, of which nothing is kept."""
        wanted = self.program.encodings.get(node.outputs[0])
        results = [self._results(node, part, {}) for part in parts_of(node, inputs, wanted)]
        return results[0] if len(results) == 1 else [joined([first for first, *_ in results])]

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
