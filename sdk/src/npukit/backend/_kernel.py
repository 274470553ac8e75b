"""KernelBackend: a backend made of op constraints and numpy kernels; the graph is interpreted here."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import numpy as np

from npukit.backend._base import Backend, Program, Session
from npukit.backend._constraint import Soc
from npukit.encoding import Array, Encoding, container, dequantize, fake_quantize, quantize
from npukit.errors import ModelError
from npukit.graph import Graph, Node, evaluate_node


@attrs.frozen(eq=False)
class Value:
    """A tensor during a run: integer codes when ``encoding`` is a grid, else the values themselves."""

    data: Array
    encoding: Encoding | None = None

    @property
    def is_codes(self) -> bool:
        return self.encoding is not None and not self.encoding.is_float

    def real(self) -> Array:
        """The real values, float32; non-float tensors (indices, masks) as they are."""
        if self.encoding is None or self.encoding.is_float:
            return self.data
        return dequantize(self.data, self.encoding)


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
        """Op type -> kernel on this SoC. An op that is missing is computed in float by the ONNX reference."""

    def supports(self, op: str, domain: str = "") -> bool:
        return not domain and op in self.kernels(self.soc())

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
        constants = {name: _constant_value(t.data, encodings.get(name)) for name, t in graph.tensors.items() if t.data is not None}
        return Program(self.name, soc, graph, dict(encodings), constants)

    def open(self, program: Program) -> Session:
        return _Interpreter(self, program)


def _constant_value(data: Array, encoding: Encoding | None) -> Value:
    if encoding is None:
        return Value(data)
    if encoding.is_float:
        return Value(fake_quantize(data, encoding), encoding)
    return Value(quantize(data, encoding), encoding)


class _Interpreter(Session):
    def __init__(self, backend: KernelBackend, program: Program) -> None:
        super().__init__(program)
        self._backend = backend
        self._kernels = backend.kernels(program.soc)
        self._memo: list[dict[str, Any]] = [{} for _ in program.graph.nodes]
        self._last_use = _last_uses(program.graph)

    def _run(self, feeds: Mapping[str, Array], tensors: Sequence[str]) -> dict[str, Array]:
        graph, encodings = self.program.graph, self.program.encodings
        values: dict[str, Value] = dict(self.program.payload)
        values |= {name: _constant_value(np.asarray(feeds[name]), encodings.get(name)) for name in graph.inputs}
        wanted = set(tensors)
        found = {name: values[name].real() for name in wanted if name in values}
        for index, node in enumerate(graph.nodes):
            # What overflows or is undefined becomes infinite, NaN or saturates, as on the chip; numpy need not warn of it.
            with np.errstate(all="ignore"):
                results = self._step(node, tuple(values[n] if n else None for n in node.inputs), self._memo[index])
            for name, value in zip(node.outputs, results, strict=False):
                values[name] = value
                if name in wanted:
                    found[name] = value.real()
            for name in self._last_use[index]:
                values.pop(name, None)
        return {name: found[name] for name in tensors}

    def _step(self, node: Node, inputs: tuple[Value | None, ...], memo: dict[str, Any]) -> list[Value]:
        wanted = tuple(self.program.encodings.get(name) if name else None for name in node.outputs)
        kernel = self._kernels.get(node.op) if not node.domain else None
        results: Sequence[Result]
        if kernel is not None:
            results = kernel(Call(node, inputs, wanted, memo))
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
        return _constant_value(result, encoding)


def _last_uses(graph: Graph) -> list[list[str]]:
    """For each node, the tensors that nobody reads after it (constants stay)."""
    last = {name: index for index, node in enumerate(graph.nodes) for name in (*node.inputs, *node.outputs) if name}
    uses: list[list[str]] = [[] for _ in graph.nodes]
    for name, index in last.items():
        if not graph.tensors[name].is_constant:
            uses[index].append(name)
    return uses
