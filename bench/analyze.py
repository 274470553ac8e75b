"""`npukit analyze` beside one `npukit compare` of the same package and samples: CPU seconds of a process with one thread.

python bench/analyze.py --zoo ../shared/zoo
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from zoo import case

from npukit.report import table

MODELS = ("fastestdet", "yunet_n_320", "convvit_cifar10")
BATCHES = 16
PAIRS = 2


def seconds(*words: str | Path) -> float:
    """The CPU time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "npukit", *map(str, words), "-q"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def pair(name: str, zoo: Path, folder: Path) -> tuple[str, int, str, str, str]:
    """The pair with the larger ratio, of those that were run."""
    found = case(name, zoo)
    data, package = folder / f"{name}.npz", folder / f"{name}.dlc"
    batches = found.evaluation[:BATCHES]
    arrays = {n: np.concatenate([feeds[n] for feeds in batches]) for n in batches[0]}
    np.savez(data, **arrays)  # type: ignore[arg-type]
    seconds("quantize", found.model, "-o", package, "--data", data)
    pairs = [(seconds("analyze", package, "--data", data), seconds("compare", package, "--data", data)) for _ in range(PAIRS)]
    analyze, compare = max(pairs, key=lambda times: times[0] / times[1])
    count = len(next(iter(arrays.values())))
    return name, count, f"{analyze:.1f} s", f"{compare:.1f} s", f"{analyze / compare:.1f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description="npukit analyze beside npukit compare.")
    parser.add_argument("--zoo", type=Path, default=Path("../shared/zoo"), help="folder with the pretrained models")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [pair(name, args.zoo, Path(folder)) for name in MODELS]
    print(table(["Model", "Samples", "analyze", "compare", "Ratio"], rows))


if __name__ == "__main__":
    main()
