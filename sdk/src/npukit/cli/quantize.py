"""Quantize a model for a backend: overrides first, then fixed grids of the op constraints, then calibration on --data.

The result is checked against the op constraints; --no-strict writes it in spite of violations and lists them, --legalize first
changes as few encodings as end the violations, and lists the changes. The package is then run on the backend with the first samples
of --data, and the SQNR of its outputs against the float model is told, with a warning below 10 dB.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npukit.cli.check import problems_text
from npukit.cli.console import Console
from npukit.cli.files import check_package
from npukit.cli.options import (
    add_backend,
    add_calibration,
    add_data,
    add_edges,
    add_model_inputs,
    add_overrides,
    add_precision,
    options_from,
    registry_from,
    source_from,
    target_from,
)
from npukit.errors import ConstraintError, NpukitError, UsageError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from npukit.backend import Target
    from npukit.diagnosis import OutputsSqnr
    from npukit.graph import Graph
    from npukit.legalize import Change
    from npukit.plugins import Registry
    from npukit.quantization import Quantized, Source

_SAMPLES = 4
_SECONDS = 10.0
"""How many samples the finished package is run on, and when no further one is begun: it must cost little beside calibration."""
_LOW = 10.0
"""Decibels below which an output has a third of its signal in noise, and a person should know."""
_SHOWN = 4

SUMMARY = "quantize a model for a backend"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="an .onnx file")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.dlc", help="the package to write")
    add_backend(parser)
    add_data(parser, required=False)
    add_calibration(parser)
    add_precision(parser)
    add_overrides(parser)
    add_optimizers(parser)
    add_edges(parser)
    add_model_inputs(parser)
    parser.add_argument("--no-strict", dest="strict", action="store_false", help="list violations instead of refusing")
    parser.add_argument("--legalize", action="store_true", help="change encodings that the backend refuses, as few as possible")
    add_keep_float(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="recorded in the package (default: 0)")


def add_keep_float(parser: argparse.ArgumentParser) -> None:
    """How weights are stored."""
    parser.add_argument(
        "--keep-float", action="store_true", help="store the original weights, not their codes: to optimize the package further"
    )


def add_optimizers(parser: argparse.ArgumentParser) -> None:
    """What improves the model between calibration and the last check."""
    group = parser.add_argument_group("optimizers")
    group.add_argument("--optimize", default="", metavar="NAME,...", help="run optimizers in this order: cle, adaround, amp ...")
    group.add_argument("--config", metavar="FILE.yaml", help="their settings (aimet_quantizer: datasets, adaround, amp)")
    group.add_argument("--engine", default="", metavar="NAME", help="where they compute: npukit (default) or aimet")


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.calibration import find_observer
    from npukit.quantization import quantize

    output = check_package(args.output)
    for flag in ("config", "engine"):
        if getattr(args, flag) and not args.optimize:
            raise UsageError(f"--{flag} has no effect without --optimize")
    options, registry = options_from(args), registry_from(args)
    find_observer(options.calibration, registry.observers())  # a typo must not cost the reading of the model
    source = source_from(args, registry)
    target = target_from(args, registry, source)
    try:
        result = quantize(
            source,
            target,
            data=args.data,
            options=options,
            registry=registry,
            on_event=console.on_event,
            history=command_line(),
            optimize=args.optimize,
            config=args.config,
            engine=args.engine,
        )
    except ConstraintError as error:
        if not console.json:
            console.note(problems_text(error.problems))
        raise
    result.save(output, keep_float=args.keep_float)
    found = _sqnr(args, output, result.graph, source, target, registry)
    report_result(result, output, console, _sqnr_lines(found, target), _sqnr_data(found))
    return 0


def _sqnr(
    args: argparse.Namespace, package: Path, graph: Graph, source: Source, target: Target, registry: Registry
) -> OutputsSqnr | str:
    """What is left of the outputs on the first samples; or why that cannot be said."""
    from npukit.calibration import open_data
    from npukit.calibration.profile import is_profile
    from npukit.diagnosis import outputs_sqnr

    if args.data is None or is_profile(args.data):
        return "there are no samples to run, no --data" if args.data is None else "a profile has no samples to run"
    if target.ignores_encodings:
        return f"{target.name} computes in float"
    try:
        batches = open_data(args.data, graph, limit=args.limit)
        return outputs_sqnr(
            package, source, target, batches, strict=args.strict, most=_SAMPLES, seconds=_SECONDS, registry=registry
        )
    except NpukitError as error:  # the package is written, and good wherever the backend can run
        return error.message
    except Exception as error:  # of a backend's own runtime
        return f"{target.name} failed: {one_line(error)}"


def _sqnr_lines(found: OutputsSqnr | str, target: Target) -> list[str]:
    """The SQNR of the worst outputs, and a warning when one is low."""
    from npukit.report import decibels

    if isinstance(found, str):
        return [f"SQNR not measured: {found}"]
    ranked = sorted(found.sqnr.items(), key=lambda item: item[1])
    shown = ", ".join(f"{name} {decibels(level)}" for name, level in ranked[:_SHOWN])
    others = f" and {len(ranked) - _SHOWN} better ones" if len(ranked) > _SHOWN else ""
    lines = [f"SQNR on {target.name}, first {found.samples} samples: {shown}{others}"]
    if ranked[0][1] < _LOW:
        lines.append(f"warning: little is left of '{ranked[0][0]}'; npukit analyze says which layers cost it, and what helps")
    return lines


def _sqnr_data(found: OutputsSqnr | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"outputs": {}, "samples": 0, "low": [], "why": found}
    low = [name for name, level in found.sqnr.items() if level < _LOW]
    return {"outputs": found.sqnr, "samples": found.samples, "low": low, "why": ""}


def command_line() -> list[str]:
    """This command as a package's history keeps it."""
    return ["npukit", *sys.argv[1:]]


