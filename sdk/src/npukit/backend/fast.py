"""The fast form: runs of nodes as ONNX graphs on integer codes, which ONNX Runtime executes with the results of the kernels.

A lowering writes one node in ONNX. Lowered nodes that belong together become a segment, one ONNX Runtime session; the others run on
their numpy kernels in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, TypeAlias

import attrs
import numpy as np

from npukit.backend.ort import OrtModel
from npukit.backend.session import Program, stored_type
from npukit.backend.value import Value
from npukit.encoding import Array, Encoding, container
from npukit.errors import ModelError
from npukit.graph import Graph, Node, Shape, Tensor

_OPSET = 21  # the first one whose QuantizeLinear knows 16 bits
_DOMAINS = {"com.microsoft": 1}
_TURN = np.uint8(128)
_FLOAT32, _FLOAT16 = 1, 10  # TensorProto

Compute: TypeAlias = Callable[[Node, Sequence[Value | None], dict[str, Any]], list[Value]]
"""Runs a node on its kernel: node, inputs, memo."""


class Form(Enum):
    """How a segment holds a tensor.

    CODES: the codes in uint8, uint16 or int16; int8 codes are uint8 with 128 added, the type whose products ONNX Runtime sums
    exactly on every processor. INTEGERS: code minus zero point, float32. REAL: the real values, float32. PLAIN: a tensor without
    a grid as it is; float16 tensors are float32 numbers that were rounded.
    """

    CODES = "codes"
    INTEGERS = "integers"
    REAL = "real"
    PLAIN = "plain"


@attrs.frozen
class Operand:
    """A tensor of the program in one form."""

    tensor: str
    form: Form


@attrs.frozen(eq=False)
class Fragment:
    """A node of the program in ONNX: what computes it, and the names of its outputs (CODES, or PLAIN without a grid).

    ``variables`` are those of ``constants`` that ONNX Runtime must take for inputs.
    """

    nodes: Sequence[tuple[Node, tuple[Operand | str, ...]]]
    constants: Mapping[str, Array]
    variables: Sequence[str]
    outputs: Mapping[str, Operand | str]


def _grid(encoding: Encoding | None) -> Encoding | None:
    """``encoding`` when a segment can hold tensors with it: one grid of 8 or 16 bits."""
    if encoding is None or encoding.granularity != "tensor" or encoding.bits not in (8, 16) or encoding.zeros.dtype.kind == "f":
        return None
    return encoding


def _form(encoding: Encoding | None) -> Form:
    """How a segment holds a tensor with this encoding at its borders."""
    return Form.PLAIN if encoding is None or encoding.is_float else Form.CODES


def _is_real(encoding: Encoding) -> bool:
    """Whether a segment can hold the real values of tensors with this encoding."""
    return encoding.dtype == "float16" or _grid(encoding) is not None


def _turned(codes: Array, encoding: Encoding | None) -> Array:
    """Codes of a program as CODES, or CODES as codes of a program: for int8 the sign bit is turned."""
    if encoding is None or encoding.dtype != "int8":
        return codes
    other = np.uint8 if codes.dtype == np.int8 else np.int8
    return np.asarray(np.asarray(codes, order="C").view(np.uint8) ^ _TURN).view(other)


def _code(code: int | Array, encoding: Encoding) -> Array:
    """One code of a program, or an array of them, as CODES."""
    return _turned(np.asarray(code, container(encoding)), encoding)


class FastCall:
    """What a lowering gets: one node, its operands, and the means to write it in ONNX (opset 21 and com.microsoft).

    ``type`` is what the node computes in: "int" in ``KernelBackend.lowerings``, a float type in ``float_lowerings``.
    The results must be those of the numpy kernel, bit for bit. ``is_float32`` says that every node of the program computes in
    float32.
    """

    def __init__(self, program: Program, index: int, compute: Compute) -> None:
        self.node = program.graph.nodes[index]
        self.type = program.type_of(self.node)
        self._graph, self._index, self._encodings, self._values = program.graph, index, program.encodings, program.payload
        self._compute, self._type_of = compute, program.type_of
        self.is_float32 = program.is_float32
        # A float island, whose inputs and outputs are rounded to the type it computes in; float32 they are already.
        self._rounds = self.type == "float16" and stored_type(self.node, program.encodings) != "float16"
        self._nodes: list[tuple[Node, tuple[Operand | str, ...]]] = []
        self._constants: dict[str, Array] = {}
        self._variables: list[str] = []
        self._outputs: dict[str, Operand | str] = {}
        self._count = 0

    # ------------------------------------------------------------------------------------------------ the node

    def has(self, index: int) -> bool:
        """Whether input ``index`` is there."""
        return bool(self.node.input(index))

    def constant(self, index: int) -> Value | None:
        """Input ``index`` when it is there and constant."""
        found: Value | None = self._values.get(self.node.input(index))
        return found

    def encoding(self, index: int) -> Encoding | None:
        """The encoding of input ``index``, None when a segment cannot hold such tensors."""
        return _grid(self._encodings.get(self.node.input(index)))

    def wanted(self, index: int = 0) -> Encoding | None:
        """The encoding of output ``index``, None when a segment cannot hold such tensors."""
        return _grid(self._encodings.get(self.node.outputs[index]))

    def gives_real(self, index: int = 0) -> bool:
        """Whether output ``index`` is real values, float32, without an encoding."""
        name = self.node.outputs[index]
        return name not in self._encodings and self._graph.tensor(name).dtype == "float32"

    def shape(self, index: int) -> Shape | None:
        """The shape of input ``index`` as far as it is known."""
        return self._graph.tensor(self.node.inputs[index]).shape

    def compute(self, *inputs: Value | None) -> Value:
        """The first output of the numpy kernel for other inputs: what a table or a permutation is made from."""
        with np.errstate(all="ignore"):
            return self._compute(self.node, inputs, {})[0]

    # ------------------------------------------------------------------------------------------------ operands

    def codes(self, index: int) -> Operand | str:
        """Input ``index`` as CODES."""
        value = self.constant(index)
        return self._operand(index, Form.CODES) if value is None else self.literal(_turned(value.data, value.encoding))

    def integers(self, index: int) -> Operand | str:
        """Input ``index`` as code minus zero point, float32."""
        value, encoding = self.constant(index), self.encoding(index)
        if value is None or encoding is None:
            return self._operand(index, Form.INTEGERS)
        return self.literal(value.data.astype(np.float32) - encoding.zeros.astype(np.float32))

    def has_real(self, index: int) -> bool:
        """Whether input ``index`` is there, has real values and a segment can hold them."""
        name, value = self.node.input(index), self.constant(index)
        if value is not None:
            return value.real().dtype == np.float32
        encoding = self._encodings.get(name)
        return bool(name) and (_is_real(encoding) if encoding is not None else self._graph.tensor(name).dtype == "float32")

    def real_constant(self, index: int) -> Array | None:
        """Input ``index`` as real values, float32, when it is there and constant; those of a float16 island are rounded."""
        value = self.constant(index)
        if value is None:
            return None
        return value.real().astype(np.float16).astype(np.float32) if self._rounds else value.real()

    def real(self, index: int) -> Operand | str:
        """Input ``index`` as real values, float32; on a float16 island they are rounded to float16."""
        constant, operand = self.real_constant(index), self._operand(index, Form.REAL)
        if constant is not None:
            return self.literal(constant)
        return self.half(operand) if self._rounds and not self._is_half(self.node.inputs[index]) else operand

    def plain(self, index: int) -> Operand | str:
        """Input ``index``, which has no encoding; "" when it is absent."""
        value = self.constant(index)
        if not self.has(index):
            return ""
        return self._operand(index, Form.PLAIN) if value is None else self.literal(value.data)

    def code(self, code: int | Array, encoding: Encoding) -> str:
        """One code, or an array of them, as CODES."""
        return self.literal(_code(code, encoding))

    def zero(self, encoding: Encoding) -> str:
        """The zero point as CODES."""
        return self.code(int(encoding.zeros), encoding)

    def literal(self, value: Any, dtype: Any = None) -> str:
        """A constant."""
        name = self._fresh()
        self._constants[name] = np.asarray(value, dtype)
        return name

    def variable(self, value: Any, dtype: Any = None) -> str:
        """A constant that ONNX Runtime does not fuse with others: an initializer that is a graph input may change between runs
        (https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html, constant folding).

        The scale behind an exact sum must be one: multiplied into the weights it would round every term.
        """
        name = self.literal(value, dtype)
        self._variables.append(name)
        return name

    # ------------------------------------------------------------------------------------------------ writing

    def write(self, op: str, *inputs: Operand | str, domain: str = "", **attributes: Any) -> str:
        """A node with one output, which is returned."""
        return self.write_many(op, *inputs, domain=domain, outputs=1, **attributes)[0]

    def write_many(self, op: str, *inputs: Operand | str, outputs: int, domain: str = "", **attributes: Any) -> tuple[str, ...]:
        """A node with several outputs."""
        made = tuple(self._fresh() for _ in range(outputs))
        self._nodes.append((Node(op, f"{made[0]}:{self.node.name}", (), made, attributes, domain), inputs))
        return made

    def quantized(self, values: Operand | str, encoding: Encoding) -> str:
        """CODES of real values."""
        return self.write("QuantizeLinear", values, self.literal(encoding.steps), self.zero(encoding))

    def rounded(self, values: Operand | str, encoding: Encoding) -> str:
        """CODES of values that are given in steps of the grid from its zero point."""
        return self.write("QuantizeLinear", values, self.literal(np.float32(1)), self.zero(encoding))

    def half(self, values: Operand | str) -> str:
        """Real values rounded to float16, as float32."""
        return self.write("Cast", self.write("Cast", values, to=_FLOAT16), to=_FLOAT32)

    def give_real(self, values: Operand | str, index: int = 0, *, picked: bool = False) -> bool:
        """Output ``index`` is these real values, rounded to the type of the node, then to its encoding; False when it cannot be.

        ``picked`` says that they are values of the inputs, which are float16 already when those are.
        """
        encoding = self._encodings.get(self.node.outputs[index])
        if encoding is not None and not _is_real(encoding):
            return False
        is_half = encoding is not None and encoding.is_float
        inputs = [name for name in self.node.inputs if name and self._graph.tensor(name).is_float]
        is_rounded = picked and (self._rounds or all(map(self._is_half, inputs)))  # an island has rounded its inputs
        if (is_half or self._rounds) and not is_rounded:
            values = self.half(values)
        return self.give(values if encoding is None or is_half else self.quantized(values, encoding), index)

    def give(self, name: Operand | str, index: int = 0) -> bool:
        """Output ``index`` is ``name``, CODES or PLAIN; True, for the end of a lowering."""
        self._outputs[self.node.outputs[index]] = name
        return True

    def fragment(self) -> Fragment:
        """What was written."""
        return Fragment(self._nodes, self._constants, self._variables, self._outputs)

    def _is_half(self, name: str) -> bool:
        """Whether a tensor holds float16 numbers: it is stored so, or comes without an encoding from a float16 island."""
        encoding, maker = self._encodings.get(name), self._graph.producers.get(name)
        if encoding is not None:
            return encoding.dtype == "float16"
        return maker is not None and self._type_of(maker) == "float16" and stored_type(maker, self._encodings) != "float16"

    def _operand(self, index: int, form: Form) -> Operand:
        return Operand(self.node.inputs[index], form)

    def _fresh(self) -> str:
        self._count += 1
        return f"{self._index}.{self._count}"


Lowering: TypeAlias = Callable[[FastCall], bool]
"""Writes a node in ONNX and gives all its outputs; False when this node has no fast form."""


def lower(program: Program, integer: Mapping[str, Lowering], real: Mapping[str, Lowering], compute: Compute) -> dict[int, Fragment]:
    """The fragments of all nodes that have a fast form, by the place of the node in the graph.

    ``integer`` are the lowerings of nodes that compute in integers, ``real`` those of the others; ``compute`` runs a node's kernel.
    Nodes with constants that a program does not keep have none: a session of ONNX Runtime would keep them.
    """
    found = {}
    for index, node in enumerate(program.graph.nodes):
        call = FastCall(program, index, compute)
        lowering = (integer if call.type == "int" else real).get(node.key)
        if lowering is not None and program.payload.deferred.isdisjoint(node.inputs) and lowering(call):
            found[index] = call.fragment()
    return found


def stages(graph: Graph, fast: Mapping[int, Fragment]) -> list[tuple[int, ...]]:
    """The nodes in an order that runs them in few segments: each entry is a set of lowered nodes, or one node that is not.

    The stage of a node counts the changes between lowered and other nodes on the way to it, so that all lowered nodes of a stage
    depend on earlier stages only and can run as one.
    """
    stage_of: dict[str, int] = {}
    found: dict[int, list[int]] = {}
    for index, node in enumerate(graph.nodes):
        before = max((stage_of.get(name, 0) for name in node.inputs), default=0)
        stage = before + ((before % 2 == 0) != (index in fast))  # lowered nodes are in even stages
        found.setdefault(stage, []).append(index)
        stage_of |= dict.fromkeys(node.outputs, stage)
    ordered: list[tuple[int, ...]] = []
    for stage in sorted(found):
        ordered += [tuple(found[stage])] if stage % 2 == 0 else [(index,) for index in found[stage]]
    return ordered


class Segment:
    """Lowered nodes as one ONNX Runtime session.

    ``stored`` are the tensors that it reads as they are stored (float32 inputs of the program it quantizes itself), ``exports``
    those that other steps of a run read from it, ``shown`` those whose real values it gives.
    """

    def __init__(
        self,
        graph: Graph,
        encodings: Mapping[str, Encoding],
        fragments: Sequence[Fragment],
        exports: Sequence[str],
        shown: Sequence[str],
    ) -> None:
        self._encodings = encodings
        self.exports, self.shown = tuple(exports), tuple(shown)
        writer = _Writer(graph, encodings)
        for fragment in fragments:
            writer.append(fragment)
        operands = [Operand(n, _form(encodings.get(n))) for n in self.exports]
        operands += [Operand(n, Form.REAL if n in encodings else Form.PLAIN) for n in self.shown]
        self._outputs = [writer.read(operand) for operand in operands]
        try:
            self._model = OrtModel(writer.graph(self._outputs), fuse_qdq=False)
        except ModelError as error:
            raise ModelError(error.message, hint="--kernels numpy needs no ONNX Runtime") from None
        self._stored, self._real = dict(writer.inputs), dict(writer.real_inputs)
        self.stored = tuple(self._stored)

    def run(self, values: Mapping[str, Value], feeds: Mapping[str, Array]) -> tuple[dict[str, Value], dict[str, Array]]:
        """The exported tensors, and the real values of the shown ones; ``feeds`` are the inputs of the program."""
        stored = {feed: _turned(values[n].data, values[n].encoding) for n, feed in self._stored.items()}
        found = self._model.run(stored | {feed: feeds[n] for n, feed in self._real.items()})
        arrays = [found[name] for name in self._outputs]
        grids = [self._encodings.get(n) for n in self.exports]
        exported = {n: Value(_turned(array, e), e) for n, e, array in zip(self.exports, grids, arrays, strict=False)}
        return exported, dict(zip(self.shown, arrays[len(self.exports) :], strict=True))


class _Writer:
    """Puts fragments together, with the conversions between forms that they need."""

    def __init__(self, graph: Graph, encodings: Mapping[str, Encoding]) -> None:
        self._graph, self._encodings = graph, encodings
        self._names: dict[Operand, str] = {}
        self._nodes: list[Node] = []
        self._tensors: dict[str, Tensor] = {}
        self._variables: list[str] = []
        self.inputs: dict[str, str] = {}
        self.real_inputs: dict[str, str] = {}

    def append(self, fragment: Fragment) -> None:
        self._tensors |= {name: Tensor.constant(name, data) for name, data in fragment.constants.items()}
        self._variables += fragment.variables
        for node, inputs in fragment.nodes:
            self._add(attrs.evolve(node, inputs=tuple(self.read(i) for i in inputs)))
        for tensor, name in fragment.outputs.items():
            self._names[Operand(tensor, _form(self._encodings.get(tensor)))] = self.read(name)

    def read(self, operand: Operand | str) -> str:
        """The ONNX tensor that holds an operand; it is made when it is not there yet."""
        if isinstance(operand, str):
            return operand
        if _form(self._encodings.get(operand.tensor)) is Form.PLAIN:  # which are the real values already
            operand = Operand(operand.tensor, Form.PLAIN)
        if operand not in self._names:
            made = self._converted if operand.form in (Form.INTEGERS, Form.REAL) else self._input
            self._names[operand] = made(operand)
        return self._names[operand]

    def graph(self, outputs: Sequence[str]) -> Graph:
        inputs = (*self.inputs.values(), *self.real_inputs.values(), *self._variables)
        return Graph("segment", tuple(self._nodes), self._tensors, inputs, tuple(dict.fromkeys(outputs)), _OPSET, _DOMAINS)

    def _converted(self, operand: Operand) -> str:
        encoding = self._encodings[operand.tensor]
        scale = encoding.steps if operand.form is Form.REAL else np.asarray(1, np.float32)
        return self._linear("DequantizeLinear", self.read(Operand(operand.tensor, Form.CODES)), operand, scale)

    def _input(self, operand: Operand) -> str:
        tensor, name = self._graph.tensor(operand.tensor), f"input:{operand.tensor}"
        is_codes = operand.form is Form.CODES
        quantizes = is_codes and tensor.name in self._graph.inputs and tensor.dtype == "float32"
        dtype = str(_code(0, self._encodings[tensor.name]).dtype) if is_codes and not quantizes else tensor.dtype
        self._tensors[name] = Tensor(name, dtype, tensor.shape)
        if quantizes:
            self.real_inputs[tensor.name] = name
            return self._linear("QuantizeLinear", name, operand, self._encodings[tensor.name].steps)
        self.inputs[tensor.name] = name
        return name

    def _linear(self, op: str, source: str, operand: Operand, scale: Array) -> str:
        """A QuantizeLinear or DequantizeLinear that makes ``operand``."""
        name, encoding = f"{operand.form.value}:{operand.tensor}", self._encodings[operand.tensor]
        constants = {f"{name}:scale": scale, f"{name}:zero": _code(int(encoding.zeros), encoding)}
        self._tensors |= {n: Tensor.constant(n, data) for n, data in constants.items()}
        self._add(Node(op, name, (source, *constants), (name,)))
        return name

    def _add(self, node: Node) -> None:
        self._tensors |= {n: Tensor(n) for n in node.outputs}
        self._nodes.append(node)
