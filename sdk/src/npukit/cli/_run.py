"""Run a model on a backend, sample by sample.

With -o, results go to FOLDER/Result_N/<tensor>.npy (or .raw, float32 without a header) and FOLDER/index.json tells which file holds
which tensor. Without -o a summary of every output is printed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npukit.cli._console import Console
from npukit.cli._files import INDEX, check_result_folder, result_folder, safe_name
from npukit.cli._options import add_backend, add_data, add_kernels, add_model_inputs, existing, registry_from, symbols_from
from npukit.errors import DataError, UsageError

if TYPE_CHECKING:
    from npukit.backend import Session
    from npukit.calibration.data import Batches

SUMMARY = "run a model on a backend"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a .dlc or .onnx file")
    add_backend(parser, default="")
    add_kernels(parser)
    add_data(parser)
    add_model_inputs(parser)
    parser.add_argument("-o", "--output", metavar="FOLDER", help="write the results there")
    parser.add_argument("--format", choices=("npy", "raw"), default="npy", help="of the result files (default: npy)")
    parser.add_argument("--profile", action="store_true", help="per-op figures of the first sample instead of its results")
    parser.add_argument("--tensors", default="", metavar="A,B", help="tensors to return instead of the outputs")


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.calibration import open_data
    from npukit.encoding import has_original_weights
    from npukit.quantization import open_session

    if args.profile and (args.output or args.tensors):
        raise UsageError("--profile runs one sample for its figures and returns no tensors: leave -o and --tensors out")
    target = check_result_folder(args.output) if args.output else None
    wanted = [name for name in args.tensors.split(",") if name]
    with open_session(
        existing(args.model),
        backend=args.backend,
        soc=args.soc,
        soc_file=args.soc_file,
        registry=registry_from(args),
        symbols=symbols_from(args),
        batch=args.batch,
        kernels=args.kernels,
    ) as session:
        batches = open_data(args.data, session.program.graph, limit=args.limit)
        names = wanted or [t.name for t in session.outputs]
        label = f"{session.program.backend}:{session.program.soc.name}"
        if session.ignores_encodings and session.program.encodings:
            console.note(f"{label} computes in float: the {len(session.program.encodings)} encodings of the model are not used")
            if not has_original_weights(session.program.graph):
                console.note("weights are those that the codes in the package stand for")
        if args.profile:
            _profile(session, batches, label, console)
        elif target is None:
            _summarize(session, batches, names, label, console)
        else:
            _write(session, batches, names, label, target, args.format, console)
    return 0


def _summarize(session: Session, batches: Batches, names: list[str], label: str, console: Console) -> None:
    import numpy as np

    from npukit.report import shape, table

    found: dict[str, dict[str, Any]] = {}
    samples = 0
    for feeds in batches:
        for name, value in session.run(feeds, names).items():
            row = found.setdefault(name, {"shape": list(value.shape), "min": np.inf, "max": -np.inf, "sum": 0.0, "count": 0})
            row["min"], row["max"] = min(row["min"], float(value.min())), max(row["max"], float(value.max()))
            row["sum"], row["count"] = row["sum"] + float(value.sum(dtype=np.float64)), row["count"] + value.size
        samples += 1
    rows = [(n, shape(r["shape"]), r["min"], r["max"], r["sum"] / r["count"]) for n, r in found.items()]
    text = table(["Output", "Shape", "Min", "Max", "Mean"], rows) + f"\n{samples} samples on {label}"
    keys = ("name", "shape", "min", "max", "mean")
    data = [dict(zip(keys, (n, found[n]["shape"], *row[2:]), strict=True)) for row in rows for n in [row[0]]]
    console.emit(text, {"backend": label, "samples": samples, "outputs": data})


def _profile(session: Session, batches: Batches, label: str, console: Console) -> None:
    from npukit.report import table

    feeds = next(iter(batches), None)
    if feeds is None:
        raise DataError("there is no sample to run")
    ops = session.profile(feeds)
    session.run(feeds)
    facts = session.metrics()
    rows = [(op.node, op.op or "-", int(op.value) if op.value.is_integer() else op.value, op.unit) for op in ops]
    lines = [
        table(["Node", "Op", "Time", "Unit"], rows),
        *(f"{key}: {value}" for key, value in facts.items()),
        f"one run on {label}",
    ]
    console.emit("\n".join(lines), {"backend": label, "ops": ops, "metrics": facts})


def _write(session: Session, batches: Batches, names: list[str], label: str, target: Path, form: str, console: Console) -> None:
    import numpy as np

    taken: set[str] = set()
    files = {name: f"{safe_name(name, taken)}.{form}" for name in names}
    samples = 0
    with result_folder(target) as folder:
        for feeds in batches:
            place = folder / f"Result_{samples}"
            place.mkdir()
            for name, value in session.run(feeds, names).items():
                if form == "npy":
                    np.save(place / files[name], value)
                else:
                    value.astype("<f4").tofile(place / files[name])
            samples += 1
        index = {"npukit": 1, "backend": label, "samples": samples, "files": files}
        (folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    console.emit(f"{target}: {samples} results of {len(names)} tensors on {label}", {"output": str(target), **index})
