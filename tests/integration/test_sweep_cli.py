"""npukit sweep as users call it: the table, the files, several processes, what goes wrong."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npukit.cli import main
from npukit.diagnosis import compare
from npukit.package import read_package
from npukit.quantization import Options

PLUGIN = """
from npukit.calibration import Observer, Range
from npukit.plugins import hookimpl

class Half(Observer):
    name = "half"
    def range(self, seen, dtype, percentile=99.99):
        return Range(seen.low / 2, seen.high / 2)

@hookimpl
def register_observers():
    return Half()
"""
EVALUATOR = """
import numpy as np

DATA = np.load("data.npz")["x"]

def largest(session):
    return float(np.max(session.run({"x": DATA[:1]})["y"]))
"""


@pytest.fixture
def words(model: Path, data: Path, tmp_path: Path) -> list[Any]:
    """The command without axes; a plugin with a calibration method and an evaluator lie in the folder."""
    (tmp_path / "half.py").write_text(PLUGIN)
    (tmp_path / "judge.py").write_text(EVALUATOR)
    return ["sweep", model, "--data", data]


def test_sweep(words: list[Any], cli: Any, tmp_path: Path) -> None:
    """All files are written and agree; the package is the best row, whose SQNR the table says."""
    flags = ("--csv", "t.csv", "--html", "t.html", "-o", "best.dlc", "--limit", 4, "--top", 3)
    done = cli(*words, "--over", "calibration,schema=asymmetric,symmetric,weights=int8,int16", *flags, check=0)
    assert "20 combinations on htp:SM8750, 10 ran" in done.stdout
    assert "... and 17 more" in done.stdout
    assert "sweep: 20/20" in done.stderr
    table = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert len(table) == 20
    assert sum("int16" in line["refused"] for line in table) == 10
    assert (tmp_path / "t.html").read_text().count("<rect") == 10
    assert f"best.dlc: row {table[0]['row']}" in done.stdout
    package = read_package(tmp_path / "best.dlc")
    assert package.manifest.options["calibration"] == table[0]["calibration"]
    assert package.manifest.options["scheme"] == {"activations": table[0]["schema"]}
    found = compare(package, ["htp"], data=words[3], reference=words[1], options=Options(limit=4))
    assert {row.name: row.sqnr["htp"] for row in found.outputs} == pytest.approx({"y": float(table[0]["sqnr y"])})


@pytest.mark.slow
def test_jobs_give_the_same(words: list[Any], cli: Any) -> None:
    """Processes load plugin files and the evaluator themselves; the JSON is that of one process, byte by byte."""
    pytest.importorskip("joblib")
    how = ("--over", "calibration=half,min-max,mse,weights=int8,int16", "--plugin", "half.py", "--evaluate", "judge.py:largest")
    one = cli(*words, *how, "--json", check=0).stdout
    assert one == cli(*words, *how, "--json", "--jobs", 2, check=0).stdout
    rows = json.loads(one)["rows"]
    scores = [row["score"] for row in rows[:3]]
    assert scores == sorted(scores, reverse=True)
    assert all(row["refused"] for row in rows[3:])


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--over", "calibratoin"], 2, "did you mean 'calibration'"),
        (["--over", "weights=int16"], 1, ""),
        (["--over", "weights", "--evaluate", "judge.py:larges"], 2, "did you mean 'largest'"),
        (["--over", "weights", "--evaluate", "nobody.py:f"], 2, "--evaluate: file nobody.py does not exist"),
        (["--over", "weights", "--eval", "nothing.npz"], 2, "nothing.npz"),
        (["--over", "weights", "--html", "no/where.html"], 2, "does not exist"),
        (["--over", "weights", "-o", "best.onnx"], 2, "a package (.dlc)"),
    ],
)
def test_what_goes_wrong_is_one_line(
    words: list[Any], flags: list[str], code: int, message: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """A message, the exit code, nothing written."""
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    assert main([*map(str, words), *flags]) == code
    assert message in capsys.readouterr().err
    assert {path for path in tmp_path.iterdir() if path.name != "__pycache__"} == before


def test_all_refused_writes_no_package(words: list[Any], cli: Any, tmp_path: Path) -> None:
    """The table says why, the exit code is 1."""
    done = cli(*words, "--over", "weights=int16", "-o", "best.dlc", check=1)
    assert "type int16" in done.stdout
    assert "not written, all are refused" in done.stdout
    assert not (tmp_path / "best.dlc").exists()


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_ends_it(words: list[Any], tmp_path: Path, jobs: str) -> None:
    """One line, exit code 130, no temporary folder and no process left."""
    if jobs != "1":
        pytest.importorskip("joblib")
    np.savez(tmp_path / "many.npz", x=np.random.default_rng(2).standard_normal((300, 2, 8, 8)).astype(np.float32))
    command = [
        sys.executable,
        "-m",
        "npukit",
        *map(str, words[:3]),
        "many.npz",
        "--over",
        "calibration,schema,activations,per-channel",
    ]
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    done = subprocess.Popen([*command, "--jobs", jobs], cwd=tmp_path, env=environment, start_new_session=True, **pipes)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "tmp").glob("npukit_sweep_*/*.dlc")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(done.pid, signal.SIGINT)
    out, err = done.communicate(timeout=60)
    assert (done.returncode, out) == (130, "")
    assert err.rstrip().endswith("error: interrupted")
    assert jobs != "1" or "Traceback" not in err  # a worker that is still starting is Python's own to end
    assert not list((tmp_path / "tmp").glob("npukit_sweep_*"))
