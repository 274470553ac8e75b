"""qaic-opstats: the time of each layer, as the model of the card has it. Nothing is measured: there is no card.

It reads a compiled model, or what qaic-runner wrote with --aic-profiling-type stats or trace.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from npukit import report
from npukit.commands import check_writable
from npukit.errors import DataError, UsageError, one_line
from npukit.graph import write_atomic
from npukit_aic.qpc import read_qpc
from npukit_aic.speed import estimate_package
from npukit_aic.tools.edge import MICRO, Parser, guarded, number
from npukit_aic.tools.profiling import STATS, stats

NAME = "qaic-opstats"
_COLUMNS = ("Node", "Op", "Type", "HMX us", "HVX us", "DDR us", "NoC us", "DDR bytes", "Total us", "Share %")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool and return its exit code."""
    return guarded(NAME, _run, argv)


def _run(words: Sequence[str]) -> int:
    parser = Parser(NAME, __doc__)
    parser.add_argument("--qpc", metavar="PATH", help="programqpc.bin, or its folder")
    parser.add_argument("--input-dir", metavar="DIR", help="what qaic-runner wrote")
    parser.add_argument("--output-dir", metavar="DIR", help="write the tables there as text, not to stdout")
    parser.add_argument("-a", "--num-activations", type=number(1), metavar="N", help="with --qpc: copies of the model")
    args = parser.read(words)
    if args.input_dir is not None:
        found = _read(Path(args.input_dir))
    elif args.qpc is not None:
        qpc, name = read_qpc(args.qpc), "activation 0"
        settings = {**qpc.options, "num_activations": args.num_activations or qpc.options["num_activations"]}
        found = {name: _text(name, stats(estimate_package(qpc.package, settings)))}
    else:
        raise UsageError("there is nothing to read", hint="--qpc DIR, or --input-dir DIR of qaic-runner")
    for name, text in found.items():
        if args.output_dir is None:
            print(text)
        else:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
            write_atomic(check_writable(Path(args.output_dir) / f"{name.replace(' ', '-')}-opstats.txt"), [text.encode()])
    return 0


def _read(folder: Path) -> dict[str, str]:
    """The tables of the files in a folder, by the name of the file."""
    files = sorted(folder.glob(f"*{STATS}"))
    if not files:
        raise DataError(f"'{folder}' has no *{STATS}", hint="qaic-runner --aic-profiling-type stats writes them")
    found = {}
    for file in files:
        name = file.name.removesuffix(STATS)
        try:
            found[name] = _text(name, json.loads(file.read_bytes()))
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
            raise DataError(f"'{file}' holds no statistics of qaic-runner: {one_line(error)}") from None
    return found


def _text(name: str, data: Mapping[str, Any]) -> str:
    rows = data["rows"]
    whole = sum(row["seconds"] for row in rows) or 1.0
    cells = [
        (
            row["work"]["node"],
            row["work"]["op"],
            row["work"]["precision"],
            *(round(row[f"t_{unit}"] * MICRO, 3) for unit in ("mac", "vec", "ddr", "noc")),
            round(row["ddr_bytes"]),
            round(row["seconds"] * MICRO, 3),
            round(100 * row["seconds"] / whole, 1),
        )
        for row in rows
    ]
    head = f"{name}: modelled, {data['rate']:.1f} inferences/s, {data['latency'] * MICRO:.1f} us, limited by {data['bound']}"
    return f"{head}\n{report.table(_COLUMNS, cells)}"


if __name__ == "__main__":
    raise SystemExit(main())
