"""See once what a float model does on data: the range and a histogram of every tensor, in one file.

`npukit quantize --data FILE.npz` takes the file in place of data, with any calibration method and any types: one pass over the data
serves them all. Several files are merged into one with --merge.
"""

from __future__ import annotations

import argparse

from npukit.cli.console import Console
from npukit.cli.files import check_writable
from npukit.cli.options import add_backend, add_data, add_model_inputs, registry_from, source_from, target_from

SUMMARY = "what does a float model do on data?"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="an .onnx file")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.npz", help="the profile to write")
    add_backend(parser)
    add_data(parser)
    add_model_inputs(parser)
    parser.add_argument(
        "--merge", action="append", default=[], metavar="FILE.npz", help="add what this profile saw (may be repeated)"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.calibration import Profile, all_observers
    from npukit.quantization import profile

    output = check_writable(args.output)
    registry = registry_from(args)
    others = [Profile.load(path) for path in args.merge]
    source = source_from(args, registry)
    target = target_from(args, registry, source)
    found = profile(source, target, data=args.data, limit=args.limit, registry=registry, on_event=console.on_event)
    for other in others:
        found = found.merge(other, all_observers(registry.observers()))
    found.save(output)
    text = f"{output}: {len(found.tensors)} tensors over {found.samples} samples, {output.stat().st_size / 1e3:.0f} kB"
    console.emit(text, {"output": str(output), "tensors": len(found.tensors), "samples": found.samples})
    return 0
