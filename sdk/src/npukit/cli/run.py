"""Run a model on a backend, sample by sample.

With -o, results go to FOLDER/Result_N/<tensor>.npy (or .raw, float32 without a header) and FOLDER/index.json tells which file holds
which tensor. Without -o a summary of every output is printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npukit.cli.check import problems_text
from npukit.cli.console import Console
from npukit.cli.files import INDEX, check_result_folder, result_folder, safe_name
from npukit.cli.options import (
    add_backend,
    add_data,
    add_kernels,
    add_model_inputs,
    add_strictness,
    registry_from,
    source_from,
    target_from,
)
from npukit.errors import DataError, UsageError
from npukit.plugins.known import CAPABILITIES, FLOAT_BACKEND

if TYPE_CHECKING:
    from npukit.backend import Session, Target
    from npukit.calibration.data import Batches
    from npukit.encoding import Array

SUMMARY = "run a model on a backend"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a .dlc or .onnx file")
    add_backend(parser, default=FLOAT_BACKEND)
    add_strictness(parser)
    add_kernels(parser)
    add_data(parser)
    add_model_inputs(parser)
    parser.add_argument("-o", "--output", metavar="FOLDER", help="write the results there")
    parser.add_argument("--format", choices=("npy", "raw"), default="npy", help="of the result files (default: npy)")
    parser.add_argument("--profile", action="store_true", help="per-op figures of the first sample instead of its results")
    text = "inputs and results as the package's edges say: codes, float16, channels last (see quantize --edge)"
    parser.add_argument("--native", action="store_true", help=text)
    parser.add_argument("--tensors", default="", metavar="A,B", help="tensors to return instead of the outputs")


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.calibration import open_data
    from npukit.encoding import has_original_weights
    from npukit.quantization import open_session

    if args.profile and (args.output or args.tensors):
        raise UsageError("--profile runs one sample for its figures and returns no tensors: leave -o and --tensors out")
    target = check_result_folder(args.output) if args.output else None
    wanted = [name for name in args.tensors.split(",") if name]
    registry = registry_from(args)
    source = source_from(args, registry)
    chip = target_from(args, registry, source, default=FLOAT_BACKEND)
    open_on = partial(
        open_session, source, kernels=args.kernels, strict=args.strict, float_fallback=args.float_fallback, registry=registry
    )
    with open_on(chip) as session:
        batches = open_data(args.data, session.native_graph if args.native else session.program.graph, limit=args.limit)
        names = wanted or [t.name for t in session.outputs]
        results = (session.run(feeds, names, native=args.native) for feeds in batches)
        if session.ignores_encodings and session.program.encodings:
            console.note(
                f"{chip.name} computes in float: the encodings of the model ({len(session.program.encodings)}) are not used"
            )
            if not has_original_weights(session.program.graph):
                console.note("weights are those that the codes in the package stand for")
        note_problems(session, console)
        for node in session.metrics().get("reference", ()):
            console.note(f"{node} has no kernel and is computed in float")
        if args.profile:
            _profile(session, batches, chip, console)
        elif target is None:
            _summarize(results, chip, console)
        else:
            _write(results, names, chip, target, args.format, console)
        _note_idle(chip, session, batches, open_on, args.native, console)
    return 0


def note_problems(session: Session, console: Console) -> None:
    """List what the backend refuses of a model that runs in spite of that."""
    errors = [p for p in session.problems if p.severity == "error"]
    if errors:
        console.note(problems_text(errors))


def _note_idle(
    chip: Target, session: Session, batches: Batches, open_on: Callable[[Target], Session], native: bool, console: Console
) -> None:
    """Say of a setting that it changes nothing in the results of the first sample."""
    import numpy as np

    from npukit.quantization.settings import default_settings

    for note in default_settings(chip):
        console.note(f"note: {note}")
    for name in chip.changed("results"):
        feeds = next(iter(batches))
        with open_on(chip.with_default(name)) as other:
            pairs = zip(session.run(feeds, native=native).values(), other.run(feeds, native=native).values(), strict=True)
            if all(np.array_equal(a, b) for a, b in pairs):
                console.note(f"note: setting '{name}' = {chip.settings[name]} changed nothing in the outputs of the first sample")


def _summarize(results: Iterable[dict[str, Array]], chip: Target, console: Console) -> None:
    import numpy as np

    from npukit.report import shape, table

    found: dict[str, dict[str, Any]] = {}
    samples = 0
    for result in results:
        for name, value in result.items():
            row = found.setdefault(name, {"shape": list(value.shape), "min": np.inf, "max": -np.inf, "sum": 0.0, "count": 0})
            row["min"], row["max"] = min(row["min"], float(value.min())), max(row["max"], float(value.max()))
            row["sum"], row["count"] = row["sum"] + float(value.sum(dtype=np.float64)), row["count"] + value.size
        samples += 1
    rows = [(n, shape(r["shape"]), r["min"], r["max"], r["sum"] / r["count"]) for n, r in found.items()]
    text = table(["Output", "Shape", "Min", "Max", "Mean"], rows) + f"\n{samples} samples on {chip.name}"
    keys = ("name", "shape", "min", "max", "mean")
    data = [dict(zip(keys, (n, found[n]["shape"], *row[2:]), strict=True)) for row in rows for n in [row[0]]]
    console.emit(text, {"backend": chip.name, "samples": samples, "outputs": data})


def _profile(session: Session, batches: Batches, chip: Target, console: Console) -> None:
    from npukit.report import table

    feeds = next(iter(batches), None)
    if feeds is None:
        raise DataError("there is no sample to run")
    try:
        ops = session.profile(feeds)
    except UsageError as error:
        raise UsageError(error.message, hint=f"--profile works with --backend {CAPABILITIES['profile']}", code=error.code) from None
    session.run(feeds)
    facts = session.metrics()
    rows = [(op.node, op.op or "-", int(op.value) if op.value.is_integer() else op.value, op.unit) for op in ops]
    lines = [
        table(["Node", "Op", "Time", "Unit"], rows),
        *(f"{key}: {value}" for key, value in facts.items()),
        f"one run on {chip.name}",
    ]
    console.emit("\n".join(lines), {"backend": chip.name, "ops": ops, "metrics": facts})


def _write(results: Iterable[dict[str, Array]], names: list[str], chip: Target, target: Path, form: str, console: Console) -> None:
    import numpy as np

    taken: set[str] = set()
    files = {name: f"{safe_name(name, taken)}.{form}" for name in names}
    samples = 0
    with result_folder(target) as folder:
        for result in results:
            place = folder / f"Result_{samples}"
            place.mkdir()
            for name, value in result.items():
                if form == "npy":
                    np.save(place / files[name], value)
                else:
                    _raw(value).tofile(place / files[name])
            samples += 1
        index = {"npukit": 1, "backend": chip.name, "samples": samples, "files": files}
        (folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    console.emit(f"{target}: {samples} results of {len(names)} tensors on {chip.name}", {"output": str(target), **index})


def _raw(value: Array) -> Array:
    """A result without a header: real values as float32, codes as they are, least significant byte first."""
    return (
        value.astype("<f4") if value.dtype.kind == "f" and value.dtype.itemsize > 2 else value.astype(value.dtype.newbyteorder("<"))
    )
