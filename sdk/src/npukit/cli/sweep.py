"""Quantize a model in every combination of some choices, run each result, and rank them.

--over names what is tried: calibration, schema (of activations), activations, weights, bias (types), per-channel, and set.NAME, a
setting of the backend. NAME alone takes all values that make sense for the backend, NAME=VALUE,VALUE those. The float model is
profiled once; every combination is then quantized completely, opened on the backend and run on the samples of --eval, else on
those of --data. What the op constraints refuse is a row that says why. Exit code 1 when all are refused.

--jobs N spreads the work over processes by joblib, --joblib-backend over dask or ray.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from npukit.cli.console import Console
from npukit.cli.files import check_package, check_writable, write_text
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
from npukit.cli.quantize import command_line

SUMMARY = "which calibration, types and settings lose least?"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="an .onnx file")
    text = "what is tried: calibration, schema, weights=int8,int4 ... (may be repeated)"
    parser.add_argument("--over", action="append", required=True, metavar="NAME[=VALUE,...],...", help=text)
    add_backend(parser)
    add_data(parser)
    parser.add_argument("--eval", metavar="D", dest="evaluation", help="samples to run every result on (default: those of --data)")
    text = "a function of a session that returns a score, higher is better; rows are ranked by it"
    parser.add_argument("--evaluate", metavar="FILE.py:FUNCTION", help=text)
    add_calibration(parser)
    add_precision(parser)
    add_overrides(parser)
    add_model_inputs(parser)
    parser.add_argument("--legalize", action="store_true", help="change encodings that the backend refuses, as few as possible")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes that share the work (default: 1)")
    parser.add_argument("--joblib-backend", default="", metavar="NAME", help="loky (default), threading, dask, ray ...")
    parser.add_argument("--top", type=positive, metavar="N", help="how many rows to print (default: all)")
    parser.add_argument("-o", "--output", metavar="FILE.dlc", help="write the package of the best combination")
    parser.add_argument("--csv", metavar="FILE", help="write the table for a spreadsheet")
    parser.add_argument("--html", metavar="FILE", help="write the table and a plot for a browser")


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.report import sweep_csv, sweep_data, sweep_html, sweep_text
    from npukit.trials import sweep

    package = check_package(args.output) if args.output else None
    sheet, page = (check_writable(path) if path else None for path in (args.csv, args.html))
    options, registry = options_from(args), registry_from(args)
    source = source_from(args, registry)
    found = sweep(
        source,
        target_from(args, registry, source),
        over=args.over,
        data=args.data,
        evaluation=args.evaluation,
        evaluate=args.evaluate,
        options=options,
        jobs=args.jobs,
        joblib_backend=args.joblib_backend,
        output=package,
        registry=registry,
        on_event=console.on_event,
        history=command_line(),
    )
    lines = [sweep_text(found, args.top)]
    if package is not None:
        lines.append(f"{package}: row {found.best.number}" if found.best else f"{package}: not written, all are refused")
    if sheet is not None:
        write_text(sheet, sweep_csv(found))
        lines.append(f"{sheet}: written")
    if page is not None:
        write_text(page, sweep_html(found, Path(args.model).name))
        lines.append(f"{page}: written")
    console.emit("\n".join(lines), sweep_data(found))
    return 0 if found.best else 1
