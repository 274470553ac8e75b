"""What the emulator says of its own arithmetic: the schemes, and how far they agree with the vendor's simulator."""

from __future__ import annotations

import csv
from pathlib import Path

import yaml

from npukit.backend import Arithmetic

_DATA = Path(__file__).parent / "data"
_SHORT = {"uint8": "u8", "int8": "s8", "uint16": "u16", "int16": "s16", "float16": "f16"}


def arithmetic() -> tuple[Arithmetic, ...]:
    """The families of data/arithmetic.yaml with the figures of data/fidelity.csv (written by bench/htp_fidelity.py)."""
    rows = yaml.safe_load((_DATA / "arithmetic.yaml").read_text(encoding="utf-8"))
    with (_DATA / "fidelity.csv").open(newline="", encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    return tuple(Arithmetic(**row, measured=_measured(row, cells)) for row in rows)


def _measured(row: dict[str, object], cells: list[dict[str, str]]) -> str:
    """Equal codes over all cells of a family, and the largest difference, per chip that was measured."""
    types = {_SHORT[str(t)] for t in row["types"] or _SHORT}  # type: ignore[attr-defined]
    parts = []
    for soc in dict.fromkeys(cell["soc"] for cell in cells):
        if row.get("profile") and (soc == "SM8350") != (row["profile"] == "v68"):
            continue
        mine = [c for c in cells if c["soc"] == soc and c["op"] in row["ops"] and c["types"].partition(":")[0] in types]  # type: ignore[operator]
        count = sum(int(c["count"]) for c in mine)
        if count:
            exact = sum(float(c["exact"]) * int(c["count"]) for c in mine) / count
            near = sum(float(c["within1"]) * int(c["count"]) for c in mine) / count
            parts.append(f"{soc}: {exact:.1f}% equal, {near:.1f}% within 1")
    return "; ".join(parts)
