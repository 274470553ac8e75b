"""Calibration beside onnxruntime.quantization's calibrators: same model, images and tensors; wall time and peak memory.

    python bench/calibration.py --zoo ../shared/zoo

Every measurement runs in a process of its own, which reports its peak resident memory; the memory of a process that only imports
the libraries and reads the images is subtracted. The two sides take turns; the pair with the median ratio of times is shown.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from npukit.report import table

METHODS = ("min-max", "percentile", "entropy")
PAIRS = 3
NOISE_MB = 20  # what two equal processes may differ by
MODEL = "ultraface_rfb_320"


def ours(zoo: Path, method: str) -> Callable[[], Any]:
    from zoo import case

    from npukit.calibration import find_observer, observe
    from npukit.graph import fold_affine, fold_constants, load

    found = case(MODEL, zoo)
    graph = fold_affine(fold_constants(load(found.model)))
    observer, names = find_observer(method), graph.float_activations()

    def run() -> Any:
        profile = observe(graph, found.calibration, names, (observer,))
        return {name: profile.range(name, observer, "uint8") for name in names}

    return run


def theirs(zoo: Path, method: str) -> Callable[[], Any]:
    import tempfile

    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator
    from zoo import case

    from npukit.graph import fold_affine, fold_constants, load, save

    found = case(MODEL, zoo)
    folder = tempfile.mkdtemp()
    model = Path(folder) / "model.onnx"
    save(fold_affine(fold_constants(load(found.model))), model)
    samples = iter(found.calibration)

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:
            return next(samples, None)

    kinds = {
        "min-max": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }

    def run() -> Any:
        calibrator = create_calibrator(str(model), None, str(Path(folder) / "augmented.onnx"), kinds[method])
        calibrator.collect_data(Reader())
        return calibrator.compute_data()

    return run


def baseline(zoo: Path, method: str) -> Callable[[], Any]:
    import onnxruntime.quantization  # noqa: F401

    ours(zoo, method)
    return lambda: None


def measure(side: str, method: str, zoo: Path) -> dict[str, float]:
    """Run one side in this process."""
    logging.getLogger().setLevel(logging.ERROR)
    work = {"npukit": ours, "onnxruntime": theirs, "baseline": baseline}[side](zoo, method)
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def child(side: str, method: str, zoo: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--zoo", str(zoo), "--side", side, "--method", method]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Calibration time and memory beside ONNX Runtime's calibrators.")
    parser.add_argument("--zoo", type=Path, default=Path("../shared/zoo"), help="folder with the pretrained models")
    parser.add_argument("--side", choices=("npukit", "onnxruntime", "baseline"), help=argparse.SUPPRESS)
    parser.add_argument("--method", choices=METHODS, default="min-max", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.side, args.method, args.zoo)))
        return
    base = child("baseline", "min-max", args.zoo)["mb"]
    rows = []
    for method in METHODS:
        pairs = [(child("npukit", method, args.zoo), child("onnxruntime", method, args.zoo)) for _ in range(PAIRS)]
        mine, other = sorted(pairs, key=lambda pair: pair[0]["seconds"] / pair[1]["seconds"])[PAIRS // 2]
        memory = [side["mb"] - base for side in (mine, other)]
        rows.append(
            (
                method,
                *(f"{side['seconds']:.1f} s" for side in (mine, other)),
                f"{mine['seconds'] / other['seconds']:.2f}x",
                *(f"{max(mb, 0):.0f} MB" for mb in memory),
                f"{memory[0] / memory[1]:.2f}x" if memory[1] > NOISE_MB else "-",
            )
        )
    headers = ["Method", "npukit", "onnxruntime", "ratio", "npukit memory", "onnxruntime memory", "ratio"]
    print(f"{MODEL}, 64 images, memory above the {base:.0f} MB of a process with libraries and images loaded")
    print(table(headers, rows))


if __name__ == "__main__":
    main()
