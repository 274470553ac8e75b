"""What qaic.Session costs: the import, a run of a model of one node, and runs of many threads.

python bench/qaic_session.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import qaic

from npukit.graph import Node, make_graph, save
from npukit.report import table


def started(code: str) -> float:
    """The median milliseconds of a Python that runs ``code``."""
    times = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def session(folder: Path, half: bool) -> qaic.Session:
    """A Relu of 8 values."""
    graph = make_graph([Node("Relu", "relu", ("x",), ("y",))], {"x": ("float32", (1, 8))}, ["y"])
    save(graph, folder / "relu.onnx")
    return qaic.Session(folder / "relu.onnx", output_dir=folder / "qpc", convert_to_fp16=half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=5000)
    runs = parser.parse_args().runs
    bare = started("pass")
    rows = [(code, f"{started(code) - bare:.0f} ms") for code in ("import qaic", "from qaic import Session")]
    feeds = {"x": np.ones((1, 8), np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        for half in (False, True):
            made = session(Path(folder), half)
            made.run(feeds)
            times = np.empty(runs)
            for turn in range(runs):
                start = time.perf_counter_ns()
                made.run(feeds)
                times[turn] = (time.perf_counter_ns() - start) / 1e3
            rows.append((f"run, one node in {'float16' if half else 'float32'}, median", f"{np.median(times):.0f} us"))
        start = time.perf_counter()
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: made.run(feeds), range(runs)))
        rows.append(("run, 16 threads, all runs", f"{runs / (time.perf_counter() - start):.0f} per second"))
    print(table(["What", "Figure"], rows))


if __name__ == "__main__":
    main()
