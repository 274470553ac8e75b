"""Does `check --backend htp` say what the vendor's validator says? One-op models over op x activation x weight x granularity x SoC.

    python bench/verdicts.py --reference verdicts.csv [-o table.md]
    python bench/verdicts.py --fresh [--soc SM8750,SM8350] [--case 'Conv*'] [-o table.md]
    python bench/verdicts.py --forms 1600 [--seed 1] [--soc SM8750] [--answers answers.jsonl] [-o table.md]

--reference compares with recorded verdicts (columns case, act, weight, granularity, soc, verdict, reason), --fresh asks the
vendor's runtime (needs onnxruntime-qnn), --forms asks it about forms drawn at random (bench/forms.py).
Prints the agreement per chip and every disagreement with its explanation; exit
code 1 below 99 %, for forms below 97 %.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import forms
import grid

from npukit.errors import NpukitError
from npukit.graph import serialize
from npukit.package import Manifest, Package
from npukit.plugins import Registry
from npukit.quantization import check

# Why the constraints and the validator disagree on purpose: (cases, activations, granularities, chips, explanation).
RECORDED = (
    ("Conv+Relu", "s8|s16", "*", "*", "recorded without Q/DQ between the two ops; as npukit writes it, with one, it is accepted"),
    ("Transpose", "*", "*", "*", "the one-op model is an artefact: between other ops the Transpose is accepted and exact"),
    ("Einsum", "u16", "*", "*", "asked again it is accepted, as the second matrix is symmetric here"),
)
# The same for models as npukit writes them today.
FRESH = (
    ("Gemm*", "*", "lpbq", "*", "the provider cannot read the block scales of a Gemm; those of a MatMul it can"),
    ("Transpose", "*", "*", "*", "the one-op model is an artefact: between other ops the Transpose is accepted and exact"),
    ("Pad_const", "s16", "*", "*", "accepted without a pad value, refused with one"),
    ("Gemm*", "u16", "blk32", "*", "the recorded models with a bias were refused, those of npukit are accepted"),
    ("InstanceNorm|GroupNorm", "*", "*", "*", "written this way the provider runs it in float, which fails to build on v68"),
    ("Resize_cubic", "s16", "*", "*", "accepted with some coordinate transformations only"),
)


@attrs.frozen
class Verdict:
    """One cell of the grid: what the vendor says, and what npukit says."""

    case: str
    act: str
    weight: str
    granularity: str
    soc: str
    vendor: bool
    ours: bool
    reason: str = ""
    known: tuple[tuple[str, ...], ...] = RECORDED

    @property
    def agrees(self) -> bool:
        return self.vendor == self.ours

    @property
    def types(self) -> str:
        return self.act if self.weight == "-" else f"{self.act}:{self.weight}:{self.granularity}"

    @property
    def explanation(self) -> str:
        for cases, acts, granularities, socs, why in self.known:
            pairs = ((self.case, cases), (self.act, acts), (self.granularity, granularities), (self.soc, socs))
            if all(any(fnmatch.fnmatchcase(value, p) for p in pattern.split("|")) for value, pattern in pairs):
                return why
        return ""


@cache
def registry() -> Registry:
    return Registry.load()


@cache
def _model(case: str, act: str, weight: str, granularity: str) -> grid.Model:
    return grid.build(case, act, weight, granularity)


def ours(case: str, act: str, weight: str, granularity: str, soc: str) -> tuple[bool, str]:
    """Whether npukit accepts a cell on a chip, and its first error when not."""
    return answer(_model(case, act, weight, granularity), "htp", soc)


def answer(model: grid.Model, backend: str, soc: str) -> tuple[bool, str]:
    """Whether a backend accepts a model on a chip, and its first error when not."""
    package = Package(Manifest("htp", soc), model.graph, model.encodings)
    found = check(package, backend=f"{backend}:{soc}", registry=registry())
    errors = [p for p in found.problems if p.severity != "warning"]
    return found.verdict == "accepted", str(errors[0]) if errors else ""


def recorded(path: Path) -> Iterator[Verdict]:
    """The cells of a file of recorded verdicts, without those for which the vendor was never asked."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            cell = row["case"], row["act"].replace("f32hp", "f32"), row["weight"], row["granularity"], row["soc"]
            # Not asked: what ONNX Runtime itself refuses, 2-bit weights, shapes that no block divides, models without shapes.
            asked = row["verdict"] != "invalid" and row["weight"] != "s2" and not row["reason"].startswith("ValueError")
            asked = asked and "Cannot get shape" not in row["reason"]
            if asked and row["case"] in grid.CASES:
                accepted, error = ours(*cell)
                yield Verdict(*cell, row["verdict"] == "ok", accepted, row["reason"] or error)


def fresh(socs: Iterable[str], pattern: str) -> Iterator[Verdict]:
    """The cells as the vendor's runtime answers now."""
    for soc in socs:
        for case in fnmatch.filter(grid.CASES, pattern):
            for types in grid.configurations(grid.CASES[case]):
                model = _model(case, *types)
                vendor, reason = answer(model, "qnn", soc)
                accepted, error = ours(case, *types, soc)
                yield Verdict(case, *types, soc, vendor, accepted, reason or error, FRESH)


