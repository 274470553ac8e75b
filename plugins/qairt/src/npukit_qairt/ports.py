"""Inputs and outputs as callers want them: layouts, colours, types."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from npukit.backend import Edge
from npukit.encoding import Encoding
from npukit.errors import UsageError
from npukit.graph import Node, Shape, Tensor, infer_shapes
from npukit.package import Package
from npukit.quantization import Source
from npukit_qairt.color import color_nodes
from npukit_qairt.edits import free_name, renamed

_BY_RANK = {1: "F", 2: "NF", 3: "NCF", 4: "NCHW", 5: "NCDHW"}


@attrs.frozen
class Port:
    """What is wanted of one input or output; "" is what the source has. ``color`` is (what comes, what the model takes)."""

    name: str
    layout: str = ""
    desired_layout: str = ""
    color: tuple[str, str] | None = None
    dtype: str = ""
    desired_dtype: str = ""
    grid: tuple[float, int] | None = None


def layout_of(shape: Shape | None) -> str:
    """The usual layout of a rank, "" for others."""
    return _BY_RANK.get(len(shape or ()), "")


def apply_ports(source: Source, ports: Mapping[str, Port]) -> tuple[Source, dict[str, Edge]]:
    """The model with its ends as ``ports`` ask for, and the edges for types that only the handing over has.

    Names stay: what callers hand over has the name of the source, what the model's own nodes read has another.
    """
    edges = {}
    for name, port in ports.items():
        source = _input(source, port) if name in source.graph.inputs else _output(source, port)
        if port.grid is not None:
            dtype = port.desired_dtype or "uint8"
            given = Encoding(dtype, port.grid[0], -port.grid[1], origin="override")
            source = attrs.evolve(source, overrides={**(source.overrides or {}), name: given})
        if port.desired_dtype and port.desired_dtype != "float32":
            edges[name] = Edge(port.desired_dtype)
    return source, edges


def with_io_types(package: Package, preserved: list[str] | None) -> Package:
    """The package whose inputs and outputs are handed over as they are stored: codes, float16; but for the ``preserved`` ones.

    ``preserved``: None for none, [] for all. Raises UsageError for a name that is no input or output.
    """
    ends = (*package.graph.inputs, *package.graph.outputs)
    for name in preserved or ():
        if name not in ends:
            raise UsageError(f"--preserve_io_datatype: '{name}' is no input or output", hint=f"one of {', '.join(ends)}")
    kept = ends if preserved == [] else tuple(preserved or ())
    edges = {n: e for n, e in package.edges.items() if n not in kept}
    for name in ends:
        encoding = package.encodings.get(name)
        if name not in kept and name not in edges and encoding is not None and package.graph.tensor(name).dtype == "float32":
            edges[name] = Edge(encoding.dtype)
    return attrs.evolve(package, edges=edges)


def _layouts(port: Port, tensor: Tensor) -> tuple[str, str]:
    """The layout of the source and the desired one. Raises UsageError when they do not fit the shape or one another."""
    rank = len(tensor.shape or ())
    layout = port.layout or layout_of(tensor.shape)
    desired = port.desired_layout or layout
    if "NONTRIVIAL" in (layout, desired):
        return layout, layout
    for flag, found in (("source layout", port.layout), ("desired layout", port.desired_layout)):
        if found and len(found) != rank:
            raise UsageError(f"{flag} {found} of '{port.name}' does not fit its shape {list(tensor.shape or ())}")
    if sorted(layout) != sorted(desired):
        raise UsageError(f"'{port.name}' cannot be turned from {layout} to {desired}", hint="both must name the same dimensions")
    return layout, desired


def _turn(found: str, wanted: str) -> tuple[int, ...]:
    """The perm of a Transpose."""
    return tuple(found.index(letter) for letter in wanted)


def _input(source: Source, port: Port) -> Source:
    graph, name = source.graph, port.name
    tensor = graph.tensor(name)
    layout, desired = _layouts(port, tensor)
    nodes: list[Node] = []
    constants: list[Tensor] = []
    shape = tensor.shape
    last = name

    def add(op: str, attributes: Mapping[str, object]) -> None:
        nonlocal last
        made = free_name(graph, f"{name}.{op.lower()}")
        nodes.append(Node(op, made, (last,), (made,), attributes))
        last = made

    if port.dtype and port.dtype != tensor.dtype:
        add("Cast", {"to": _onnx_type(tensor.dtype)})
    if port.color is not None:
        colored, constants, shape, desired = color_nodes(graph, last, tensor, layout, desired, port.color, name)
        nodes += colored
        last = nodes[-1].outputs[0]
    elif shape is not None and desired != layout:
        shape = tuple(shape[axis] for axis in _turn(layout, desired))
    if desired != layout:
        add("Transpose", {"perm": _turn(desired, layout)})
    if not nodes:
        return source
    readers = [renamed(node, {name: last}) for node in graph.nodes]
    outer = Tensor(name, port.dtype or tensor.dtype, shape)
    changed = graph.with_tensors([outer, *constants, *(Tensor(n) for node in nodes for n in node.outputs)]).evolve(
        nodes=(*nodes, *readers),
        outputs=tuple(last if n == name else n for n in graph.outputs),
        origin_names={**graph.origin_names, last: (name,)},
    )
    found = attrs.evolve(source, graph=infer_shapes(changed))
    if port.color is None and not port.dtype:
        return found
    # The values that an encoding of the source is for are those behind the conversion.
    move = {name: last}
    overrides = None if source.overrides is None else {move.get(n, n): e for n, e in source.overrides.items()}
    return attrs.evolve(found, encodings={move.get(n, n): e for n, e in source.encodings.items()}, overrides=overrides)


def _onnx_type(dtype: str) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _output(source: Source, port: Port) -> Source:
    graph, name, tensor = source.graph, port.name, source.graph.tensor(port.name)
    layout, desired = _layouts(port, tensor)
    if desired == layout or tensor.shape is None:
        return source
    inner = free_name(graph, f"{name}.{layout.lower()}")
    nodes = [renamed(node, {name: inner}, outputs=True) for node in graph.nodes]
    turn = Node("Transpose", f"{name}.transpose", (inner,), (name,), {"perm": _turn(layout, desired)})
    made = graph.with_tensors([attrs.evolve(tensor, name=inner), Tensor(name)])
    changed = made.evolve(nodes=(*nodes, turn), origin_names={**graph.origin_names, inner: (name,)})
    return attrs.evolve(source, graph=infer_shapes(changed))
