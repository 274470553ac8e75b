"""Time of the HTP emulator beside ONNX Runtime float32, both on one thread, in one run; the best of interleaved repetitions.

python bench/speed.py --zoo ../shared/zoo
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
MODELS = ("ultraface_rfb_320", "yunet_n_320", "fastestdet", "mobilenetv2s_cifar10", "resnet20_cifar10")


def best_of(repeats: int, *actions: Callable[[], Any]) -> list[float]:
    """The shortest time of each action in ms, the actions taking turns."""
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(repeats):
        for action, found in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            found.append(1e3 * (time.perf_counter() - start))
    return [min(found) for found in times]


def main() -> None:
    from zoo import case

    import npukit as nk
    from npukit.backend.ort import OrtModel
    from npukit.report import table

    parser = argparse.ArgumentParser(description="Speed of the HTP emulator beside ONNX Runtime float32, one thread.")
    parser.add_argument("--zoo", type=Path, default=Path("../shared/zoo"), help="folder with the pretrained models")
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    rows = []
    for name in MODELS:
        found = case(name, args.zoo)
        feeds = {key: value[:1] for key, value in found.evaluation[0].items()}
        model = nk.quantize(found.model, backend="htp", data=found.calibration[:8])
        with nk.Session(model) as session, OrtModel(nk.load(found.model), threads=1) as reference:
            session.run(feeds)
            mine, other = best_of(args.repeats, partial(session.run, feeds), partial(reference.run, feeds))
        rows.append((name, f"{mine:.1f} ms", f"{other:.1f} ms", f"{mine / other:.1f}x"))
    print(table(["Model, a8w8", "htp emulator (numpy)", "ONNX Runtime float32", "ratio"], rows))


if __name__ == "__main__":
    if any(os.environ.get(name) != "1" for name in _THREADS):
        # BLAS reads these when it is loaded, so they must be set before numpy is imported.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **dict.fromkeys(_THREADS, "1")})
    main()
