"""Compare two packages: layers, attributes, shapes, weights, encodings, manifest. Exit code 1 when they differ."""

from __future__ import annotations

import argparse

from npukit.cli.console import Console
from npukit.cli.options import existing

SUMMARY = "what differs between two packages"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", help="a .dlc file")
    parser.add_argument("second", help="another .dlc file")


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.package import diff_packages, read_package
    from npukit.report import diff_text

    found = diff_packages(read_package(existing(args.first)), read_package(existing(args.second)))
    console.emit(diff_text(found), {"differences": found})
    return 1 if found else 0
