"""What one row finds about one node: violations as problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import numpy as np

from npukit.backend.constraint import Caveat, OpConstraint, Port, Problem, Span, grid_matches
from npukit.backend.ports import port_axis, port_tensor
from npukit.backend.soc import Soc
from npukit.encoding import Encoding
from npukit.graph import Graph, Node


@attrs.frozen
class Report:
    node: Node
    row: OpConstraint

    def __call__(self, rule: str, tensor: str, message: str, hint: str = "", severity: str = "error") -> Problem:
        return Problem(severity, rule, self.node.name, self.node.op, tensor, message, hint, self.row.source)


def dtype_finding(name: str, port: Port, dtype: str, report: Report) -> Iterator[Problem]:
    if port.dtypes and dtype and dtype not in port.dtypes:
        yield report("dtype", name, f"type {dtype}, allowed is {', '.join(sorted(port.dtypes))}")


def tensor_findings(graph: Graph, name: str, port: Port, report: Report) -> Iterator[Problem]:
    """What a port demands of a tensor whatever its encoding."""
    tensor = graph.tensor(name)
    if port.constant and not tensor.is_constant:
        yield report("constant", name, "must be a constant")
    if port.dynamic and tensor.is_constant:
        yield report("dynamic", name, "must not be a constant")
    shape = tensor.shape or ()
    if port.max_rank is not None and len(shape) > port.max_rank:
        yield report("rank", name, f"rank {len(shape)}, allowed is at most {port.max_rank}")
    for axis, (least, most) in port.dims.items():
        size = shape[axis] if -len(shape) <= axis < len(shape) else None
        if isinstance(size, int) and not least <= size <= most:
            yield report("dims", name, f"size {size} on axis {axis}, allowed is {least} to {most}")


def grid_findings(
    graph: Graph, node: Node, name: str, port: Port, encodings: Mapping[str, Encoding], report: Report
) -> Iterator[Problem]:
    encoding = encodings[name]
    if encoding.is_float:
        return
    if encoding.granularity not in port.granularity and not port.derived:
        yield report("granularity", name, f"per-{encoding.granularity} scales, allowed is {', '.join(sorted(port.granularity))}")
    axis = port_axis(port, len(graph.tensor(name).shape or ()))
    if encoding.granularity == "channel" and axis is not None and encoding.axis != axis:
        yield report("axis", name, f"scales on axis {encoding.axis}, allowed is axis {axis}")
    yield from _block_findings(graph, name, port, encoding, report)
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
    if port.power_of_two and not np.array_equal(np.frexp(encoding.steps)[0], np.full(encoding.steps.shape, 0.5)):
        yield report("power-of-two", name, f"scale {float(encoding.steps.flat[0]):.6g}, it must be a power of two")
    if port.derived and encoding.bits == 32 and not _is_product(encoding, node, encodings):
        yield report(
            "derived", name, "the scale must be that of the input times that of the weight", "leave it out of the overrides"
        )


def _block_findings(graph: Graph, name: str, port: Port, encoding: Encoding, report: Report) -> Iterator[Problem]:
    shape, axis, size = graph.tensor(name).static_shape, encoding.axis, encoding.block_size
    if port.whole_blocks and size is not None and axis is not None and shape is not None and shape[axis] % size:
        message = f"blocks of {size} do not divide the {shape[axis]} weights on axis {axis}"
        yield report("block-size", name, message, "take a size that does")


def caveat_findings(graph: Graph, encodings: Mapping[str, Encoding], soc: Soc, report: Report) -> Iterator[Problem]:
    """The caveats of the row that are about this node, with what is known of it.

    What a caveat asks of encodings says nothing where they are unknown: before types are planned, and of ranges without data.
    """
    node = report.node
    for caveat in report.row.caveat:
        typed = encodings.get(port_tensor(node, caveat.port))
        of_type = not caveat.dtypes or (typed is not None and typed.dtype in caveat.dtypes)
        if not of_type or not caveat.concerns(soc) or not _is_placed(graph, node, caveat):
            continue
        if not caveat.fine:
            yield report(caveat.rule, "", caveat.message, caveat.hint, caveat.severity)
            continue
        values = [_value(graph, node, span, encodings) for span in caveat.fine]
        if all(v is not None and not span.holds(v) for span, v in zip(caveat.fine, values, strict=True)):
            found = "; ".join(_outside(node, span, v) for span, v in zip(caveat.fine, values, strict=True) if v is not None)
            tensor = port_tensor(node, caveat.fine[0].port)
            yield report(caveat.rule, tensor, f"{found}: {caveat.message}", caveat.hint, caveat.severity)


def _outside(node: Node, span: Span, value: float) -> str:
    """What was found of a span and what is fine."""
    over = f" over that of '{port_tensor(node, span.over)}'" if span.over else ""
    return f"{_MEASURED[span.measure]} of '{port_tensor(node, span.port)}'{over} is {value:.3g}, fine is {span.limits}"


_MEASURED = {
    "largest": "the largest magnitude",
    "low": "the low end of the range",
    "high": "the high end of the range",
    "balance": "the high end over the largest magnitude",
    "step": "the scale",
    "rank": "the rank",
}


def _is_placed(graph: Graph, node: Node, caveat: Caveat) -> bool:
    """Whether the neighbours of a node are those of the caveat."""
    x, y = port_tensor(node, "in[0]"), port_tensor(node, "out[0]")
    maker = graph.producers.get(x)
    if caveat.behind and (maker is None or maker.op not in caveat.behind):
        return False
    return not caveat.joined or any(n.op in caveat.joined and x in n.inputs for n in graph.consumers.get(y, ()))


def _value(graph: Graph, node: Node, span: Span, encodings: Mapping[str, Encoding]) -> float | None:
    """The measure of a span at a node, None when it is not known."""
    values = [_measured(graph, port_tensor(node, port), span.measure, encodings) for port in (span.port, span.over) if port]
    known = [v for v in values if v is not None]
    return None if len(known) < len(values) else known[0] / known[1] if span.over else known[0]


def _measured(graph: Graph, name: str, measure: str, encodings: Mapping[str, Encoding]) -> float | None:
    if measure == "rank":
        shape = graph.tensor(name).shape if name else None
        return None if shape is None else len(shape)
    encoding = encodings.get(name)
    if encoding is None or encoding.is_float or encoding.origin == "placeholder":
        return None
    # Of several scales the widest counts.
    low, high, step = float(np.min(encoding.min)), float(np.max(encoding.max)), float(np.max(encoding.steps))
    largest = max(-low, high)
    return {"largest": largest, "low": low, "high": high, "balance": high / largest, "step": step}[measure]


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
