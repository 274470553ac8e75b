"""Time of the Cloud AI 100 emulator beside ONNX Runtime float32 on one thread, in paired runs: the best of interleaved repetitions.

python bench/aic_speed.py --zoo ../shared/zoo
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from speed import THREADS, best_of

MODELS = ("ultraface_rfb_320", "mobilenetv2s_cifar10", "resnet20_cifar10", "convvit_cifar10")


def main() -> None:
    from zoo import case

    import npukit as nk
    from npukit.backend.ort import OrtModel
    from npukit.quantization import open_session
    from npukit.report import table

    parser = argparse.ArgumentParser(description="Speed of the Cloud AI 100 emulator beside ONNX Runtime, one thread.")
    parser.add_argument("--zoo", type=Path, default=Path("../shared/zoo"), help="folder with the pretrained models")
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    rows = []
    for name in MODELS:
        found = case(name, args.zoo)
        feeds = {key: value[:1] for key, value in found.evaluation[0].items()}
        model = nk.load(found.model, batch=1)
        packed = {
            f"int8, {requantize}": nk.quantize(
                model, nk.target("aic", settings={"requantize": requantize}), data=found.calibration[:8]
            )
            for requantize in ("glow", "float")
        }
        sessions = {"float32": open_session(model, "aic")}
        sessions["float16"] = open_session(model, nk.target("aic", settings={"convert_to_fp16": True}))
        sessions |= {kind: open_session(made) for kind, made in packed.items()}
        reference, *times = best_of(
            args.repeats, partial(OrtModel(model, threads=1).run, feeds), *(partial(s.run, feeds) for s in sessions.values())
        )
        for (kind, session), ms in zip(sessions.items(), times, strict=True):
            figures = session.metrics()
            rows.append((name, kind, f"{ms:.2f}", f"{ms / reference:.2f}x", str(figures["segments"]), str(len(figures["numpy"]))))
    print(table(["Model", "computes in", "ms", "of ORT float32", "segments", "nodes on numpy"], rows))


if __name__ == "__main__":
    if any(os.environ.get(name) != "1" for name in THREADS):
        # BLAS reads these when it is loaded, so they must be set before numpy is imported.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **dict.fromkeys(THREADS, "1")})
    main()
