"""The one generic reader of op constraints: which row fits a node, what it demands, and what is violated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import attrs
import numpy as np

from npukit.backend._base import Backend, Precision
from npukit.backend._constraint import OpConstraint, Port, Problem, Soc, arch_number, grid_matches
from npukit.backend._generic import GENERIC
from npukit.encoding import FLOAT_BITS, INT_BITS, Encoding, Fixed, Shared
from npukit.graph import Graph, Node, attribute


@attrs.frozen(eq=False)
class Plan:
    """What the constraints ask of a graph before any range is known.

    ``activations`` and ``weights`` map float tensors to the encoding type they get when nobody decided; ``weight_ports`` holds
    the port a weight enters by; ``derived`` maps a bias to the (input, weight) whose scales it multiplies.
    """

    activations: Mapping[str, str]
    weights: Mapping[str, str]
    weight_ports: Mapping[str, Port]
    derived: Mapping[str, tuple[str, str]]
    shared: tuple[Shared, ...]
    fixed: tuple[Fixed, ...]


@attrs.frozen(eq=False)
class Rules:
    """The op constraints of one backend on one SoC."""

    backend: Backend
    soc: Soc
    rows: Mapping[tuple[str, str], tuple[OpConstraint, ...]]
    open_ended: bool

    @classmethod
    def of(cls, backend: Backend, soc: Soc) -> Rules:
        """The rules of a backend; one without constraints accepts everything and follows the generic rows."""
        own = backend.constraints()
        rows: dict[tuple[str, str], list[OpConstraint]] = {}
        for row in own or GENERIC:
            rows.setdefault((row.domain, row.op), []).append(row)
        return cls(backend, soc, {key: tuple(found) for key, found in rows.items()}, not own)

    def of_op(self, node: Node) -> tuple[OpConstraint, ...]:
        return self.rows.get((node.domain, node.op), (_free(node.op),) if self.open_ended else ())

    def best(self, graph: Graph, node: Node, findings: Callable[[OpConstraint], Iterable[Problem]]) -> OpConstraint | None:
        """The row of the node's op with the fewest errors, then the fewest warnings; None when the op has no row.

        On a tie a row that only a later architecture has comes first, as it says what to change; then one that takes the types as
        they are, as what it finds is about this node; then the order of the rows.
        """

        def badness(row: OpConstraint) -> tuple[int, int, bool, bool]:
            found = list(findings(row))
            errors = [p.rule for p in found if p.severity == "error"]
            return len(errors), sum(p.severity == "warning" for p in found), "arch" not in errors, "dtype" in errors

        return min(self.of_op(node), key=badness, default=None)

    def plan(self, graph: Graph, precision: Precision, given: Mapping[str, Encoding]) -> Plan:
        """What the rows demand of every float tensor of the graph."""
        activations = {n: given[n].dtype if n in given else precision.activations for n in graph.float_activations()}
        weights: dict[str, str] = {}
        ports: dict[str, Port] = {}
        derived: dict[str, tuple[str, str]] = {}
        shared: list[Shared] = []
        fixed: list[Fixed] = []

        def planned(wish: Precision, name: str, port: Port) -> str:
            if name in activations:
                return activations[name]
            if name in given:
                return given[name].dtype
            return _constant_dtype(graph, name, port, wish)

        for node in graph.nodes:
            wish = self._possible(node, precision)
            type_of = partial(planned, wish)
            row = self.best(graph, node, partial(self._wishes, graph, node, type_of, wish))
            if row is None or not self.backend.supports(node.op, node.domain):
                continue
            for name, port in input_ports(node, row):
                tensor = graph.tensor(name)
                if not tensor.is_constant or not tensor.is_float:
                    continue
                dtype = type_of(name, port)
                if port.derived and dtype in ("int8", "int16", "int32") and activations.get(node.inputs[0]) != "float32":
                    derived[name] = (node.inputs[0], node.inputs[1])
                elif is_weight(port) and dtype != "float32":
                    weights[name], ports[name] = dtype, port
                elif dtype != "float32":
                    activations[name] = dtype
            shared += _ties(graph, node, row)
            fixed += [Fixed(name, port.fixed, f"{node.op} '{node.name}'") for name, port in output_ports(node, row) if port.fixed]
        for name in weights:
            activations.pop(name, None)
        shared += [tie for tie in _fused(graph, self.backend.fusions()) if not given.keys() & set(tie.inner)]
        return Plan(activations, weights, ports, derived, tuple(shared), tuple(fixed))

    def validate(self, graph: Graph, encodings: Mapping[str, Encoding], *, float_fallback: bool = False) -> tuple[Problem, ...]:
        """Every violation of the rows by a graph whose tensors have ``encodings`` (none: the tensor's own type).

        With ``float_fallback`` an op that the backend accepts in float16 but has no kernel for is a warning, not an error.
        """
        found: list[Problem] = list(self._dynamic_shapes(graph))
        for node in graph.nodes:
            found += self._check_node(graph, node, encodings, float_fallback)
        return tuple(found)

    def _dynamic_shapes(self, graph: Graph) -> Iterator[Problem]:
        if not self.backend.static_shapes:
            return
        for name in graph.inputs:
            if graph.tensor(name).static_shape is None:
                shape = list(graph.tensor(name).shape or ())
                message = f"shape {shape} is not fixed; {self.backend.name} compiles fixed shapes"
                hint = "bind it with --onnx-define-symbol NAME=VALUE or --batch N"
                yield Problem("warning", "dynamic-shape", name, "input", name, message, hint)

    def _check_node(self, graph: Graph, node: Node, encodings: Mapping[str, Encoding], float_fallback: bool) -> list[Problem]:
        def problem(severity: str, rule: str, message: str, hint: str = "") -> list[Problem]:
            return [Problem(severity, rule, node.name, node.op, "", message, hint)]

        if any(isinstance(value, Graph) for value in node.attributes.values()):
            return problem("error", "subgraph", f"{node.key} contains a subgraph, which {self.backend.name} does not run")
        rows = self.of_op(node)
        if not rows:
            return problem("error", "unsupported-op", f"{self.backend.name} has no op {node.key}", "replace it by ops it has")
        if not self.backend.supports(node.op, node.domain):
            if float_fallback and any(not p.dtypes or "float16" in p.dtypes for row in rows for p in row.inputs[:1]):
                return problem("warning", "float-fallback", f"{node.key} runs in float16 between a dequantize and a quantize")
            hint = "--float-fallback runs it in float16"
            return problem("error", "no-kernel", f"{node.key} has no kernel in the {self.backend.name} emulator", hint)

        findings = partial(self._violations, graph, node, encodings)
        best = self.best(graph, node, findings)
        return [] if best is None else list(findings(best))

    def _possible(self, node: Node, precision: Precision) -> Precision:
        """``precision``, with 8-bit weights for an op that has no form with the wished ones on any architecture."""
        ports = [p for row in self.of_op(node) for p in row.inputs if is_weight(p) and not p.derived]
        offered = any(not p.dtypes or not p.dtypes.isdisjoint(_same_width(precision.weights)) for p in ports)
        keep = offered or not ports or precision.weights not in INT_BITS
        return precision if keep else attrs.evolve(precision, weights="int8")

    def _wishes(
        self, graph: Graph, node: Node, dtype_of: Callable[[str, Port], str], precision: Precision, row: OpConstraint
    ) -> Iterator[Problem]:
        """The misfits, and a warning for every weight that the row would give another type than was wished for."""
        yield from self._misfits(graph, node, dtype_of, row)
        for name, port in input_ports(node, row):
            tensor = graph.tensor(name)
            if tensor.is_constant and tensor.is_float and is_weight(port) and not port.derived:
                dtype = dtype_of(name, port)
                if dtype != precision.weights:
                    yield _Report(node, row)("weights", name, f"type {dtype}, not {precision.weights}", severity="warning")

    def _misfits(self, graph: Graph, node: Node, dtype_of: Callable[[str, Port], str], row: OpConstraint) -> Iterator[Problem]:
        """Findings that need types only: what decides which row a node is planned by."""
        report = _Report(node, row)
        yield from self._structure(graph, node, row, report)
        for name, port in (*input_ports(node, row), *output_ports(node, row)):
            yield from _tensor_findings(graph, name, port, report)
            tensor = graph.tensor(name)
            dtype = dtype_of(name, port) if tensor.is_float else tensor.dtype
            yield from _dtype_finding(name, port, dtype, report)

    def _violations(self, graph: Graph, node: Node, encodings: Mapping[str, Encoding], row: OpConstraint) -> Iterator[Problem]:
        report = _Report(node, row)
        yield from self._structure(graph, node, row, report)
        for name, port in (*input_ports(node, row), *output_ports(node, row)):
            yield from _tensor_findings(graph, name, port, report)
            encoding = encodings.get(name)
            dtype = graph.tensor(name).dtype if encoding is None else encoding.dtype
            wrong = list(_dtype_finding(name, port, dtype, report))
            if encoding is not None and not wrong and takes_plain_integers(port):
                wrong = [report("dtype", name, f"type {dtype} with an encoding, this form is for plain integers")]
            yield from wrong
            if encoding is not None and not wrong:
                yield from _grid_findings(graph, node, name, port, encodings, report)

    def _structure(self, graph: Graph, node: Node, row: OpConstraint, report: _Report) -> Iterator[Problem]:
        if arch_number(row.min_arch) > self.soc.generation:
            what = f"{node.op} in this form" + (f" ({row.variant})" if row.variant else "")
            yield report(
                "arch", "", f"{what} needs {row.min_arch} or later, {self.soc.name} is {self.soc.arch}", "choose another SoC"
            )
        for name, allowed in row.attributes.items():
            value = attribute(node, name)
            if value not in allowed:
                shown = " or ".join(str(v) for v in allowed)
                yield report("attribute", "", f"attribute {name} is {value}, allowed is {shown}")
        if row.caveat is not None and (not row.caveat.below or self.soc.generation < arch_number(row.caveat.below)):
            yield report(row.caveat.rule, "", row.caveat.message, row.caveat.hint, row.caveat.severity)
        given = [n for n in node.inputs if n]
        if not row.variadic and len(given) > len(row.inputs):
            form = f" in the form '{row.variant}'" if row.variant else ""
            yield report("inputs", "", f"{len(given)} inputs, allowed are {len(row.inputs)}{form}")
        needed = [i for i, port in enumerate(row.inputs) if not port.optional and port.dtypes]
        if any(not node.input(i) for i in needed) and not row.variadic:
            yield report("inputs", "", f"{len(given)} inputs, needed are {len(needed)}")
        if row.max_rank is None and not row.min_rank:
            return
        shape = graph.tensor(node.inputs[0]).shape if node.inputs and node.inputs[0] else ()
        if shape is None:
            yield report("rank", node.inputs[0], "the rank is not known, so the limit cannot be checked", severity="unknown")
        elif not row.min_rank <= len(shape) <= (row.max_rank if row.max_rank is not None else len(shape)):
            limit = f"{row.min_rank} to {row.max_rank}" if row.min_rank else f"at most {row.max_rank}"
            yield report("rank", node.inputs[0], f"rank {len(shape)}, allowed is {limit}")


@attrs.frozen
class _Report:
    node: Node
    row: OpConstraint

    def __call__(self, rule: str, tensor: str, message: str, hint: str = "", severity: str = "error") -> Problem:
        return Problem(severity, rule, self.node.name, self.node.op, tensor, message, hint, self.row.source)


def takes_plain_integers(port: Port) -> bool:
    """Whether a port lists types that no encoding has (int64, bool): it says nothing about encoded tensors."""
    return bool(port.dtypes - {*INT_BITS, *FLOAT_BITS})


def is_weight(port: Port) -> bool:
    """Whether a constant that enters by this port is a weight: the op takes it as a constant only, or with scales per channel."""
    return port.constant or port.axis is not None or "channel" in port.granularity


def input_ports(node: Node, row: OpConstraint) -> list[tuple[str, Port]]:
    """(tensor, port) of the inputs that are present and that the row knows."""
    pairs = ((name, row.input_port(i)) for i, name in enumerate(node.inputs))
    return [(name, port) for name, port in pairs if name and port is not None]


def output_ports(node: Node, row: OpConstraint) -> list[tuple[str, Port]]:
    pairs = ((name, row.output_port(i)) for i, name in enumerate(node.outputs))
    return [(name, port) for name, port in pairs if name and port is not None]


def port_axis(port: Port, rank: int) -> int | None:
    return None if port.axis is None or rank == 0 else port.axis % rank


def _free(op: str) -> OpConstraint:
    return OpConstraint(op, (Port(),), (Port(),), source="generic", variadic=True)


def _constant_dtype(graph: Graph, name: str, port: Port, precision: Precision) -> str:
    """The type a constant gets at a port: the first planned type that the port accepts, else its own.

    A weight keeps its width: it may change its sign, but never silently becomes wider or narrower than was asked for.
    """
    own = graph.tensor(name).dtype
    if not graph.tensor(name).is_float or (port.dtypes and port.dtypes <= {own}):
        return own
    wishes: tuple[str, ...]
    if port.derived:
        wishes = (precision.bias, precision.activations)
    elif is_weight(port):
        wishes = _same_width(precision.weights)
    else:
        wishes = (precision.activations,)
    for dtype in wishes:
        if dtype in port.dtypes:
            return dtype
    return own if not port.dtypes or own in port.dtypes else wishes[0]


def _same_width(dtype: str) -> tuple[str, ...]:
    """The type, then the one of the other sign: ("int8", "uint8"); a float type stands alone."""
    if dtype not in INT_BITS:
        return (dtype,)
    return dtype, dtype[1:] if dtype.startswith("u") else f"u{dtype}"


def _dtype_finding(name: str, port: Port, dtype: str, report: _Report) -> Iterator[Problem]:
    if port.dtypes and dtype and dtype not in port.dtypes:
        yield report("dtype", name, f"type {dtype}, allowed is {', '.join(sorted(port.dtypes))}")


def _tensor_findings(graph: Graph, name: str, port: Port, report: _Report) -> Iterator[Problem]:
    """What a port demands of a tensor whatever its encoding."""
    tensor = graph.tensor(name)
    if port.constant and not tensor.is_constant:
        yield report("constant", name, "must be a constant")
    if port.dynamic and tensor.is_constant:
        yield report("dynamic", name, "must not be a constant")
    shape = tensor.shape or ()
    for axis, (least, most) in port.dims.items():
        size = shape[axis] if -len(shape) <= axis < len(shape) else None
        if isinstance(size, int) and not least <= size <= most:
            yield report("dims", name, f"size {size} on axis {axis}, allowed is {least} to {most}")


def _grid_findings(
    graph: Graph, node: Node, name: str, port: Port, encodings: Mapping[str, Encoding], report: _Report
) -> Iterator[Problem]:
    encoding = encodings[name]
    if encoding.is_float:
        return
    if encoding.granularity not in port.granularity and not port.derived:
        yield report("granularity", name, f"per-{encoding.granularity} scales, allowed is {', '.join(sorted(port.granularity))}")
    axis = port_axis(port, len(graph.tensor(name).shape or ()))
    if encoding.granularity == "channel" and axis is not None and encoding.axis != axis:
        yield report("axis", name, f"scales on axis {encoding.axis}, allowed is axis {axis}")
    middle = 0 if encoding.signed else 1 << (encoding.bits - 1)
    must = port.symmetric == "always" or (port.symmetric == "channel" and encoding.granularity != "tensor")
    if must and np.any(encoding.zeros != middle):
        yield report("symmetric", name, "the grid is asymmetric, it must be symmetric", "quantize it with zero point in the middle")
    if not grid_matches(encoding, port.fixed):
        scale, zero = port.fixed[encoding.dtype]
        found = f"scale {float(encoding.steps.flat[0]):.6g}, zero point {int(encoding.zeros.flat[0])}"
        yield report(
            "fixed-grid",
            name,
            f"{found}; the op always has scale {scale:.6g}, zero point {zero}",
            "leave it out of the overrides",
        )
    if port.same_as and not port.soft:
        other = port_tensor(node, port.same_as)
        if other in encodings and not encodings[other].same_grid(encoding):
            yield report("same-grid", name, f"must have the same encoding as tensor '{other}'", "give both the same encoding")
    if port.derived and not _is_product(encoding, node, encodings):
        yield report(
            "derived", name, "the scale must be that of the input times that of the weight", "leave it out of the overrides"
        )


def _is_product(bias: Encoding, node: Node, encodings: Mapping[str, Encoding]) -> bool:
    x, w = encodings.get(node.inputs[0]), encodings.get(node.inputs[1])
    if x is None or w is None or x.is_float or w.is_float:
        return False
    if w.granularity in ("block", "lpbq"):  # there is no single scale of the weight
        return not np.any(bias.zeros)
    product = x.steps.astype(np.float64) * w.steps.astype(np.float64)
    return (
        not np.any(bias.zeros)
        and bias.steps.size == product.size
        and bool(np.allclose(bias.steps.ravel(), product.ravel(), rtol=1e-5))
    )


def port_tensor(node: Node, reference: str) -> str:
    """The tensor that "in[0]" or "out[1]" names at a node, "" when it is absent."""
    side, _, index = reference.rstrip("]").partition("[")
    names = node.inputs if side == "in" else node.outputs
    return names[int(index)] if int(index) < len(names) else ""


def _ties(graph: Graph, node: Node, row: OpConstraint) -> Iterator[Shared]:
    hard: set[str] = set()
    soft: set[str] = set()
    for name, port in (*input_ports(node, row), *output_ports(node, row)):
        if port.same_as is not None and graph.tensor(name).is_float:
            (soft if port.soft else hard).update({name, port_tensor(node, port.same_as)})
    rule = f"{node.op} '{node.name}'"
    if hard:
        yield Shared(tuple(sorted(hard)), rule)
    if soft:
        yield Shared(tuple(sorted(soft)), rule, soft=True)


def _fused(graph: Graph, sequences: Iterable[tuple[str, ...]]) -> list[Shared]:
    """Ties of the tensors inside fused ops to the output of the last one; the longest sequence wins."""
    found: list[Shared] = []
    for sequence in sorted(set(sequences), key=lambda s: (-len(s), s)):
        for node in graph.nodes:
            chain = _chain(graph, node, sequence)
            if chain is not None:
                found.append(Shared(tuple(chain), "fusion " + "+".join(sequence), inner=tuple(chain[:-1])))
    return found


def _chain(graph: Graph, node: Node, sequence: tuple[str, ...]) -> list[str] | None:
    """The first outputs of nodes that follow one another as ``sequence`` says, each read by the next one only."""
    outputs: list[str] = []
    for index, op in enumerate(sequence):
        if node.op != op or node.domain:
            return None
        outputs.append(node.outputs[0])
        if index + 1 < len(sequence):
            readers = graph.consumers.get(node.outputs[0], ())
            if len(readers) != 1 or node.outputs[0] in graph.outputs or readers[0].inputs[0] != node.outputs[0]:
                return None
            node = readers[0]
    return outputs
