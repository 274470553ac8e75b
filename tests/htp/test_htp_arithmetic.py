"""What the emulator says of its own arithmetic."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from npukit.cli import main
from npukit_htp import backend as module
from npukit_htp.backend import HtpBackend

DATA = Path(module.__file__).parent / "data"


def test_every_family_has_a_source_and_a_measurement() -> None:
    """Each family names its scheme, a public source and what was measured; ops with kernels are in one."""
    families = HtpBackend().arithmetic()
    assert all(row.scheme and row.source and row.measured for row in families)
    told = {op for row in families for op in row.ops}
    assert (
        {"Conv", "Gemm", "Sigmoid", "AveragePool", "Reshape", "LayerNormalization"}
        <= told
        <= set(HtpBackend().kernels(HtpBackend().soc()))
    )


def test_measurements_are_those_of_the_file() -> None:
    """The share of equal codes of the 8-bit products is the mean over the cells of the file, weighted by their sizes."""
    with (DATA / "fidelity.csv").open(newline="", encoding="utf-8") as file:
        cells = [c for c in csv.DictReader(file) if c["soc"] == "SM8750" and c["types"].startswith(("u8", "s8"))]
    products = [c for c in cells if c["op"] in ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum")]
    share = sum(float(c["exact"]) * int(c["count"]) for c in products) / sum(int(c["count"]) for c in products)
    (family,) = [row for row in HtpBackend().arithmetic() if row.family == "matrix products, 8 bit"]
    assert f"SM8750: {share:.1f}% equal" in family.measured


def test_profiles_are_measured_on_their_own_chips() -> None:
    """The float islands of v69 quote a chip of v69 or later only, those before an older one only."""
    measured = {row.profile: row.measured for row in HtpBackend().arithmetic() if row.profile}
    assert "SM8350" not in measured["v69"]
    assert "SM8750" not in measured["v68"]


def test_explain_arithmetic(capsys: Any) -> None:
    """The command prints scheme, source and measurement, as text and as JSON; a backend that says nothing says so."""
    assert main(["explain", "arithmetic", "--backend", "htp"]) == 0
    assert "round half to even" in capsys.readouterr().out
    assert main(["explain", "arithmetic", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["families"][0]["source"]
    assert main(["explain", "arithmetic", "--backend", "cpu"]) == 0
    assert "does not say" in capsys.readouterr().out
    assert main(["explain", "derived", "--backend", "cpu"]) == 2
