"""Models as text: the layer table and the differences of two."""

from __future__ import annotations

from collections.abc import Sequence

from npukit.errors import counted, printable
from npukit.package import Difference, Info, TensorRow
from npukit.report.numbers import count, percent, shape, size
from npukit.report.table import table


def info_text(info: Info) -> str:
    """Manifest, layer table, input and output tables, totals."""
    parts = []
    if info.manifest is not None:
        facts = info.manifest
        made = f"{facts.backend}:{facts.soc}" if facts.backend else "no backend"
        made = f"made for {made} from {facts.source_name or '-'} by npukit {facts.npukit_version}, seed {facts.seed}"
        parts += [printable(made), *(printable(f"  $ {line}") for line in facts.history)]
    rows = [
        (
            layer.id,
            layer.name,
            layer.op,
            "\n".join(_cell(t) for t in layer.inputs),
            "\n".join(_cell(t) for t in layer.outputs),
            count(layer.parameters) if layer.parameters else "-",
            "?" if layer.macs is None else f"{count(layer.macs)} ({percent(layer.macs / info.macs, 1)})" if layer.macs else "-",
        )
        for layer in info.layers
    ]
    parts.append(table(["Id", "Name", "Op", "Inputs", "Outputs", "Params", "MACs"], rows))
    for title, tensors in (("Input", info.inputs), ("Output", info.outputs)):
        parts.append(table([title, "Type", "Dimensions", "Encoding"], [_io(t) for t in tensors]))
    parts += _contract(info)
    kinds = ", ".join(f"{count(n)} {kind}" for kind, n in info.macs_by_type.items())
    least = "at least " if any(layer.macs is None for layer in info.layers) else ""
    stored = f"{count(info.parameters)} parameters in {size(info.weight_bytes)}"
    parts.append(f"{stored}, {least}{count(info.macs)} MACs ({kinds or 'none'})")
    return "\n\n".join(parts)


def _contract(info: Info) -> list[str]:
    """What differs from the usual: settings, native edges, bindings, nodes that compute in float or were put together."""
    parts = []
    settings = info.manifest.settings if info.manifest else {}
    if settings:
        parts.append("settings: " + ", ".join(f"{name} = {value}" for name, value in settings.items()))
    for name, edge in info.edges.items():
        parts.append(f"natively {name} is {' '.join(filter(None, (edge.dtype, edge.layout)))}")
    if info.bindings:
        parts.append("bound for " + "; ".join(", ".join(f"{s}={size}" for s, size in b.items()) for b in info.bindings))
    floats = {dtype: [n for n, t in info.types.items() if t == dtype] for dtype in ("float16", "float32")}
    parts += [f"{counted(len(names), 'node')} in {dtype}: {', '.join(names[:5])}" for dtype, names in floats.items() if names]
    parts += [f"{layer.op} {layer.name} stands for {', '.join(layer.origins)}" for layer in info.layers if layer.origins]
    return ["\n".join(printable(line) for line in parts)] if parts else []


def _cell(tensor: TensorRow) -> str:
    return f"{tensor.name} {tensor.type} {shape(tensor.shape)}" + (" static" if tensor.constant else "")


def _io(tensor: TensorRow) -> tuple[str, str, str, str]:
    return tensor.name, tensor.type, shape(tensor.shape), tensor.encoding or "No encoding info for this tensor"


def diff_text(differences: Sequence[Difference]) -> str:
    """A table of differences, or one line that there are none."""
    if not differences:
        return "no differences"
    rows = [(d.kind, d.name, d.first, d.second) for d in differences]
    return table(["What", "Where", "First", "Second"], rows)
