"""What is in a model: layers, tensors, parameters, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from npukit.backend import Edge
from npukit.encoding import Encoding
from npukit.graph import Graph, Shape, Tensor, count_macs, mac_operands, numpy_type
from npukit.package.manifest import Manifest

_FLOATS = {"float32": "Float_32", "float16": "Float_16", "bfloat16": "BFloat_16", "float64": "Float_64", "bool": "Bool_8"}


@attrs.frozen
class TensorRow:
    """One tensor: ``type`` is spelled as the vendor's tools do (uFxp_8, sFxp_4, Float_32, Int_64)."""

    name: str
    type: str
    shape: Shape | None
    encoding: str
    constant: bool
    origin: str = ""


@attrs.frozen
class LayerRow:
    """One node: its tensors, number of parameters, and multiply-accumulates per inference (None when a shape is not known).

    ``origins`` names the nodes of the source that it was put together from, and is empty for a node of the source.
    """

    id: int
    name: str
    op: str
    inputs: tuple[TensorRow, ...]
    outputs: tuple[TensorRow, ...]
    parameters: int
    macs: int | None
    attributes: Mapping[str, str]
    origins: tuple[str, ...] = ()


@attrs.frozen
class Info:
    """The layer table, the graph's inputs and outputs, totals, and the manifest of a package.

    ``macs`` adds up the layers that are known, ``macs_by_type`` splits it by the types of the two operands. ``types``, ``edges``
    and ``bindings`` are those of a package.
    """

    layers: tuple[LayerRow, ...]
    inputs: tuple[TensorRow, ...]
    outputs: tuple[TensorRow, ...]
    parameters: int
    macs: int
    macs_by_type: Mapping[str, int]
    weight_bytes: int
    manifest: Manifest | None = None
    types: Mapping[str, str] = attrs.field(factory=dict)
    edges: Mapping[str, Edge] = attrs.field(factory=dict)
    bindings: tuple[Mapping[str, int], ...] = ()


def describe(
    graph: Graph,
    encodings: Mapping[str, Encoding] | None = None,
    manifest: Manifest | None = None,
    *,
    types: Mapping[str, str] | None = None,
    edges: Mapping[str, Edge] | None = None,
    bindings: tuple[Mapping[str, int], ...] = (),
) -> Info:
    """Describe a graph. ``weight_bytes`` counts constants as their encodings store them, 4 bits being half a byte."""
    known = encodings or {}

    def row(name: str) -> TensorRow:
        return _tensor_row(graph.tensor(name), known.get(name))

    layers = []
    by_type: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        macs = count_macs(graph, node)
        if macs:
            kind = " x ".join(type_name(graph.tensor(n), known.get(n)) for n in mac_operands(node))
            by_type[kind] = by_type.get(kind, 0) + macs
        constants = [graph.tensor(n) for n in dict.fromkeys(node.inputs) if n and graph.tensor(n).is_constant]
        layers.append(
            LayerRow(
                index,
                node.name,
                node.op,
                tuple(row(n) for n in node.inputs if n),
                tuple(row(n) for n in node.outputs if n),
                sum(t.size for t in constants if t.is_float),
                macs,
                {k: short(v) for k, v in node.attributes.items()},
                graph.origins(node),
            )
        )
    floats = [t for t in graph.tensors.values() if t.is_constant and t.is_float]
    bits = sum(t.size * (known[t.name].bits if t.name in known else 8 * numpy_type(t.dtype).itemsize) for t in floats)
    return Info(
        tuple(layers),
        tuple(row(n) for n in graph.inputs),
        tuple(row(n) for n in graph.outputs),
        sum(t.size for t in floats),
        sum(layer.macs or 0 for layer in layers),
        by_type,
        -(-int(bits) // 8),
        manifest,
        types or {},
        edges or {},
        bindings,
    )


def type_name(tensor: Tensor, encoding: Encoding | None) -> str:
    """uFxp_8, sFxp_4, Float_16, Int_64 and so on."""
    if encoding is not None and not encoding.is_float:
        return f"{'s' if encoding.signed else 'u'}Fxp_{encoding.bits}"
    dtype = encoding.dtype if encoding is not None else tensor.dtype
    if dtype in _FLOATS:
        return _FLOATS[dtype]
    digits = "".join(c for c in dtype if c.isdigit())
    return f"{dtype.removesuffix(digits).capitalize()}_{digits}" if digits else dtype.capitalize() or "unknown"


def _tensor_row(tensor: Tensor, encoding: Encoding | None) -> TensorRow:
    text, origin = ("", "") if encoding is None else (encoding_text(encoding), encoding.origin)
    return TensorRow(tensor.name, type_name(tensor, encoding), tensor.shape, text, tensor.is_constant, origin)


def encoding_text(encoding: Encoding) -> str:
    """Scale and zero point in a few words."""
    if encoding.is_float:
        return encoding.dtype
    steps, zeros = encoding.steps, encoding.zeros
    if steps.size == 1:
        return f"scale {float(steps.flat[0]):.6g}, zero point {zeros.flat[0]}"
    blocks = f", blocks of {encoding.block_size}" if encoding.block_size else ""
    return f"{steps.size} scales {steps.min():.4g}..{steps.max():.4g} on axis {encoding.axis}{blocks}"


def typed_text(encoding: Encoding | None) -> str:
    """The type, scale and zero point in a few words, "-" when there is no encoding."""
    if encoding is None:
        return "-"
    return encoding.dtype if encoding.is_float else f"{encoding.dtype} {encoding_text(encoding)}"


def short(value: object) -> str:
    """An attribute's value in a few words."""
    if isinstance(value, np.ndarray):
        return f"tensor {list(value.shape)}"
    if isinstance(value, Graph):
        return f"graph of {len(value.nodes)} nodes"
    return str(list(value)) if isinstance(value, tuple) else str(value)