def report_result(
    result: Quantized, target: Path, console: Console, sqnr: Sequence[str] = (), sqnr_data: Mapping[str, Any] | None = None
) -> None:
    """Say what was written and where its encodings come from; ``sqnr``: lines about the outputs, ``sqnr_data``: as data."""
    report = result.report
    origins = ", ".join(f"{count} {origin}" for origin, count in sorted(report.origins.items())) or "none, the model is float"
    lines = [changes_text(report.changes)] if report.changes else []
    lines += [problems_text(report.problems)] if report.problems else []
    lines += [f"note: {note}" for note in report.notes]
    fused = [node for node in result.graph.nodes if result.graph.origins(node)]
    if fused:
        counts = ", ".join(f"{count} {op}" for op, count in Counter(node.op for node in fused).items())
        lines.append(f"put together: {counts} (npukit info lists the nodes that they stand for)")
    lines.append(f"{target}: {target.stat().st_size / 1e3:.0f} kB; encodings: {origins}")
    lines += sqnr
    data = {
        "output": str(target),
        "origins": report.origins,
        "problems": report.problems,
        "notes": report.notes,
        "changes": report.changes,
        "fused": {node.name: result.graph.origins(node) for node in fused},
    }
    console.emit("\n".join(lines), data if sqnr_data is None else {**data, "sqnr": sqnr_data})


def changes_text(changes: Iterable[Change]) -> str:
    """A table of changed encodings; biases, which follow from input and weight, are only counted."""
    from npukit.package.describe import typed_text
    from npukit.report import table

    changed = tuple(changes)
    rows = [(c.tensor, typed_text(c.before), typed_text(c.after), f"{c.op} '{c.node}'", c.rule) for c in changed if not c.follows]
    biases = len(changed) - len(rows)
    text = table(["Tensor", "Was", "Becomes", "Because of", "Rule"], rows)
    return text + (f"\n{biases} biases follow" if biases else "")
