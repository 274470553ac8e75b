"""Memory does not follow the weights: the small form of bench/memory.py stays below its bars."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "memory.py"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from /proc")
def test_bars(tmp_path: Path) -> None:
    """Packages, and the commands quantize, check, info and run, on 322 MB of weights."""
    done = subprocess.run([sys.executable, BENCH, "--small", "--folder", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" ok") == 6
