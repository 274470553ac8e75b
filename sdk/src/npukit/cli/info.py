"""Show what is in a model: a table of layers with their tensors, types, shapes, parameters and multiply-accumulates."""

from __future__ import annotations

import argparse

from npukit.cli.console import Console
from npukit.cli.options import add_model_inputs, registry_from, source_from

SUMMARY = "what is in a model"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a .dlc or .onnx file")
    add_model_inputs(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.package import describe
    from npukit.report import info_text

    source = source_from(args, registry_from(args))
    info = describe(
        source.graph, source.encodings, source.manifest, types=source.types, edges=source.edges, bindings=source.bindings
    )
    console.emit(info_text(info), info)
    return 0
