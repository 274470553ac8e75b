"""Damaged files are read or refused, fast, in bounded memory, and leave nothing behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SEEDS = Path(__file__).parent / "seeds"


def python(*words: str) -> str:
    """What Python prints, in a process of its own: one without threads, which may fork."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def fuzz(*words: str) -> str:
    return python("-m", "tests.fuzz", *words)


_BROKEN_READERS = """
import ctypes, signal, sys, time
from pathlib import Path
from npukit.errors import DataError, UsageError
from tests.fuzz.engine import Fuzzer
from tests.fuzz.commands import command
from tests.fuzz.readers import COMMON, Reader

def bug(path): return {}["absent"]
def slow(path): time.sleep(60)
def stuck(path):  # as code does that never comes back to the interpreter, where alarms are heard
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(60)
def dead(path): ctypes.string_at(0)
def hungry(path): return bytearray(3 << 30)
def hungry_and_polite(path):
    try: hungry(path)
    except MemoryError: raise DataError("damaged") from None
def refusing(path): raise DataError("damaged")
def half(words): Path("half.dlc").write_bytes(b"1"); return 2
def third(words): return 3
def nothing(words): return 0

commands = [command("x", run=half), command("x", run=third), command("x", run=nothing, out="out.dlc")]
readers = [bug, slow, stuck, dead, hungry, hungry_and_polite, refusing, *commands, Path.read_bytes]
inputs = [(Reader(str(i), read), ".txt", b"content") for i, read in enumerate(readers)]
folder = Path(sys.argv[1])
(folder / COMMON).mkdir()
found = Fuzzer(inputs.__getitem__, folder, seconds=1, grace=1).run(range(len(inputs)), lambda finding: None)
for finding in found.findings:
    print(finding.reader, finding.problem)
print("refused", *found.refused, "accepted", *found.accepted)
"""


def test_the_harness_catches_what_readers_may_not_do(tmp_path: Path) -> None:
    """Bugs, hangs in Python and outside of it, dead processes, memory, exit code 3, files left behind and files missing."""
    *findings, rest = python("-c", _BROKEN_READERS, str(tmp_path)).splitlines()
    wanted = [
        "0 KeyError",
        "1 takes over 1 s",
        "2 hangs outside of Python, over 2 s",
        "3 the process ended with status 11",
        "4 MemoryError",
        "5 wants over 2 GB",
        "7 .* left .'half.dlc'",
        "8 .* exit code 3",
        "9 .* exit code 0 without out.dlc",
    ]
    assert len(findings) == len(wanted)
    assert all(re.match(pattern, finding) for pattern, finding in zip(wanted, findings, strict=True)), findings
    assert rest == "refused 6 accepted 10"


def test_every_reader_accepts_its_corpus() -> None:
    """What is not damaged is read: otherwise damage would never get further than the first check."""
    assert " 0 findings" in fuzz("--undamaged")


def test_files_that_were_findings_once() -> None:
    """Every file that broke a promise in the past is read or refused."""
    count = len(list(SEEDS.iterdir()))
    assert count > 10
    assert f"{count} inputs" in fuzz("--files", str(SEEDS))


def test_some_damaged_files() -> None:
    """A few hundred, some of them through commands."""
    assert "500 inputs" in fuzz("--count", "500", "--seed", "1", "--commands", "0.1")


@pytest.mark.slow
def test_many_damaged_files() -> None:
    """20,000 of them."""
    assert "20000 inputs" in fuzz("--count", "20000", "--seed", "2000000")
