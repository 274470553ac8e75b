"""qairt-accuracy-debugger."""

from __future__ import annotations

import csv
import io
import json
import os
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npukit.commands import INDEX
from npukit.encoding import Array
from npukit.errors import UsageError
from npukit.graph import write_atomic
from npukit.plugins import REFERENCE, Registry
from npukit_qairt.flags.debugger import METRICS
from npukit_qairt.net_run import Wish, run_dlc
from npukit_qairt.paths import model_file

_EVERY = Wish(every=True)


def run(args: Namespace) -> int:
    folder = Path(args.working_directory or "working_directory")
    verb = args.command_line.split()[1]
    if verb == "framework_runner":
        run_dlc(model_file(args.input_model), Path(args.input_list), folder, REFERENCE, _EVERY, Registry.load())
    elif verb == "inference_engine":
        run_dlc(model_file(args.input_model), Path(args.input_list), folder, args.backend, _EVERY, Registry.load())
    elif verb == "verification":
        _verify(Path(args.reference_tensor), Path(args.inference_tensor), args.comparators, folder)
    elif verb == "snooping":
        path, registry = model_file(args.input_model), Registry.load()
        run_dlc(path, Path(args.input_list), folder / "reference", REFERENCE, _EVERY, registry)
        run_dlc(path, Path(args.input_list), folder / "inference", args.backend, _EVERY, registry)
        _verify(folder / "reference", folder / "inference", args.comparators, folder)
    else:
        _compare_encodings(args, folder)
    return 0


def _verify(first: Path, second: Path, comparators: Sequence[str] | None, folder: Path) -> None:
    left, right = _index(first), _index(second)
    names = [name for name in left["files"] if name in right["files"]]
    if not names:
        raise UsageError(f"{first} and {second} have no tensor in common")
    metrics = comparators or METRICS
    rows = []
    for name in names:
        pairs = [
            [_values(place, found, name, i) for place, found in ((first, left), (second, right))] for i in range(left["samples"])
        ]
        x, y = (np.concatenate([pair[side] for pair in pairs]).astype(np.float64) for side in (0, 1))
        if x.shape != y.shape:
            raise UsageError(f"tensor '{name}' has {x.size} values in {first} and {y.size} in {second}")
        rows.append([name, *(f"{_METRICS[metric](x, y):.6g}" for metric in metrics)])
    _write(folder / "verification.csv", ["tensor", *metrics], rows)


def _index(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        files, samples = {name: file["float"] for name, file in found["files"].items()}, found["samples"]
        if type(samples) is not int or samples < 1 or not all(isinstance(file, str) for file in files.values()):
            raise ValueError
        return {"files": files, "samples": samples}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        hint = "framework_runner, inference_engine and qnn-net-run write such folders"
        raise UsageError(f"{folder} holds no results with an {INDEX}", hint=hint) from None


def _values(folder: Path, index: dict[str, Any], name: str, sample: int) -> Array:
    file = folder / f"Result_{sample}" / index["files"][name]
    if not os.path.isfile(file):
        raise UsageError(f"{file} does not exist")
    return np.fromfile(file, "<f4")


def _cosine(x: Array, y: Array) -> float:
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norm if norm else float(np.array_equal(x, y))


def _snr(x: Array, y: Array) -> float:
    """In dB; infinite for equal tensors."""
    noise = float(np.sum((x - y) ** 2))
    return 10 * float(np.log10(max(float(x @ x), 1e-300) / noise)) if noise else float("inf")


_METRICS: dict[str, Callable[[Array, Array], float]] = {
    "cosine": _cosine,
    "snr": _snr,
    "mse": lambda x, y: float(np.mean((x - y) ** 2)),
    "mae": lambda x, y: float(np.mean(np.abs(x - y))),
}


def _compare_encodings(args: Namespace, folder: Path) -> None:
    first, second = (_grids(Path(name)) for name in (args.encoding_path1, args.encoding_path2))
    rows = []
    for name in sorted(first.keys() | second.keys()):
        a, b = first.get(name), second.get(name)
        if a is None or b is None:
            rows.append([name, "only in the first" if b is None else "only in the second"])
        elif a[0] != b[0]:
            rows.append([name, f"bitwidth {a[0]} and {b[0]}"])
        elif a[1].shape != b[1].shape or not np.allclose(a[1], b[1], rtol=args.scale_threshold, atol=0):
            rows.append([name, f"scale {_short(a[1])} and {_short(b[1])}"])
        elif not np.array_equal(a[2], b[2]):
            rows.append([name, f"offset {_short(a[2])} and {_short(b[2])}"])
    print(f"{len(rows)} of {len(first.keys() | second.keys())} encodings differ")
    _write(folder / "compare_encodings.csv", ["tensor", "difference"], rows)


def _short(values: Array) -> str:
    return f"{values[0]:.6g}" if values.size == 1 else f"of {values.size} values" if values.size else "none"


def _grids(path: Path) -> dict[str, tuple[str, Array, Array]]:
    """Name -> (width, scales, offsets) of an encodings file of any version."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if "encodings" in document:
            return {e["name"]: _grid(e, "output_dtype", "y_scale", "y_zero_point") for e in document["encodings"]}
        found: dict[str, tuple[str, Array, Array]] = {}
        for section in ("activation_encodings", "param_encodings"):
            part = document.get(section, {})
            if isinstance(part, dict):
                entries = {n: {key: [item.get(key, 0) for item in items] for key in items[0]} for n, items in part.items()}
            else:
                entries = {entry["name"]: entry for entry in part}
            found |= {n: _grid(e, "bitwidth" if "bitwidth" in e else "bw", "scale", "offset") for n, e in entries.items()}
        return found
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UsageError(f"{path} is no encodings file: {type(error).__name__}: {' '.join(str(error).split())}") from None


def _grid(entry: dict[str, Any], width: str, scale: str, offset: str) -> tuple[str, Array, Array]:
    bits = entry[width][0] if isinstance(entry[width], list) else entry[width]
    scales, offsets = (np.atleast_1d(np.asarray(entry.get(key, []), np.float64)) for key in (scale, offset))
    return str(bits), scales.reshape(-1), offsets.reshape(-1)


def _write(path: Path, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([headers, *rows])
    write_atomic(path, [stream.getvalue().encode()])
    print(f"written: {path}")
