"""npukit bench, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def package(cli: Any, model: Path, data: Path, tmp_path: Path) -> Path:
    cli("quantize", model, "--backend", "htp", "--data", data, "-o", "model.dlc", check=0)
    return tmp_path / "model.dlc"


def test_measures_and_estimates(cli: Any, package: Path, data: Path) -> None:
    """The result has the time of the runs asked for, one row per op, and says what is measured and what is estimated."""
    done = cli("bench", package, "--backend", "htp:SC8380XP", "--data", data, "--runs", "3", "--json", check=0)
    found = json.loads(done.stdout)
    assert found["measured_ms"]["runs"] == 3
    assert 0 < found["measured_ms"]["min"] <= found["measured_ms"]["median"]
    assert [c["node"] for c in found["estimate"]["ops"]] == ["conv", "relu", "pool", "flat", "gemm"]
    assert found["estimate"]["total"]["us"] > 0
    text = cli("bench", package, "--backend", "htp:SC8380XP", "--top", "2", check=0).stdout
    assert "time on this machine, not on a device" in text
    assert "estimate for htp:SC8380XP, the 2 costliest of 5 ops" in text
    assert "Estimated us" in text


def test_estimate_runs_nothing(cli: Any, package: Path, data: Path) -> None:
    """--estimate gives the table alone; data with it has no use and is refused."""
    found = json.loads(cli("bench", package, "--estimate", "--json", check=0).stdout)
    assert found["measured_ms"] is None
    assert found["estimate"]["total"]["us"] is None
    assert "no peak figures of this chip are public" in cli("bench", package, "--estimate", check=0).stdout
    assert "leave --data out" in cli("bench", package, "--estimate", "--data", data, check=2).stderr


def test_backend_without_times(cli: Any, package: Path) -> None:
    """The cpu backend has no figures of a chip: its counts are shown, and no time."""
    done = cli("bench", package, "--backend", "cpu", "--runs", "2", check=0)
    assert "cpu:float32: median" in done.stdout
    assert "MACs" in done.stdout
    assert "no time" in done.stdout
    found = json.loads(cli("bench", package, "--backend", "cpu", "--estimate", "--json", check=0).stdout)
    assert found["estimate"]["total"]["macs"] > 0
    assert found["estimate"]["total"]["us"] is None
