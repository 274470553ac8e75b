"""Ops over ranges of values: draws of ranges for every op, and both sides on each of them.

One seed draws everything. The largest magnitudes of an input are spread evenly over the decades from 1e-4 to 1e4; its values lie
about zero, above or below it, far from it (between 0.9 and 1.0 of the largest), or are all the same.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterator
from pathlib import Path
from statistics import median_low

import attrs
import grid
import numpy as np
import pair

from npukit.backend import Backend, Rules, Soc
from npukit.backend.ort import OrtModel
from npukit.errors import EncodingError

FORMS = {"about": (-1.0, 1.0), "above": (0.0, 1.0), "below": (-1.0, 0.0), "far": (0.9, 1.0), "far below": (-1.0, -0.9),
    "constant": (1.0, 1.0)}  # fmt: skip
POSITIVE = ("above", "far", "constant")  # for an input whose values are never negative, such as that of Sqrt
DECADES = (-4.0, 4.0)
PLACES = {"GridSample", "RoiAlign", "RoiAlign_const", "NonMaxSuppression"}  # the second input says where, not how much
# A hole: below so many dB against float, by so many worse than the emulator, which has at least so many.
BROKEN, WORSE, RIGHT = 20.0, 6.0, 10.0
# Holes that no caveat can tell from what is fine, by case.
UNTOLD = {
    "LogSoftmax": "a tensor of equal values, about 90 or above: the simulator gives 0",
    "Inverse": "matrices that are nearly singular, whatever their range",
}


@attrs.frozen
class Draw:
    """Both sides on one draw: ``equal`` in per cent of the codes, ``largest`` in steps, the rest in dB: the emulator against the
    simulator, and both against float. ``warned`` are the rules of the op constraints that warn of it."""

    case: str
    types: str
    soc: str
    ranges: str
    equal: float
    largest: int
    sqnr: float
    ours: float
    theirs: float
    warned: str = ""

    @property
    def hole(self) -> bool:
        """Whether the simulator is wrong where the emulator is right; a result of zeros has no SQNR."""
        return -np.inf < self.theirs < BROKEN and self.ours >= max(self.theirs + WORSE, RIGHT)


def types_of(case: grid.Case) -> list[tuple[str, str, str]]:
    """8 and 16 bits, with the weights that are usual."""
    return [("u8", "s8", "pc"), ("u16", "s8", "pc")] if case.weighted else [("u8", "-", "-"), ("u16", "-", "-")]


def draws(name: str, count: int, seed: int) -> Iterator[grid.Case]:
    """``count`` variants of a case, each with ranges of its own; the ranges do not depend on the types."""
    case = grid.CASES[name]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    varied = [i for i, arg in enumerate(case.args) if arg.kind == "act" and not (i and name in PLACES)]
    varied += [1] if name in ("Add_const", "Mul_const", "Div_const") else []
    varied = varied[:1] if case.ties else varied
    exponents = {i: rng.permutation(np.arange(count) + rng.random(count)) / count for i in varied}
    for index in range(count):
        args = list(case.args)
        for i in varied:
            arg = args[i]
            forms = POSITIVE if arg.low >= 0 else tuple(FORMS)
            low, high = FORMS[forms[(index + i) % len(forms)]]
            if arg.low > 0 and low == 0:
                low = arg.low / arg.high  # a divisor keeps away from zero
            largest = 10 ** (DECADES[0] + (DECADES[1] - DECADES[0]) * float(exponents[i][index]))
            args[i] = attrs.evolve(arg, low=low * largest, high=high * largest)
        if case.ties:
            args = [attrs.evolve(a, low=args[varied[0]].low, high=args[varied[0]].high) if a.kind == "act" else a for a in args]
        yield attrs.evolve(case, args=tuple(args))


def measure(name: str, case: grid.Case, types: tuple[str, str, str], ours: Backend, theirs: Backend, soc: Soc) -> Draw | None:
    """Both sides on one draw; None where the vendor refuses it, or float itself overflows."""
    with np.errstate(all="ignore"):
        try:
            model = grid.build(name, *types, case=case)
        except EncodingError:
            return None  # the results have no finite range
        with OrtModel(model.graph, model.graph.outputs, optimize=False) as exact:
            wanted = exact.run(model.feeds)
    if not all(np.isfinite(np.asarray(v, np.float64)).all() for v in wanted.values()):
        return None
    sides = pair.run(model, ours, theirs, soc)
    if sides is None:
        return None
    apart = pair.steps_apart(model, *sides)
    found, other = sides
    varied = [a for a in case.args if a.kind in ("act", "const") and a.value is None]
    text = "; ".join(f"{a.low:.3g}..{a.high:.3g}" for a in varied)
    if any(v.dtype.kind == "f" for v in wanted.values()):  # indices have ties, and no SQNR
        wanted, found, other = ({n: v for n, v in side.items() if wanted[n].dtype.kind == "f"} for side in (wanted, found, other))
    levels = (pair.sqnr(other, found), pair.sqnr(wanted, found), pair.sqnr(wanted, other))
    warned = [p.rule for p in Rules.of(ours, soc).validate(model.graph, model.encodings) if p.severity == "warning"]
    label = types[0] if types[1] == "-" else ":".join(types)
    equal, largest = 100 * float((apart == 0).mean()), int(min(apart.max(), 2**31))
    return Draw(name, label, soc.name, text, equal, largest, *levels, " ".join(dict.fromkeys(warned)))


def over_ranges(names: list[str], sides: list[tuple[Backend, Backend, Soc]], count: int, seed: int) -> Iterator[Draw]:
    """All draws of all cases on all chips."""
    for ours, theirs, soc in sides:
        for name in names:
            for types in types_of(grid.CASES[name]):
                for case in draws(name, count, seed):
                    if (drawn := measure(name, case, types, ours, theirs, soc)) is not None:
                        yield drawn


def write(path: Path, found: list[Draw]) -> None:
    """All draws as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f.name for f in attrs.fields(Draw)] + ["hole"])
        for d in found:
            cells = [f"{v:.2f}" if isinstance(v, float) else v for v in attrs.astuple(d)]
            writer.writerow([*cells, int(d.hole)])


def report(found: list[Draw]) -> str:
    """A Markdown table of medians and holes per case and type, and what the caveats miss or warn of in vain."""
    lines = ["| Case | Types | Ranges | Equal | SQNR | Emulator | Simulator | Lowest | Holes | Warned |"]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for key in dict.fromkeys((d.case, d.types) for d in found):
        mine = [d for d in found if (d.case, d.types) == key]
        holes = [d for d in mine if d.hole]
        medians = [_decibels(median_low(getattr(d, side) for d in mine)) for side in ("sqnr", "ours", "theirs")]
        figures = [str(len(mine)), f"{median_low(d.equal for d in mine):.0f} %", *medians, _decibels(min(d.theirs for d in mine))]
        counts = [str(len(holes) or "-"), str(sum(bool(d.warned) for d in holes) if holes else "-")]
        lines.append("| " + " | ".join([*key, *figures, *counts]) + " |")
    holes, fine = [d for d in found if d.hole], [d for d in found if not d.hole]
    missed, vain = sum(not d.warned for d in holes), sum(bool(d.warned) for d in fine)
    lines += [
        "",
        f"{len(found)} draws, {len(holes)} holes, {missed} of them without a warning; {vain} draws warned of that are none.",
    ]
    return "\n".join(lines) + "\n"


def _decibels(level: float) -> str:
    return "inf" if level == np.inf else f"{level:.0f}"
