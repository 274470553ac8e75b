"""The one generic reader of op constraints: which row fits a node, what it demands, and what is violated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import attrs

from npukit.backend.base import Backend, Precision
from npukit.backend.constraint import OpConstraint, Port, Problem
from npukit.backend.findings import Report, caveat_findings, dtype_finding, grid_findings, tensor_findings
from npukit.backend.generic import GENERIC
from npukit.backend.ports import input_ports, is_weight, output_ports, takes_blocks, takes_plain_integers
from npukit.backend.soc import Soc
from npukit.backend.ties import fused, ties
from npukit.encoding import FLOAT_BITS, INT_BITS, Encoding, Fixed, Shared
from npukit.graph import Graph, Node, attribute, host_nodes


@attrs.frozen(eq=False)
class Plan:
    """What the constraints ask of a graph before any range is known.

    ``activations`` and ``weights`` map float tensors to the encoding type they get when nobody decided; ``weight_ports`` holds
    the port a weight enters by; ``derived`` maps a bias to the (input, weight) that its grid follows from, ``bias_types`` to its
    type. ``symmetric`` are the activations that some port wants a symmetric grid of.
    """

    activations: Mapping[str, str]
    weights: Mapping[str, str]
    weight_ports: Mapping[str, Port]
    derived: Mapping[str, tuple[str, str]]
    shared: tuple[Shared, ...]
    fixed: tuple[Fixed, ...]
    symmetric: frozenset[str] = frozenset()
    bias_types: Mapping[str, str] = attrs.field(factory=dict)


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

        On a tie a row that only a later architecture has comes first, as it says what to change; then one that takes types and
        granularity as they are, as what it finds is about this node; then the order of the rows.
        """

        def badness(row: OpConstraint) -> tuple[int, int, bool, bool]:
            found = list(findings(row))
            errors = [p.rule for p in found if p.severity == "error"]
            return (
                len(errors),
                sum(p.severity == "warning" for p in found),
                "arch" not in errors,
                not {"dtype", "granularity"}.isdisjoint(errors),
            )

        return min(self.of_op(node), key=badness, default=None)

    def plan(
        self, graph: Graph, precision: Precision, given: Mapping[str, Encoding], types: Mapping[str, str] | None = None
    ) -> Plan:
        """What the rows demand of every float tensor of the graph; ``types`` are what nodes were asked to compute in."""
        floats = self.backend.float_nodes(graph, types or {}, self.soc)
        inside = _between(graph, floats)
        free = {n: "float32" if n in inside else precision.activations for n in graph.float_activations()}
        activations = {n: given[n].dtype if n in given else dtype for n, dtype in free.items()}
        weights: dict[str, str] = {}
        ports: dict[str, Port] = {}
        derived: dict[str, tuple[str, str]] = {}
        bias_types: dict[str, str] = {}
        shared: list[Shared] = []
        fixed: list[Fixed] = []
        symmetric: set[str] = set()

        def planned(wish: Precision, name: str, port: Port) -> str:
            if name in activations:
                return activations[name]
            if name in given:
                return given[name].dtype
            if not graph.tensor(name).is_constant:
                return graph.tensor(name).dtype
            return _constant_dtype(graph, name, port, wish)

        for node in (n for n in graph.nodes if n.name not in floats):
            wish = self._possible(node, precision)
            type_of = partial(planned, wish)
            row = self.best(graph, node, partial(self._wishes, graph, node, type_of, wish))
            if row is None or not self.backend.supports(node.op, node.domain, self.soc):
                continue
            for name, port in input_ports(node, row):
                tensor = graph.tensor(name)
                if not tensor.is_constant or not tensor.is_float:
                    continue
                dtype = type_of(name, port)
                if (
                    (port.derived or port.bias)
                    and dtype in ("int8", "int16", "int32")
                    and activations.get(node.inputs[0]) != "float32"
                ):
                    derived[name], bias_types[name] = (node.inputs[0], node.inputs[1]), dtype
                elif is_weight(port) and dtype != "float32":
                    weights[name], ports[name] = dtype, port
                elif dtype != "float32":
                    activations[name] = dtype
            shared += ties(graph, node, row)
            ports_of = (*input_ports(node, row), *output_ports(node, row))
            symmetric |= {n for n, p in ports_of if p.symmetric == "always" and n in activations}
            fixed += [Fixed(name, port.fixed, f"{node.op} '{node.name}'") for name, port in output_ports(node, row) if port.fixed]
        for name in weights:
            activations.pop(name, None)
        shared += [tie for tie in fused(graph, self.backend.fusions()) if not given.keys() & set(tie.inner)]
        return Plan(activations, weights, ports, derived, tuple(shared), tuple(fixed), frozenset(symmetric), bias_types)

    def biases(self, graph: Graph) -> frozenset[str]:
        """The constants that some row takes as a bias."""
        ports = ((name, port) for node in graph.nodes for row in self.of_op(node) for name, port in input_ports(node, row))
        return frozenset(name for name, port in ports if (port.derived or port.bias) and graph.is_constant(name))

    def validate(
        self,
        graph: Graph,
        encodings: Mapping[str, Encoding],
        *,
        types: Mapping[str, str] | None = None,
        float_fallback: bool = False,
    ) -> tuple[Problem, ...]:
        """Every violation of the rows by a graph whose tensors have ``encodings`` (none: the tensor's own type).

        ``types`` says what nodes compute in, by name; one that differs from what the backend plans is judged with its tensors in
        that type, as it runs between a dequantize and a quantize. With ``float_fallback``, or for a node that computes in float
        anyway, an op that the backend accepts in float16 but has no kernel for is a warning, not an error. Nodes that only compute
        shapes and indices from shapes are not for the chip: they are left out.
        """
        found: list[Problem] = list(self._dynamic_shapes(graph))
        planned = self.backend.types(graph, encodings, self.soc) if types else {}
        host = host_nodes(graph)
        for node in graph.nodes:
            asked = types.get(node.name, "") if types else ""
            floats = asked if asked in FLOAT_BITS and planned.get(node.name) != asked else ""
            seen = _in_float(graph, node, encodings, floats) if floats else encodings
            if node.name not in host:
                found += self._check_node(graph, node, seen, float_fallback or asked in FLOAT_BITS)
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
        if not self.backend.supports(node.op, node.domain, self.soc):
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
        """The misfits, and a warning for every weight that the row would give another type or granularity than was wished for."""
        yield from self._misfits(graph, node, dtype_of, row)
        kept = self._weight_places(node) if precision.keep_weights else ()
        for index, (name, port) in enumerate(input_ports(node, row)):
            tensor = graph.tensor(name)
            if tensor.is_constant and tensor.is_float and (index in kept or (is_weight(port) and not port.derived)):
                dtype = dtype_of(name, port)
                if dtype != precision.weights:
                    yield Report(node, row)("weights", name, f"type {dtype}, not {precision.weights}", severity="warning")
                wished = precision.blocks[0]
                if wished and not takes_blocks(port, wished):
                    yield Report(node, row)("granularity", name, f"no scales of kind {wished}", severity="warning")

    def _weight_places(self, node: Node) -> set[int]:
        """The inputs that some row of the op takes as a weight."""
        return {i for row in self.of_op(node) for i, port in enumerate(row.inputs) if is_weight(port) and not port.derived}

    def _misfits(self, graph: Graph, node: Node, dtype_of: Callable[[str, Port], str], row: OpConstraint) -> Iterator[Problem]:
        """Findings that need types only: what decides which row a node is planned by."""
        report = Report(node, row)
        yield from self._structure(graph, node, row, report)
        yield from caveat_findings(graph, {}, self.soc, report)
        for name, port in (*input_ports(node, row), *output_ports(node, row)):
            yield from tensor_findings(graph, name, port, report)
            tensor = graph.tensor(name)
            dtype = dtype_of(name, port) if tensor.is_float else tensor.dtype
            yield from dtype_finding(name, port, dtype, report)

    def _violations(self, graph: Graph, node: Node, encodings: Mapping[str, Encoding], row: OpConstraint) -> Iterator[Problem]:
        report = Report(node, row)
        yield from self._structure(graph, node, row, report)
        for name, port in (*input_ports(node, row), *output_ports(node, row)):
            yield from tensor_findings(graph, name, port, report)
            encoding = encodings.get(name)
            dtype = graph.tensor(name).dtype if encoding is None else encoding.dtype
            wrong = list(dtype_finding(name, port, dtype, report))
            if encoding is not None and not wrong and takes_plain_integers(port):
                wrong = [report("dtype", name, f"type {dtype} with an encoding, this form is for plain integers")]
            yield from wrong
            if encoding is not None and not wrong:
                yield from grid_findings(graph, node, name, port, encodings, report)
        yield from caveat_findings(graph, encodings, self.soc, report)

    def _structure(self, graph: Graph, node: Node, row: OpConstraint, report: Report) -> Iterator[Problem]:
        missing = row.missing(self.soc)
        if missing:
            what = f"{node.op} in this form" + (f" ({row.variant})" if row.variant else "")
            yield report("arch", "", f"{what} needs {missing}, {self.soc.name} is {self.soc.arch}", "choose another SoC")
        for name, allowed in row.attributes.items():
            value = attribute(node, name)
            if value not in allowed:
                shown = " or ".join(str(v) for v in allowed)
                yield report("attribute", "", f"attribute {name} is {value}, allowed is {shown}")
        given = [n for n in node.inputs if n]
        if not row.variadic and len(given) > len(row.inputs):
            form = f" in the form '{row.variant}'" if row.variant else ""
            yield report("inputs", "", f"{len(given)} inputs, allowed are {len(row.inputs)}{form}")
        made = max((i + 1 for i, name in enumerate(node.outputs) if name), default=0)
        if not row.variadic and made > len(row.outputs):
            yield report("outputs", "", f"{made} outputs, allowed are {len(row.outputs)}")
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


def _in_float(graph: Graph, node: Node, encodings: Mapping[str, Encoding], dtype: str) -> Mapping[str, Encoding]:
    """``encodings`` with those of a node's float tensors in a float type."""
    names = [n for n in (*node.inputs, *node.outputs) if n and graph.tensor(n).is_float]
    kept = {n: e for n, e in encodings.items() if n not in names}
    return kept if dtype == "float32" else {**kept, **dict.fromkeys(names, Encoding(dtype))}


def _between(graph: Graph, nodes: frozenset[str]) -> frozenset[str]:
    """The tensors that only ``nodes`` make and read."""
    if not nodes:
        return frozenset()
    touched = [(name, node.name in nodes) for node in graph.nodes for name in (*node.inputs, *node.outputs)]
    return frozenset(name for name, is_inside in touched if is_inside) - {name for name, is_inside in touched if not is_inside}


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
    if port.derived or port.bias:
        wishes = (precision.bias, "int32", precision.activations)
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
