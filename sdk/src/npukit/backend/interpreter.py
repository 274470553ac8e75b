"""Running a program of a KernelBackend: the steps, on kernels and on segments of the fast form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from npukit.backend.call import Accumulator, Call, Kernel, Result
from npukit.backend.constants import Constants, joined, parts_of
from npukit.backend.constraint import Problem
from npukit.backend.fast import Segment, lower, stages
from npukit.backend.recent import Recent
from npukit.backend.session import Program, Session, stored_type
from npukit.backend.value import Value, value_of
from npukit.encoding import Array, Encoding
from npukit.errors import ConstraintError, ModelError
from npukit.graph import Graph, Node, evaluate_node, host_nodes

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

    def __init__(self, backend: KernelBackend, program: Program, *, fast: bool) -> None:
        super().__init__(program)
        soc, nodes = program.soc, program.graph.nodes
        self._backend = backend
        self._constants: Constants = program.payload
        self._kernels = backend.kernels(soc)
        self._types = {node.name: program.type_of(node) for node in nodes}
        self._refuse_without_kernel()
        self._memo: list[dict[str, Any]] = [{} for _ in nodes]
        forms = (backend.lowerings(soc), backend.float_lowerings(soc)) if fast else ({}, {})
        self._fast = lower(program, *forms, self._results)
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
        """How many nodes run in the fast form, in how many segments, which on numpy kernels, which in float by the reference."""
        nodes = self.program.graph.nodes
        host = host_nodes(self.program.graph)
        slow = [n for index, n in enumerate(nodes) if index not in self._fast and (n.key in self._kernels or n.name not in host)]
        numpy, reference = ([f"{n.name} ({n.op})" for n in slow if (n.key in self._kernels) is has] for has in (True, False))
        segments = sum(stage[0] in self._fast for stage in self._stages)
        return {"nodes": len(nodes), "fast": len(self._fast), "segments": segments, "numpy": numpy, "reference": reference}

    def _refuse_without_kernel(self) -> None:
        """Raise ConstraintError when there are nodes without a kernel that nobody asked to compute in float."""
        host = host_nodes(self.program.graph)  # a compiler knows all shapes: what computes them is not for the chip
        absent = [n for n in self.program.graph.nodes if n.key not in self._kernels and n.name not in host]
        missing = [n for n in absent if self._types[n.name] == "int"]
        if missing:
            hint = "--float-fallback computes it in float16"
            found = [(n, f"node '{n.name}' ({n.key}) has no kernel in backend '{self._backend.name}'") for n in missing]
            problems = [Problem("error", "no-kernel", n.name, n.op, "", message, hint) for n, message in found]
            raise ConstraintError(found[0][1], problems=problems, hint=hint, code="no-kernel")

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
            done = [n for n in {*names, *made} if n and last.get(n, place) == place and not graph.tensors[n].is_constant]
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
        graph = self.program.graph
        absent = [n for n in node.outputs[len(results) :] if n and (n in graph.consumers or n in graph.outputs)]
        if absent:
            raise ModelError(f"node '{node.name}' ({node.op}): its kernel does not compute output '{absent[0]}'")
        return dict(zip(node.outputs, results, strict=False))

    def _in_parts(self, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
        """The outputs of a node with large constants, of which nothing is kept."""
        wanted = self.program.encodings.get(node.outputs[0])
        parts = parts_of(node, inputs, wanted) if self._types[node.name] == "int" else [inputs]
        results = [self._results(node, part, {}) for part in parts]
        return results[0] if len(results) == 1 else [joined([first for first, *_ in results])]

    def _results(self, node: Node, inputs: Sequence[Value | None], memo: dict[str, Any]) -> list[Value]:
        kind, kernel = self._types[node.name], self._kernels.get(node.key, self._reference)
        wanted = tuple(self.program.encodings.get(name) if name else None for name in node.outputs)
        results: Sequence[Result]
        if kind == "int" or kind == stored_type(node, self.program.encodings):
            results = kernel(Call(node, tuple(inputs), wanted, memo, kind))
        else:
            results = self._island(kernel, Call(node, tuple(inputs), (None,) * len(wanted), memo, kind))
        return [self._place(result, encoding) for result, encoding in zip(results, wanted, strict=False)]

    def _reference(self, call: Call) -> Sequence[Result]:
        """A node without a kernel, in float32 by ONNX's own definition."""
        return evaluate_node(call.node, [None if v is None else v.real() for v in call.inputs], self.program.graph)

    def _island(self, kernel: Kernel, call: Call) -> list[Result]:
        """A node that computes in another type than its tensors are stored in: its inputs and its results are rounded to it."""
        count = self._backend.rounded_inputs(call.node)
        inputs = (*(self._entering(call, index) for index in range(count)), *call.inputs[count:])
        return [_rounded(_real(result), call.type) for result in kernel(attrs.evolve(call, inputs=inputs))]

    def _entering(self, call: Call, index: int) -> Value | None:
        """Input ``index`` of a float island; a constant is rounded once."""
        value = call.optional(index)
        if value is None or not self.program.graph.tensors[call.node.inputs[index]].is_constant:
            return value and Value(_rounded(value.real(), call.type))
        found: Value = call.once(f"island input {index}", lambda: Value(_rounded(value.real(), call.type)))
        return found

    def _place(self, result: Result, encoding: Encoding | None) -> Value:
        if isinstance(result, Value):
            return result
        if isinstance(result, Accumulator) and encoding is not None and not encoding.is_float:
            return Value(self._backend.requantize(result, encoding, self.program.soc), encoding)
        return value_of(_real(result), encoding)


def _real(result: Result) -> Array:
    """The real values of what a kernel returned."""
    if isinstance(result, Accumulator):
        return np.asarray(result.values, np.float32) * np.asarray(result.scale, np.float32)
    return result.real() if isinstance(result, Value) else result


def _rounded(values: Array, kind: str) -> Array:
    """Values of float32 rounded to a float type; indices and masks as they are."""
    return values.astype(np.float16).astype(np.float32) if kind == "float16" and values.dtype == np.float32 else values


def _reads(graph: Graph, entry: tuple[int, ...] | int) -> set[str]:
    """The tensors that a node or a stage reads from outside."""
    indices = (entry,) if isinstance(entry, int) else entry
    made = {n for index in indices for n in graph.nodes[index].outputs}
    return {n for index in indices for n in graph.nodes[index].inputs if n} - made
