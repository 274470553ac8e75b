"""Write a package in a form that other tools read.

onnx-qdq: an ONNX model with QuantizeLinear and DequantizeLinear nodes, which ONNX Runtime runs. encodings: the encodings JSON
of AIMET and QAIRT. Backends bring formats of their own: qnn-dlc and qnn-context are files of the vendor's tools.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npukit.cli.console import Console
from npukit.cli.files import check_writable, write_text
from npukit.cli.options import existing, registry_from, settings_from
from npukit.errors import UsageError, counted, did_you_mean

if TYPE_CHECKING:
    from npukit.package import Package
    from npukit.plugins import Registry

SUMMARY = "write a package for other tools"
OWN = ("onnx-qdq", "encodings")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", help="a .dlc file")
    parser.add_argument("--format", required=True, metavar="F", help="onnx-qdq, encodings, or one that a backend brings (qnn-dlc)")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--version", default="", metavar="V", help="of the encodings: 0.6.1, 1.0.0 (default) or 2.0.0")
    parser.add_argument("--soc", default="", metavar="NAME", help="chip that a backend's format is for (default: the package's)")
    text = "a setting of the backend that writes the format (may be repeated)"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings", help=text)


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.package import read_package

    if args.version and args.format != "encodings":
        raise UsageError("--version is for --format encodings; the opset of onnx-qdq follows from the types used")
    if (args.soc or args.settings) and args.format in OWN:
        flag = "--soc" if args.soc else "--set"
        raise UsageError(f"{flag} has no effect on --format {args.format}, which is the same for every chip")
    target = check_writable(args.output)
    registry = registry_from(args)
    package = read_package(existing(args.package))
    if args.format == "onnx-qdq":
        text, data = _qdq(package, target)
    elif args.format == "encodings":
        text, data = _encodings(package, target, args.version or "1.0.0")
    else:
        text, data = _by_backend(args, package, target, registry)
    console.emit(f"{target}: {text}", {"output": str(target), **data})
    return 0


def _qdq(package: Package, target: Path) -> tuple[str, dict[str, Any]]:
    from npukit.encoding.formats import insert_qdq
    from npukit.graph import save

    graph = insert_qdq(package.graph, package.encodings)
    save(graph, target)
    return f"opset {graph.opset}, {len(graph.nodes)} nodes", {"opset": graph.opset, "nodes": len(graph.nodes)}


def _encodings(package: Package, target: Path, version: str) -> tuple[str, dict[str, Any]]:
    from npukit.encoding.formats import write_encodings

    write_text(target, write_encodings(package.encodings, package.graph, version))
    return f"version {version}, {counted(len(package.encodings), 'encoding')}", {"encodings": len(package.encodings)}


def _by_backend(args: argparse.Namespace, package: Package, path: Path, registry: Registry) -> tuple[str, dict[str, Any]]:
    writers = {name: backend for backend in registry.backends() for name in backend.exports}
    if args.format not in writers:
        raise UsageError(f"there is no export format '{args.format}'", hint=did_you_mean(args.format, [*OWN, *writers]))
    name, made_for = writers[args.format].name, package.manifest.selection
    target = registry.target(name, soc=args.soc, settings=settings_from(args), made_for=made_for)
    text = target.backend.export(target.compile(package.graph, package.encodings, package.types), args.format, path)
    return text, {"format": args.format, "soc": target.soc.name}
