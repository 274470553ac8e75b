"""Say which layers of a quantized model lose the accuracy, why, and what to do about it.

A float model is quantized first, on --calibration-data or else on --data itself; a .dlc is taken with the encodings it has. Each
layer is quantized alone, then only its weights, then only its outputs, and the SQNR at the outputs of the model is measured; so is
that of every tensor in the model quantized as a whole. What may help the worst layers is tried on the whole model, if the backend
accepts it. --html writes a report with all layers and tensors, --write-overrides the encodings of wider types that help.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from npukit.cli.console import Console
from npukit.cli.files import check_writable, write_text
from npukit.cli.options import (
    add_backend,
    add_calibration,
    add_data,
    add_model_inputs,
    add_overrides,
    add_precision,
    options_from,
    positive,
    registry_from,
    source_from,
    target_from,
)
from npukit.errors import counted

SUMMARY = "which layers lose the accuracy, and what helps?"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="an .onnx or .dlc file")
    add_backend(parser)
    add_data(parser)
    parser.add_argument("--calibration-data", metavar="D", help="data to calibrate a float model on (default: --data)")
    add_calibration(parser)
    add_precision(parser)
    add_overrides(parser)
    add_model_inputs(parser)
    parser.add_argument("--worst", type=positive, default=10, metavar="N", help="how many layers to list and treat (default: 10)")
    parser.add_argument("--html", metavar="FILE", help="write a report that a browser shows")
    parser.add_argument("--write-overrides", metavar="FILE", help="the encodings of wider types that help, for --overrides")


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.diagnosis import analyze
    from npukit.encoding.formats import write_encodings
    from npukit.report import analysis_data, analysis_html, analysis_text

    page, target = (check_writable(path) if path else None for path in (args.html, args.write_overrides))
    options, registry = options_from(args), registry_from(args)
    source = source_from(args, registry)
    found = analyze(
        source,
        target_from(args, registry, source),
        data=args.data,
        calibration=args.calibration_data,
        options=options,
        worst=args.worst,
        registry=registry,
        on_event=console.on_event,
    )
    lines = [analysis_text(found, args.worst)]
    if page is not None:
        write_text(page, analysis_html(found, args.worst, Path(args.model).name))
        lines.append(f"{page}: written")
    if target is not None:
        write_text(target, write_encodings(found.overrides, found.graph))
        lines.append(f"{target}: {counted(len(found.overrides), 'encoding')}")
    console.emit("\n\n".join(lines), analysis_data(found, args.worst))
    return 0
