"""Propose the smallest change of encodings after which a backend accepts a model.

A .dlc is judged by the encodings it has, a float model as `npukit quantize` with the same flags would make it; no data is needed. A
new grid keeps the real range of the old one, that of a weight is made from its data. -o writes the package, --write-overrides an
encodings file for `npukit quantize --overrides`. Exit code 1 when problems remain that no encoding ends.
"""

from __future__ import annotations

import argparse

from npukit.cli.check import problems_text
from npukit.cli.console import Console
from npukit.cli.files import check_package, check_writable, write_text
from npukit.cli.options import (
    add_backend,
    add_model_inputs,
    add_overrides,
    add_precision,
    options_from,
    registry_from,
    source_from,
    target_from,
)
from npukit.cli.quantize import changes_text, command_line
from npukit.errors import counted

SUMMARY = "which encodings must change for a backend?"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="an .onnx or .dlc file")
    parser.add_argument("-o", "--output", metavar="FILE.dlc", help="write the package with the legal encodings")
    parser.add_argument("--write-overrides", metavar="FILE", help="write the given and the changed encodings")
    add_backend(parser)
    add_precision(parser)
    add_overrides(parser)
    add_model_inputs(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.encoding.formats import write_encodings
    from npukit.quantization import legalize

    output = check_package(args.output) if args.output else None
    overrides = check_writable(args.write_overrides) if args.write_overrides else None
    options, registry = options_from(args), registry_from(args)
    source = source_from(args, registry)
    target = target_from(args, registry, source)
    found = legalize(source, target, options=options, registry=registry, history=command_line())
    label = f"{found.backend}:{found.soc.name}"
    lines = [changes_text(found.changes)] if found.changes else []
    lines += [problems_text(found.remaining)] if found.remaining else []
    lines += [f"note: {note}" for note in found.notes]
    guessed = sorted(found.unknown & {c.tensor for c in found.changes})
    if guessed:
        lines.append(f"note: {len(guessed)} of the new grids need a range: npukit quantize --legalize --data D makes them")
    if output is not None and found.legal:
        found.package().save(output)
        lines.append(f"{output}: written")
    elif output is not None:
        lines.append(f"{output}: not written, the model is still refused")
    if overrides is not None:
        write_text(overrides, write_encodings(found.overrides, found.graph))
        lines.append(f"{overrides}: {counted(len(found.overrides), 'encoding')}")
    verdict = "accepted" if found.legal else "still refused"
    count = sum(not change.follows for change in found.changes)
    lines.append(f"{args.model}: {verdict} by {label} with {counted(count, 'encoding')} changed")
    data = {
        "model": args.model,
        "backend": found.backend,
        "soc": found.soc.name,
        "legal": found.legal,
        "changes": found.changes,
        "remaining": found.remaining,
        "need_ranges": guessed,
        "notes": found.notes,
    }
    console.emit("\n".join(lines), data)
    return 0 if found.legal else 1
