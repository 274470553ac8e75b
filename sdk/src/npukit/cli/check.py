"""Say from the model alone whether a backend would accept it; with data, whether the ranges of its values are fine as well.

A float model is judged as `npukit quantize` with the same flags would make it, a .dlc by the encodings it has. All problems are
listed at once. Exit code 1 when there is an error; "unknown" means that the rules cannot tell.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

from npukit.cli.console import Console
from npukit.cli.options import (
    add_backend,
    add_calibration,
    add_data,
    add_edges,
    add_model_inputs,
    add_overrides,
    add_precision,
    options_from,
    registry_from,
    source_from,
    target_from,
)

if TYPE_CHECKING:
    from npukit.backend import Problem

SUMMARY = "would a backend accept this model?"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="an .onnx or .dlc file")
    add_backend(parser)
    add_data(parser, required=False)
    add_calibration(parser)
    add_precision(parser)
    add_overrides(parser)
    add_edges(parser)
    add_model_inputs(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.quantization import check

    options, registry = options_from(args), registry_from(args)
    source = source_from(args, registry)
    target = target_from(args, registry, source)
    result = check(source, target, data=args.data, options=options, registry=registry, on_event=console.on_event)
    lines = [problems_text(result.problems)] if result.problems else []
    lines += [f"note: {note}" for note in result.notes]
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(result.counts.items())) or "no problems"
    lines.append(f"{args.model}: {result.verdict} by {result.backend}:{result.soc.name} ({result.nodes} nodes, {counts})")
    data = {
        "model": args.model,
        "backend": result.backend,
        "soc": result.soc.name,
        "verdict": result.verdict,
        "nodes": result.nodes,
        "problems": result.problems,
        "notes": result.notes,
    }
    console.emit("\n".join(lines), data)
    return 1 if result.verdict == "refused" else 0


def problems_text(problems: Iterable[Problem]) -> str:
    """A table of findings."""
    from npukit.report import table

    rows = [(p.severity, p.node, p.op, p.tensor or "-", p.rule, p.message, p.hint or "-") for p in problems]
    return table(["Severity", "Node", "Op", "Tensor", "Rule", "Found and allowed", "What to do"], rows)
