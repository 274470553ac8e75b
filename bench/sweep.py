"""A sweep of 5 calibration methods and 4 schemas beside quantizing and running each combination from the data: wall time.

    python bench/sweep.py --zoo ../shared/zoo

The three ways take turns, --repeat times; the least time of each is shown. All run the same samples and give the same SQNR, which
is checked.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from zoo import case

import npukit as nk
from npukit.backend import SCHEMAS
from npukit.calibration import OBSERVERS, open_data
from npukit.diagnosis import outputs_sqnr
from npukit.plugins import Registry
from npukit.report import table

MODEL = "resnet20_cifar10"
SAMPLES = 64


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of a sweep beside that of its combinations one by one.")
    parser.add_argument("--zoo", type=Path, default=Path("../shared/zoo"), help="folder with the pretrained models")
    parser.add_argument("--repeat", type=int, default=3, help="how often each way is timed (default: 3)")
    args = parser.parse_args()
    found, registry = case(MODEL, args.zoo), Registry.load()
    data, target = found.calibration[:SAMPLES], registry.target("htp")
    methods = [observer.name for observer in OBSERVERS]

    def swept(jobs: int) -> list[float]:
        over = {"calibration": methods, "schema": SCHEMAS}
        return [row.worst for row in nk.sweep(found.model, target, over=over, data=data, jobs=jobs, registry=registry).rows]

    def one_by_one() -> list[float]:
        levels = []
        for method in methods:
            for schema in SCHEMAS:
                options = nk.Options(calibration=method, scheme={"activations": schema})
                made = nk.quantize(found.model, target, data=data, options=options, registry=registry)
                levels += outputs_sqnr(made, found.model, target, open_data(data, made.graph), registry=registry).sqnr.values()
        return levels

    ways: dict[str, Callable[[], list[float]]] = {
        "each from the data": one_by_one,
        "sweep": lambda: swept(1),
        "sweep, 2 jobs": lambda: swept(2),
    }
    wanted, seconds = swept(1), dict.fromkeys(ways, float("inf"))
    for _ in range(args.repeat):
        for name, way in ways.items():
            start = time.perf_counter()
            levels = way()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
            if levels != wanted:
                raise SystemExit(f"{name} gives other results")
    print(f"{MODEL} on {target.name}, {len(wanted)} combinations, {SAMPLES} samples")
    print(table(["Way", "Time"], [(name, f"{value:.1f} s") for name, value in seconds.items()]))


if __name__ == "__main__":
    main()
