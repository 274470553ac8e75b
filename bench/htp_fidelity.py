"""How far the HTP emulator agrees with the vendor's simulator, on the same encodings: op by op, and on whole models.

    python bench/htp_fidelity.py [--soc SM8750,SM8350] [--case PATTERN] [--csv FILE] [--zoo FOLDER]
    python bench/htp_fidelity.py --ranges 24 [--seed 0] [--soc SM8750] [--case PATTERN] [--csv FILE]

Needs onnxruntime-qnn. Ops: equal codes, codes within one step, largest difference, SQNR of emulator against simulator; every row
is held against its bar. Models (--zoo): SQNR against float of both, per output, and their difference. Exit code 1 when a bar is
missed. --ranges draws ranges of values for every op instead: where the simulator is wrong and the emulator right is a hole.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import grid
import pair
import ranges
import zoo
from numpy.typing import NDArray

from npukit.backend import Backend, Soc
from npukit.diagnosis import decibels_of, total_powers
from npukit.plugins import Registry
from npukit.quantization import Options, Request, open_session, quantize

Array = NDArray[Any]

EXACT = {
    "MaxPool", "MaxPool3s2p1", "GlobalMaxPool", "Concat_same", "Split", "Slice", "Pad_const", "Pad_reflect", "Reshape",
    "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "Resize_nearest", "DepthToSpace", "SpaceToDepth", "Gather",
    "GatherElements", "GatherND", "ScatterElements", "ScatterND", "MaxRoiPool", "Equal", "Greater", "Less",
    "Where", "ArgMax", "ArgMin",
}  # fmt: skip
TABLES = {
    "Relu", "Clip06", "LeakyRelu", "Sigmoid", "Sigmoid_auto", "Tanh", "HardSwish", "HardSigmoid", "Gelu", "Gelu_tanh", "Elu",
    "Softplus", "Sqrt", "Exp", "Log", "Abs", "Neg", "Sin", "Cos", "Atan", "Floor", "Ceil", "Round", "Sign", "Pow2", "Pow3",
    "Reciprocal",
}  # fmt: skip
PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


# Where the simulator's arithmetic is not a documented one: (cases or cases@chip, activations, what is seen). They miss their bar
# with a reason.
GAPS = (
    (
        "Conv+HardSwish@SM8350|Conv+HardSwish@SM8450",
        "u8|s8",
        "before v73 some codes are two steps apart: the grid between the two ops rounds once more",
    ),
    ("Conv3x3_dil2", "u16", "a dilated 16 x 16 bit convolution is computed wrongly by the simulator (check warns of it)"),
    ("Conv1x1_single*", "u16", "a 1x1 convolution with block weights is computed wrongly by the simulator (check warns of it)"),
    (
        "LSTM",
        "*",
        "a float op of the provider; the difference, 0.9 % of the range at most, is not explained (check warns)",
    ),
    ("Sigmoid_auto", "u16|s16", "the simulator keeps the grid 1/65536 whatever the encoding says (check warns of it)"),
    ("CumSum", "u8", "the simulator's sums are off by far more than rounding, for a reason that is not known (check warns of it)"),
    ("Log", "u16", "the simulator gives the lowest code everywhere when the output spans less than 4 (check --data warns of it)"),
    ("Softplus", "u16|s16", "a polynomial or table that is not documented; the error is just above 0.4 % of the range"),
    ("LogSoftmax", "u8", "the simulator truncates most results"),
    ("LpNorm|ReduceL2", "u8|s8", "the simulator truncates after the square root instead of rounding"),
    ("LayerNorm*", "u8|s8", "fixed-point scale and shift that are not documented; at most one step apart"),
    ("Reciprocal", "u8|s8", "a fixed-point table that is not documented; at most one step apart"),
    ("Neg|Sin|Gelu_tanh", "u8|s8", "values at a rounding boundary (under 1.5 % of the codes); at most one step apart"),
    ("TopK", "u8|s8", "values pass through float16 and are truncated; ties give other indices than ONNX Runtime's"),
    ("GridSample", "u8", "interpolation weights in fixed point that are not documented; at most one step apart"),
    ("RMSNorm|SimplifiedLayerNorm", "u8", "the simulator truncates instead of rounding"),
    ("LpPool_padded", "*", "the simulator computes a padded LpPool wrongly in float16 (check warns of it)"),
    ("LpPool*", "u8|s8", "the quantize behind the float op is up to 0.1 steps high; at most one step apart"),
    ("STFT", "u8|s8", "the simulator truncates some of the results; at most one step apart"),
    ("Inverse", "u8|s8|u16", "a dozen float16 ops; on matrices that are nearly singular their rounding decides"),
)


def gap(row: Row) -> str:
    """Why a row misses its bar, "" when nothing explains it."""
    act, places = row.types.partition(":")[0], (row.case, f"{row.case}@{row.soc}")
    for cases, acts, why in GAPS:
        if any(fnmatch.fnmatchcase(place, c) for c in cases.split("|") for place in places) and any(
            fnmatch.fnmatchcase(act, a) for a in acts.split("|")
        ):
            return why
    return ""


@attrs.frozen
class Row:
    """One cell of the grid on one chip; ``exact`` and ``within1`` in per cent, ``largest`` in steps, ``sqnr`` in dB."""

    case: str
    types: str
    soc: str
    count: int = 0
    exact: float = 0.0
    within1: float = 0.0
    largest: int = 0
    sqnr: float = 0.0
    bar: str = ""
    verdict: str = ""


def bar(case: str, act: str, weight: str, granularity: str, generation: int) -> tuple[str, float, int | None]:
    """(name, least share of equal codes in per cent, largest difference in steps) that a cell is held to."""
    weighted = weight != "-"
    if act.startswith("f"):
        return ("fp16 product", 99.8, None) if weighted and grid.CASES[case].op in PRODUCTS else ("", 0.0, None)
    eight = act in ("u8", "s8")
    if case in EXACT:
        return "exact", 100.0, 0
    if eight and case in TABLES:
        return "table", 100.0, 0
    if weighted and eight and granularity in ("pt", "pc") and grid.CASES[case].op in PRODUCTS:
        return "8-bit product", 97.0 if generation >= 73 else 95.0, 1
    if weighted and act == "u16" and (weight, granularity) == ("s8", "pc") and grid.CASES[case].op in PRODUCTS:
        return ("u16 x s8", 0.0, 2) if generation >= 73 else ("", 0.0, None)
    if eight and not weighted:
        return "8-bit other", 94.0, 1
    return ("16-bit other", 0.0, 262) if not eight else ("", 0.0, None)


def measure(name: str, configuration: tuple[str, str, str], ours: Backend, theirs: Backend, soc: Soc) -> Row | None:
    """Both backends on one cell; None where the vendor does not run it."""
    model = grid.build(name, *configuration)
    types = configuration[0] if configuration[1] == "-" else ":".join(configuration)
    sides = pair.run(model, ours, theirs, soc)
    if sides is None:
        return None
    apart = pair.steps_apart(model, *sides)
    found, wanted = sides
    label, least, most = bar(name, *configuration, soc.generation)
    exact, within1 = 100 * float((apart == 0).mean()), 100 * float((apart <= 1).mean())
    # A cell of some thousand codes scatters by about a point, so products are held to their share over all shapes (``pooled``).
    enough = exact >= least or label == "8-bit product"
    verdict = "met" if enough and (most is None or apart.max() <= most) else "missed"
    sqnr = pair.sqnr(wanted, found)
    return Row(name, types, soc.name, apart.size, exact, within1, int(apart.max()), sqnr, label, verdict if label else "")


def ops(names: list[str], socs: list[str]) -> Iterator[Row]:
    registry = Registry.load()
    for chip in socs:
        ours, soc = registry.resolve(f"htp:{chip}")
        theirs, _ = registry.resolve(f"qnn:{chip}")
        for name in names:
            for configuration in grid.configurations(grid.CASES[name]):
                if configuration[0] != "f32" and (row := measure(name, configuration, ours, theirs, soc)) is not None:
                    yield row


CONFIGS = {
    "u8s8pc": Options(),
    "u8u8pt": Options(weights="uint8", per_channel=False),
    "u16u8pt": Options(activations="uint16", weights="uint8", per_channel=False),
    "u16s8pc": Options(activations="uint16"),
}
MODELS = ("ultraface_rfb_320", "fastestdet", "yunet_n_320", "super_resolution_x3", "resnet20_cifar10", "mobilenetv2s_cifar10")


def models(folder: Path, socs: list[str], samples: int = 16) -> Iterator[tuple[str, str, str, str, float, float]]:
    """(model, configuration, chip, output, emulator dB, simulator dB) against the float model."""
    for name in MODELS:
        case = zoo.case(name, folder)
        data = [{k: v[:1] for k, v in feeds.items()} for feeds in case.evaluation[:samples]]
        for label, options in CONFIGS.items():
            for chip in socs:
                made = quantize(
                    Request(case.model, batch=1, symbols=case.symbols),
                    backend=f"htp:{chip}",
                    data=case.calibration[:16],
                    options=options,
                )
                results = {}
                for backend in ("cpu:float32", f"htp:{chip}", f"qnn:{chip}"):
                    with open_session(made, backend=backend) as session:
                        results[backend] = [session.run(feeds) for feeds in data]
                wanted, ours, theirs = results.values()
                for output in made.graph.outputs:
                    yield name, label, chip, output, _sqnr(wanted, ours, output), _sqnr(wanted, theirs, output)


def _sqnr(wanted: list[dict[str, Array]], got: list[dict[str, Array]], name: str) -> float:
    signal, noise = total_powers(({name: r[name]} for r in wanted), got)
    return decibels_of(signal[name], noise[name])


def pooled(rows: list[Row]) -> Iterator[Row]:
    """The 8-bit products of each type over all shapes, held to their share of equal codes."""
    products = [row for row in rows if row.bar == "8-bit product"]
    for soc, types in dict.fromkeys((row.soc, row.types) for row in products):
        mine = [row for row in products if (row.soc, row.types) == (soc, types)]
        count = sum(row.count for row in mine)
        exact = sum(row.exact * row.count for row in mine) / count
        within1 = sum(row.within1 * row.count for row in mine) / count
        least = 97.0 if Registry.load().resolve(f"htp:{soc}")[1].generation >= 73 else 95.0
        sqnr = statistics.mean(row.sqnr for row in mine)
        verdict = "met" if exact >= least else "missed"
        yield Row("all products", types, soc, count, exact, within1, max(r.largest for r in mine), sqnr, f"{least:.0f} %", verdict)


def line(row: Row) -> str:
    mark = {"met": " ", "missed": "!", "": "-"}[row.verdict]
    figures = f"{row.exact:6.2f} {row.within1:6.2f} {row.largest:6} {row.sqnr:6.1f}"
    return f"{mark} {row.soc} {row.case:18} {row.types:14} {figures}  {row.bar}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--soc", default="SM8750,SM8350")
    parser.add_argument("--case", default="*", help="cases to run, a pattern; '' for none")
    parser.add_argument("--csv", type=Path, help="write the rows of the ops there")
    parser.add_argument("--zoo", type=Path, help="folder with the pretrained models; without it only ops are compared")
    parser.add_argument("--ranges", type=int, metavar="N", help="N draws of ranges for each op at 8 and 16 bit, not one range")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    args = parser.parse_args()
    socs = args.soc.split(",")
    if args.ranges:
        return drawn(args, socs)
    rows = []
    for row in ops(fnmatch.filter(grid.CASES, args.case), socs):
        rows.append(row)
        print(line(row))
    rows += list(pooled(rows))
    missed = [row for row in rows if row.verdict == "missed" and not gap(row)]
    for row in rows:
        if row.verdict == "missed":
            print(f"missed: {line(row)}: {gap(row) or 'no explanation'}")
    explained = sum(row.verdict == "missed" for row in rows) - len(missed)
    met = sum(row.verdict == "met" for row in rows)
    print(f"{len(rows)} rows, {met} bars met, {explained} missed with a reason, {len(missed)} missed without")
    if args.csv and rows:
        with args.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["case", "op", "types", "soc", "count", "exact", "within1", "largest", "sqnr_db"])
            for row in rows:
                if row.case not in grid.CASES:
                    continue
                figures = (f"{row.exact:.2f}", f"{row.within1:.2f}", row.largest, f"{row.sqnr:.1f}")
                writer.writerow((row.case, grid.CASES[row.case].key, row.types, row.soc, row.count, *figures))
    if args.zoo:
        missed += whole(args.zoo, socs)
    return 1 if missed else 0


def drawn(args: argparse.Namespace, socs: list[str]) -> int:
    """What ranges do to the ops. Exit code 1 when no caveat warns of a hole, for no reason."""
    registry = Registry.load()
    sides = [(registry.resolve(f"htp:{s}")[0], *registry.resolve(f"qnn:{s}")) for s in socs]
    found = list(ranges.over_ranges(fnmatch.filter(grid.CASES, args.case), sides, args.ranges, args.seed))
    for soc in socs:
        print(f"## {soc}\n\n{ranges.report([draw for draw in found if draw.soc == soc])}")
    missed = [draw for draw in found if draw.hole and not draw.warned]
    for draw in missed:
        print(f"missed: {draw}: {ranges.UNTOLD.get(draw.case, 'no explanation')}")
    if args.csv:
        ranges.write(args.csv, found)
    return 1 if any(draw.case not in ranges.UNTOLD for draw in missed) else 0


def whole(folder: Path, socs: list[str]) -> list[Any]:
    """Print the whole models; returns what misses its bar (median 0.3 dB, every output 3 dB, on v73 and later)."""
    rows = list(models(folder, socs))
    for name, label, chip, output, ours, theirs in rows:
        print(f"{chip} {name:22} {label:8} {output:12} {ours:7.2f} {theirs:7.2f} {ours - theirs:+6.2f}")
    missed = []
    for chip in socs:
        apart = [abs(ours - theirs) for _, _, c, _, ours, theirs in rows if c == chip]
        if apart:
            print(f"{chip}: median {statistics.median(apart):.2f} dB, largest {max(apart):.2f} dB over {len(apart)} outputs")
            missed += [chip] if statistics.median(apart) > 0.3 or max(apart) > 3 else []
    return missed


if __name__ == "__main__":
    sys.exit(main())
