"""Make a .dlc of a model without calibration: it keeps the encodings that it brings or that --overrides gives, and those that
follow from them over ops that only move data. Everything else stays float.
"""

from __future__ import annotations

import argparse

from npukit.cli._console import Console
from npukit.cli._files import check_writable
from npukit.cli._options import add_model_inputs, add_overrides, existing, registry_from, symbols_from
from npukit.cli._quantize import add_keep_float, command_line, report_result

SUMMARY = "make a .dlc without calibration"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="an .onnx or .dlc file")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.dlc", help="the package to write")
    add_keep_float(parser)
    add_overrides(parser)
    add_model_inputs(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.quantization import convert

    target = check_writable(args.output)
    result = convert(
        existing(args.model),
        overrides=args.overrides,
        lenient=args.lenient,
        registry=registry_from(args),
        symbols=symbols_from(args),
        batch=args.batch,
        history=command_line(),
    )
    result.save(target, keep_float=args.keep_float)
    report_result(result, target, console)
    return 0
