"""AdaRound, sequential MSE, equalization and mixed precision, measured; beside AIMET itself where an environment has it.

    python bench/aimet.py --zoo ../shared/zoo [--aimet 2000]

W4A8: 4-bit weights per channel, symmetric, on AIMET's scales (max(max / 7, -min / 8)); uint8 activations, min-max. SQNR of the
simulated model against the float model on images that no optimizer has seen. Every line is a process of its own, one thread, its
CPU seconds from start to end: start-up, model, data, calibration, optimizer, but for the making of AIMET's scales. ``--aimet N``
runs the same job with N iterations of AIMET's AdaRound, and its sequential MSE, in the environment of AIMET_ENV_PYTHON; the seconds
are those of the child as well.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from zoo import Array, Case, Samples, case

import npukit as nk
from npukit.backend.ort import OrtModel
from npukit.diagnosis import decibels_of, powers
from npukit.encoding import Encoding
from npukit.encoding.formats import insert_qdq
from npukit.graph import Graph
from npukit.quantization import Quantized
from npukit.report import table
from npukit_aimet.adaround import AdaRound
from npukit_aimet.amp.groups import Candidate
from npukit_aimet.amp.optimizer import Amp
from npukit_aimet.bridge.optimizers import AimetAdaround, AimetSeqMse
from npukit_aimet.seq_mse import SequentialMse

W4, W8 = nk.Options(weights="int4"), nk.Options()
TENSOR = nk.Options(per_channel=False)


def aimet_scales(found: Case, options: nk.Options) -> dict[str, Encoding]:
    """AIMET's symmetric grids: the lowest code is used as well."""
    base = nk.quantize(found.model, backend="cpu", data=found.calibration[:1], options=options)
    scales = {}
    for name, encoding in base.encodings.items():
        data = base.graph.constant(name)
        if data is None or encoding.granularity != "channel" or encoding.dtype != "int4":
            continue
        others = tuple(d for d in range(data.ndim) if d != encoding.axis)
        widest = np.maximum(data.max(others) / 7, -data.min(others) / 8)
        scales[name] = attrs.evolve(encoding, scale=np.maximum(widest, 1e-6))
    return scales


overhead: list[float] = []
"""CPU seconds of this process that only the comparison needs: the making of AIMET's scales."""


def quantized(found: Case, options: nk.Options, optimize: list[Any], *, like_aimet: bool = False, seed: int = 0) -> Quantized:
    started = time.process_time()
    overrides = aimet_scales(found, options) if like_aimet else None
    overhead.append(time.process_time() - started)
    options = attrs.evolve(options, seed=seed)
    return nk.quantize(
        nk.Request(found.model, overrides=overrides), backend="cpu", data=found.calibration, options=options, optimize=optimize
    )


def amp(found: Case, drop: float | None) -> Quantized:
    """W8A16 and W8A8 on 16 calibration images, evaluated on the same."""
    wide, narrow = Candidate("uint16", "int8"), Candidate("uint8", "int8")
    optimizer = Amp(candidates=(wide, narrow), allowed_accuracy_drop=drop, workers=1)
    options = nk.Options(activations="uint16")
    return nk.quantize(found.model, backend="cpu", data=found.calibration[:16], options=options, optimize=[optimizer])


def no_model(found: Case) -> None:
    return None


Make = Callable[[Case], Quantized | None]
ULTRA, RES, SCALED, TINY = "ultraface_rfb_320", "resnet20_cifar10", "resnet20_rescaled_cifar10", "mlperf_tiny_resnet8_cifar10"

ROWS: dict[str, tuple[str, Make]] = {
    "start-up and data only": (ULTRA, no_model),
    "W4A8 nearest": (ULTRA, lambda c: quantized(c, W4, [], like_aimet=True)),
    "W4A8 seq-mse": (ULTRA, lambda c: quantized(c, W4, [SequentialMse()], like_aimet=True)),
    "W4A8 adaround": (ULTRA, lambda c: quantized(c, W4, ["adaround"], like_aimet=True)),
    "W4A8 adaround, seed 1": (ULTRA, lambda c: quantized(c, W4, ["adaround"], like_aimet=True, seed=1)),
    "W4A8 adaround, seed 2": (ULTRA, lambda c: quantized(c, W4, ["adaround"], like_aimet=True, seed=2)),
    "W4A8 adaround, no bias refit": (ULTRA, lambda c: quantized(c, W4, [AdaRound(refit=False)], like_aimet=True)),
    "W4A8 adaround, relaxation": (ULTRA, lambda c: quantized(c, W4, [AdaRound(solver="relaxation")], like_aimet=True)),
    "W4A8 seq-mse,adaround": (ULTRA, lambda c: quantized(c, W4, ["seq-mse", "adaround"], like_aimet=True)),
    "W4A8 bias-correction": (ULTRA, lambda c: quantized(c, W4, ["bias-correction"], like_aimet=True)),
    "AMP W8A16/W8A8, drop 1 dB": (ULTRA, lambda c: amp(c, 1.0)),
    "AMP W8A16/W8A8, complete curve": (ULTRA, lambda c: amp(c, None)),
    "ResNet-20 W4A8 nearest": (RES, lambda c: quantized(c, W4, [], like_aimet=True)),
    "ResNet-20 W4A8 adaround": (RES, lambda c: quantized(c, W4, ["adaround"], like_aimet=True)),
    "ResNet-20 W4A8 adaround, seed 1": (RES, lambda c: quantized(c, W4, ["adaround"], like_aimet=True, seed=1)),
    "ResNet-20 W4A8 adaround, relaxation": (RES, lambda c: quantized(c, W4, [AdaRound(solver="relaxation")], like_aimet=True)),
    "ResNet-8 W4 nearest": (TINY, lambda c: quantized(c, W4, [])),
    "ResNet-8 W4 adaround": (TINY, lambda c: quantized(c, W4, ["adaround"])),
    "rescaled W8A8 per tensor, nearest": (SCALED, lambda c: quantized(c, TENSOR, [])),
    "rescaled W8A8 per tensor, cle": (SCALED, lambda c: quantized(c, TENSOR, ["cle"])),
    "unscaled W8A8 per tensor": (RES, lambda c: quantized(c, TENSOR, [])),
    "rescaled W4 nearest": (SCALED, lambda c: quantized(c, W4, [])),
    "rescaled W4 cle,adaround": (SCALED, lambda c: quantized(c, W4, ["cle", "adaround"])),
}