class Answers:
    """What the vendor's runtime said of models, kept in a file where there is one: asking takes most of the time."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path and path.exists() else []
        self._known: dict[str, list[Any]] = dict(json.loads(line) for line in lines)

    def of(self, model: grid.Model, soc: str) -> tuple[bool | None, str]:
        """Whether it accepts the model, and why not; None where it crashes or hangs."""
        written = repr(sorted(model.encodings.items(), key=lambda item: item[0]))
        key = f"{soc} {hashlib.sha256(serialize(model.graph) + written.encode()).hexdigest()}"
        if key not in self._known:
            try:
                self._known[key] = list(answer(model, "qnn", soc))
            except NpukitError as error:
                self._known[key] = [None, str(error)]
            if self._path:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([key, self._known[key]]) + "\n")
        accepted, reason = self._known[key]
        return accepted, reason


def drawn(socs: Iterable[str], count: int, seed: int, answers: Answers) -> Iterator[Verdict]:
    """Forms drawn at random, without those that crash the vendor's runtime."""
    for soc in socs:
        for form in forms.draw(count, seed):
            vendor, reason = answers.of(form.model, soc)
            if vendor is None:
                print(f"left out, the vendor's runtime crashes: {form.op} {', '.join(form.attributes)}", file=sys.stderr)
                continue
            accepted, error = answer(form.model, "htp", soc)
            yield Verdict(form.op, form.act, form.weight, ", ".join(form.attributes), soc, vendor, accepted, reason or error, ())


def by_attribute(verdicts: list[Verdict]) -> str:
    """The agreement on drawn forms per op or chain, and per value of each attribute, as Markdown."""
    lines = ["| Op | Forms | Agree | Forms by rank, number of inputs and attribute |", "| --- | ---: | ---: | --- |"]
    for op in sorted({v.case for v in verdicts}):
        mine, groups = [v for v in verdicts if v.case == op], dict[str, list[Verdict]]()
        for v in mine:
            for attribute in filter(None, v.granularity.split(", ")):
                groups.setdefault(attribute, []).append(v)
        lines.append(f"| {op} | {len(mine)} | {share(mine):.0%} | {', '.join(f'{a} {_of(groups[a])}' for a in sorted(groups))} |")
    return "\n".join(lines)


def _of(verdicts: list[Verdict]) -> str:
    """The number of forms, and in front of it how many agree where not all do."""
    agree = sum(v.agrees for v in verdicts)
    return str(agree) if agree == len(verdicts) else f"{agree}/{len(verdicts)}"


def report(verdicts: list[Verdict]) -> str:
    """The agreement per chip and the disagreements, as Markdown."""
    lines = ["| SoC | Cells | Agree | Share |", "| --- | ---: | ---: | ---: |"]
    for soc in dict.fromkeys(v.soc for v in verdicts):
        mine = [v for v in verdicts if v.soc == soc]
        lines.append(f"| {soc} | {len(mine)} | {sum(v.agrees for v in mine)} | {share(mine):.2%} |")
    lines += [f"| all | {len(verdicts)} | {sum(v.agrees for v in verdicts)} | {share(verdicts):.2%} |", ""]
    lines += ["| Case | Types | Vendor | npukit | SoCs | Why |", "| --- | --- | --- | --- | --- | --- |"]
    groups: dict[tuple[str, str, bool, str], list[str]] = {}
    for v in verdicts:
        if not v.agrees:
            why = v.explanation or f"unexplained: {v.reason[:110]}"
            groups.setdefault((v.case, v.types, v.vendor, why), []).append(v.soc)
    word = {True: "accepts", False: "refuses"}
    lines += [
        f"| {case} | {types} | {word[vendor]} | {word[not vendor]} | {' '.join(socs)} | {why.replace('|', '/')} |"
        for (case, types, vendor, why), socs in groups.items()
    ]
    return "\n".join(lines) + "\n"


def share(verdicts: list[Verdict]) -> float:
    """The part of the cells on which both agree."""
    return sum(v.agrees for v in verdicts) / max(1, len(verdicts))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, metavar="CSV")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--forms", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--answers", type=Path, metavar="JSONL", help="what the vendor said of --forms is kept here")
    parser.add_argument("--soc", default="SM8350,SM8450,SM8550,SM8650,SM8750,SM8850")
    parser.add_argument("--case", default="*")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    if sum((args.reference is not None, args.fresh, args.forms is not None)) != 1:
        parser.error("give one of --reference, --fresh and --forms")
    socs = args.soc.split(",")
    if args.reference:
        verdicts = list(recorded(args.reference))
    else:
        verdicts = list(drawn(socs, args.forms, args.seed, Answers(args.answers)) if args.forms else fresh(socs, args.case))
    verdicts = [v for v in verdicts if fnmatch.fnmatchcase(v.case, args.case)]
    text = report(verdicts) + (by_attribute(verdicts) + "\n" if args.forms else "")
    print(text)
    if args.output:
        args.output.write_text(text, encoding="utf-8")
    unexplained = Counter(v.explanation == "" for v in verdicts if not v.agrees)[True]
    print(
        f"{share(verdicts):.2%} of {len(verdicts)} cells agree; {unexplained} disagreements without an explanation", file=sys.stderr
    )
    return 0 if share(verdicts) >= (0.97 if args.forms else 0.99) else 1


if __name__ == "__main__":
    sys.exit(main())
