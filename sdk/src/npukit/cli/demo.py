"""Quantize a small digit classifier for HTP, check it, run it on two backends, and print its accuracy."""

from __future__ import annotations

import argparse
from pathlib import Path

from npukit.cli.console import Console
from npukit.cli.options import registry_from

SUMMARY = "the whole trip on a small model"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FOLDER", help="keep the model, the data and the packages there")


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.demo import run as run_demo

    text, data = run_demo(registry_from(args), console.note, Path(args.output) if args.output else None)
    console.emit(text, data)
    return 0