def aimet_rows(iterations: int) -> dict[str, tuple[str, Make]]:
    adaround, seq_mse = AimetAdaround(iterations=iterations, timeout=4e4), AimetSeqMse(timeout=4e4)
    name = f"AIMET AdaRound, {iterations} iterations"
    return {
        f"W4A8 {name}": (ULTRA, lambda c: quantized(c, W4, [adaround], like_aimet=True)),
        "W4A8 AIMET seq-mse": (ULTRA, lambda c: quantized(c, W4, [seq_mse], like_aimet=True)),
        f"ResNet-20 W4A8 {name}": (RES, lambda c: quantized(c, W4, [adaround], like_aimet=True)),
    }


def evaluated(found: Case, model: Quantized, graph: Graph) -> dict[str, str]:
    """SQNR of every output in dB, and the share of right answers where there are labels."""
    sums = {name: np.zeros(2) for name in graph.outputs}
    right = 0
    with OrtModel(graph) as plain, OrtModel(insert_qdq(model.graph, model.encodings), optimize=False) as coded:
        for index, feeds in enumerate(found.evaluation):
            a, b = plain.run(feeds), coded.run(feeds)
            for name, both in sums.items():
                both += powers(name, a[name], b[name])
            if found.labels is not None:
                answers = b[graph.outputs[0]].argmax(1)
                right += int((answers == found.labels[index * len(answers) : (index + 1) * len(answers)]).sum())
    result = {name: f"{decibels_of(*both):.2f} dB" for name, both in sums.items()}
    return result | ({"top-1": f"{right / len(found.labels):.1%}"} if found.labels is not None else {})


def raw_rgb(found: Case, zoo: Path) -> Case:
    """The samples of the MLPerf model: raw RGB 0..255."""

    def images(path: Path) -> Array:
        with np.load(path) as archive:
            return np.ascontiguousarray(archive["images"].transpose(0, 3, 1, 2), np.float32)

    calibration: Samples = [{"input": image[None]} for image in images(zoo / "cifar10_calib.npz")]
    test = images(zoo / "cifar10_eval.npz")
    return attrs.evolve(found, calibration=calibration, evaluation=[{"input": part} for part in np.split(test, 20)])


def one(label: str, rows: Mapping[str, tuple[str, Make]], zoo: Path) -> None:
    """Run one line in this process and print it as JSON."""
    name, make = rows[label]
    found = case(name, zoo)
    if name == TINY:
        found = raw_rgb(found, zoo)
    model = make(found)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(u.ru_utime + u.ru_stime for u in used) - sum(overhead)
    values = {} if model is None else evaluated(found, model, nk.load(found.model))
    notes = [] if model is None else [n for n in model.report.notes if n.startswith("amp")]
    print(json.dumps({"seconds": seconds, "values": values, "notes": notes}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--aimet", type=int, default=0, metavar="ITERATIONS")
    parser.add_argument("--only", default="", metavar="TEXT", help="lines that contain this")
    parser.add_argument("--line", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    rows = ROWS | (aimet_rows(args.aimet) if args.aimet else {})
    if args.line:
        one(args.line, rows, args.zoo)
        return
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    shown = []
    for label, (name, _) in rows.items():
        if args.only not in label:
            continue
        words = [sys.executable, __file__, "--zoo", str(args.zoo), "--line", label, "--aimet", str(args.aimet)]
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(words, env={**environment, "TMPDIR": folder}, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        found = json.loads(done.stdout)
        values = ", ".join(f"{k} {v}" for k, v in found["values"].items())
        shown.append((name, label, values, f"{found['seconds']:.1f}", "; ".join(found["notes"])))
        print("  ".join(shown[-1]), flush=True)
    print(table(["Model", "What", "Held-out images", "CPU s", "Notes"], shown))


if __name__ == "__main__":
    main()
