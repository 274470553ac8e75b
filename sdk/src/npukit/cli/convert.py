"""Make a .dlc of a model without calibration: it keeps the encodings that it brings or that --overrides gives, and those that
follow from them over ops that only move data. Everything else stays float.
"""

from __future__ import annotations

import argparse

from npukit.cli.console import Console
from npukit.cli.files import check_package
from npukit.cli.options import add_model_inputs, add_overrides, registry_from, request_from
from npukit.cli.quantize import add_keep_float, command_line, report_result

SUMMARY = "make a .dlc without calibration"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="an .onnx or .dlc file")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.dlc", help="the package to write")
    add_keep_float(parser)
    add_overrides(parser)
    add_model_inputs(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.quantization import convert

    target = check_package(args.output)
    result = convert(request_from(args), registry=registry_from(args), history=command_line())
    result.save(target, keep_float=args.keep_float)
    report_result(result, target, console)
    return 0
