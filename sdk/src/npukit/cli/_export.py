"""Write a package in a form that other tools read.

onnx-qdq: an ONNX model with QuantizeLinear and DequantizeLinear nodes, which ONNX Runtime runs. encodings: the encodings JSON
of AIMET and QAIRT.
"""

from __future__ import annotations

import argparse

from npukit.cli._console import Console
from npukit.cli._files import check_writable, write_text
from npukit.cli._options import existing

SUMMARY = "write a package for other tools"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", help="a .dlc file")
    parser.add_argument("--format", required=True, choices=("onnx-qdq", "encodings"), help="what to write")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--version", default="", metavar="V", help="of the encodings: 0.6.1, 1.0.0 (default) or 2.0.0")


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.encoding.formats import insert_qdq, write_encodings
    from npukit.errors import UsageError
    from npukit.graph import save
    from npukit.package import read_package

    if args.version and args.format != "encodings":
        raise UsageError("--version is for --format encodings; the opset of onnx-qdq follows from the types used")
    target = check_writable(args.output)
    package = read_package(existing(args.package))
    if args.format == "onnx-qdq":
        graph = insert_qdq(package.graph, package.encodings)
        save(graph, target)
        text, data = f"opset {graph.opset}, {len(graph.nodes)} nodes", {"opset": graph.opset, "nodes": len(graph.nodes)}
    else:
        version = args.version or "1.0.0"
        write_text(target, write_encodings(package.encodings, package.graph, version))
        text, data = f"version {version}, {len(package.encodings)} encodings", {"encodings": len(package.encodings)}
    console.emit(f"{target}: {text}", {"output": str(target), **data})
    return 0
