"""A sensitivity analysis as text, as plain data, and as a page that needs nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from npukit.diagnosis import Analysis, LayerRow, Remedy, TensorRow, TensorStats
from npukit.errors import printable
from npukit.report.html import html_page, html_table
from npukit.report.numbers import decibels, percent
from npukit.report.table import table

_LEVELS = ("all", "weights", "activations")
_OUTPUTS = ("Output", "All", "Weights only", "Activations only")
_LAYERS = ("Depth", "Layer", "Op", "Output", "All", "Weights", "Activations", "Advice")
_REMEDIES = ("Advice", "For npukit quantize", "Worst output after", "Gain", "Layers")
_REASONS = ("Layer", "Advice", "Why")
_TENSORS = ("Depth", "Tensor", "Op", "Type", "Min", "Max", "Scale", "99.9% use", "Kurtosis", "Channels", *_LEVELS)


def analysis_text(found: Analysis, worst: int) -> str:
    """Outputs, the worst layers, what to do about them and why, and the tensors of these layers."""
    rows = found.worst(worst)
    names = {name for row in rows for name in (*row.constants, *row.tensors)}
    parts = [
        f"SQNR against the float model, {found.samples} samples, {found.backend}:{found.soc.name}",
        table(_OUTPUTS, [_output(r) for r in found.outputs]),
    ]
    if rows:
        sampled = f", in {found.layer_samples} of the samples" if found.layer_samples < found.samples else ""
        title = f"the worst {len(rows)} of {len(found.layers)} layers: SQNR when only that layer is quantized{sampled}"
        parts += [title, table(_LAYERS, [_layer(r) for r in rows])]
    if found.remedies:
        advised = table(_REMEDIES, [_remedy(r) for r in found.remedies])
        why = table(_REASONS, _reasons(found.remedies, [r.name for r in rows]))
        parts += ["what to do, and what it does to the whole model", advised, why]
    if found.refuted:
        vain = ", ".join(f"{r.action} ({r.flag}) {_remedy(r)[3]}" for r in found.refuted)
        parts.append(f"tried in vain: {vain}")
    if names:
        parts += ["their tensors, and SQNR in the model quantized as a whole", table(_TENSORS, _tensors(found, names))]
    parts += [f"note: {note}" for note in found.notes]
    return "\n\n".join(parts)


def analysis_data(found: Analysis, worst: int) -> dict[str, Any]:
    """All of it, for JSON."""
    return {
        "backend": found.backend,
        "soc": found.soc.name,
        "samples": found.samples,
        "layer_samples": found.layer_samples,
        "outputs": found.outputs,
        "worst": [row.name for row in found.worst(worst)],
        "layers": found.layers,
        "tensors": found.tensors,
        "statistics": found.statistics,
        "remedies": [_remedy_data(r) for r in found.remedies],
        "refuted": [_remedy_data(r) for r in found.refuted],
        "overrides": sorted(found.overrides),
        "notes": found.notes,
    }


def _remedy_data(remedy: Remedy) -> dict[str, Any]:
    names = ("action", "flag", "reasons", "sqnr", "gain")
    return {name: getattr(remedy, name) for name in names} | {"overrides": sorted(remedy.overrides)}


def _output(row: TensorRow) -> tuple[str, ...]:
    return row.name, *(decibels(row.sqnr[level]) for level in _LEVELS)


def _layer(row: LayerRow) -> tuple[Any, ...]:
    levels = (decibels(v) for v in (row.all, row.weights, row.activations))
    return row.depth, row.name, row.op, row.output, *levels, ", ".join(row.advice) or "-"


def _remedy(remedy: Remedy) -> tuple[str, ...]:
    after = decibels(min(remedy.sqnr.values())) if remedy.sqnr else "not tried"
    gain = "-" if remedy.gain is None else f"{remedy.gain:+.1f} dB"
    return remedy.action, remedy.flag, after, gain, str(len(remedy.reasons))


def _reasons(remedies: Iterable[Remedy], layers: Sequence[str]) -> list[tuple[str, str, str]]:
    """By layer, in the order of ``layers``."""
    return [(name, r.action, r.reasons[name]) for name in layers for r in remedies if name in r.reasons]


def _tensors(found: Analysis, names: Iterable[str] | None = None) -> list[tuple[Any, ...]]:
    """All tensors by depth, or those called ``names``."""
    levels = {row.name: row for row in found.tensors}
    wanted = None if names is None else set(names)
    return [_tensor(s, levels.get(s.name)) for s in found.statistics if wanted is None or s.name in wanted]


def _tensor(stats: TensorStats, row: TensorRow | None) -> tuple[Any, ...]:
    ratio = "-" if stats.channel_ratio is None else f"{stats.channel_ratio:.3g}x"
    scale = "-" if stats.scale is None else f"{stats.scale:.3g}"
    kind = stats.dtype if stats.granularity in ("float", "tensor") else f"{stats.dtype} per {stats.granularity}"
    sqnr = ["-"] * len(_LEVELS) if row is None else [decibels(row.sqnr[level]) for level in _LEVELS]
    limits = (f"{stats.low:.4g}", f"{stats.high:.4g}")
    values = (percent(stats.used, 1), f"{stats.kurtosis:.3g}", ratio)
    return stats.depth, stats.name, stats.op, kind, *limits, scale, *values, *sqnr


# -------------------------------------------------------------------------------------------------------------------- HTML

_STYLE = ".all { fill: #444 } .weights { fill: #d08020 } .activations { fill: #3070b0 }"
_FULL = 80.0  # decibels of a bar of full width


def analysis_html(found: Analysis, worst: int, title: str) -> str:
    """A whole page with the same data as the JSON: no scripts, nothing loaded from elsewhere, names escaped."""
    heading = f"{title} on {found.backend}:{found.soc.name}"
    order = [r.name for r in found.worst(len(found.layers))]
    sections = [
        ("Outputs", f"SQNR against the float model, {found.samples} samples.", html_table(_OUTPUTS, map(_output, found.outputs))),
        (f"The worst {len(order[:worst])} layers", "SQNR when only that layer is quantized.", _bars(found.worst(worst))),
        ("What to do", "What each change does to the whole model.", html_table(_REMEDIES, [_remedy(r) for r in found.remedies])),
        ("Why", "", html_table(_REASONS, _reasons(found.remedies, order))),
        ("Tried in vain", "Not advised.", html_table(_REMEDIES, [_remedy(r) for r in found.refuted])),
        ("All layers", "By depth, SQNR at the output that the layer harms most.", html_table(_LAYERS, map(_layer, found.layers))),
        ("At every output", "", html_table(("Layer", *_OUTPUTS), _by_output(found.layers))),
        ("All tensors", "By depth; SQNR in the model quantized as a whole.", html_table(_TENSORS, _tensors(found))),
        ("Overrides of wider types", "", html_table(("Tensor",), [(n,) for n in sorted(found.overrides)])),
    ]
    return html_page(heading, sections, _STYLE)


def _by_output(layers: Iterable[LayerRow]) -> list[tuple[str, ...]]:
    return [
        (row.name, output, *(decibels(levels[level]) for level in _LEVELS))
        for row in layers
        for output, levels in row.outputs.items()
    ]


def _bars(rows: Sequence[LayerRow]) -> str:
    """Three bars per layer: everything, weights, activations."""
    lines = []
    for index, row in enumerate(rows):
        top = 46 * index
        lines.append(f'<text x="0" y="{top + 12}">{escape(printable(f"{row.name} ({row.op})"))}</text>')
        for place, level in enumerate(_LEVELS):
            value = getattr(row, level)
            width = 500 * min(max(value, 0.0), _FULL) / _FULL if not math.isnan(value) else 0.0
            y = top + 16 + 9 * place
            lines.append(f'<rect class="{level}" x="0" y="{y}" width="{width:.1f}" height="8"/>')
            lines.append(f'<text x="{width + 6:.1f}" y="{y + 8}" font-size="9">{decibels(value)} {level}</text>')
    height = 46 * len(rows) or 1
    return f'<svg width="900" height="{height}" font-size="12" role="img">\n' + "\n".join(lines) + "\n</svg>"
