"""What the op constraints accept, against what the vendor's simulator accepted: one-op models over six architectures."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from npukit.backend import OpConstraint
from npukit_htp.backend import HtpBackend

TYPES = {"u8": "uint8", "s8": "int8", "u16": "uint16", "s16": "int16", "f16": "float16", "f32": "float32", "f32hp": "float32"}
GRANULARITY = {"pt": "tensor", "pc": "channel", "blk32": "block", "lpbq": "lpbq"}
WITHOUT_GRID_OUT = {"Equal", "Greater", "Less", "ArgMax", "ArgMin", "Cast"}

# Rows of the table that the constraints answer differently on purpose: (ops, activation types, granularities, why).
ON_PURPOSE: tuple[tuple[set[str], set[str], set[str], str], ...] = (
    ({"Conv", "ConvTranspose", "Gemm", "MatMul"}, {"u8", "u16"}, {"lpbq"}, "ExecuTorch runs LPBQ from v69 on"),
    ({"Conv"}, {"u16"}, {"blk32"}, "accepted there, with a wrong result (-13 dB)"),
    ({"Conv"}, {"s16", "s8"}, {"pt", "pc"}, "depends on depthwise and on a fused Relu, which a row cannot say"),
    ({"Transpose"}, {"u8", "u16", "s8", "s16"}, {"-"}, "the test model, a lone Transpose, is not taken"),
    ({"LayerNormalization"}, {"u16", "s16"}, {"-"}, "ExecuTorch and AIMET run 16-bit LayerNorm"),
    ({"BatchNormalization"}, {"u16"}, {"-"}, "in the list of the execution provider"),
)


def _weight_type(short: str) -> str | None:
    return {"s4": "int4", **TYPES}.get(short)


def _accepts(constraint: OpConstraint, row: dict[str, str]) -> bool:
    """Whether a constraint row takes a table row, by architecture, types, granularity, rank and storage order."""
    case, activation = row["case"], TYPES[row["act"]]
    ports = constraint.inputs
    data = ports[1] if constraint.op == "Where" else ports[0]
    if int(constraint.min_arch[1:] or 0) > int(row["htp_arch"]) or constraint.domain:
        return False
    if data.dtypes and activation not in data.dtypes:
        return False
    out = constraint.outputs[0].dtypes
    if constraint.op not in WITHOUT_GRID_OUT and out and activation not in out:
        return False
    if row["weight"] != "-":
        if _weight_type(row["weight"]) not in ports[1].dtypes or GRANULARITY[row["granularity"]] not in ports[1].granularity:
            return False
        if "nobias" not in case and constraint.op != "MatMul" and len(ports) < 3:
            return False
    rank = {"Conv1D": 3, "Conv3D": 5}.get(case, 4)
    if constraint.op == "Conv" and not constraint.min_rank <= rank <= (constraint.max_rank or rank):
        return False
    if constraint.op == "Gemm" and (0 if "transB0" in case else 1) not in constraint.attributes.get("transB", (0, 1)):
        return False
    modes = constraint.attributes.get("mode", ())
    if constraint.op in ("Resize", "Pad") and modes and not any(mode[:4] in case for mode in modes):
        return False
    dynamic = case == "MatMul_aa"
    return not (constraint.op == "MatMul" and (dynamic == ports[1].constant or (dynamic and activation not in ports[1].dtypes)))


def _on_purpose(row: dict[str, str]) -> bool:
    if TYPES[row["act"]].startswith("float") and row["htp_arch"] == "68":
        return True  # v68 silicon is integer only, whatever its simulator takes
    return any(row["op"] in ops and row["act"] in acts and row["granularity"] in kinds for ops, acts, kinds, _ in ON_PURPOSE)


@pytest.fixture(scope="module")
def table(shared: Path) -> list[dict[str, str]]:
    with (shared / "reference" / "htp" / "verdicts.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["verdict"] in ("ok", "rejected", "failed") and row["weight"] != "s2"]
    assert len(rows) > 6000
    return rows


def test_constraints_agree_with_the_simulator(table: list[dict[str, str]]) -> None:
    """Except where they differ on purpose, the rows accept exactly what the simulator accepted and built."""
    by_op: dict[str, list[OpConstraint]] = {}
    for constraint in HtpBackend().constraints():
        by_op.setdefault(constraint.op, []).append(constraint)
    wrong = [
        (row["case"], row["act"], row["weight"], row["granularity"], row["htp_arch"], row["verdict"])
        for row in table
        if not _on_purpose(row) and any(_accepts(c, row) for c in by_op.get(row["op"], [])) != (row["verdict"] == "ok")
    ]
    assert wrong == []


def test_the_exceptions_are_few(table: list[dict[str, str]]) -> None:
    """The differences on purpose cover less than a fifth of the table, so that the test above has something to say."""
    assert sum(map(_on_purpose, table)) < len(table) / 5
