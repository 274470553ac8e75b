"""Accuracy of npukit's 8-bit models beside onnxruntime.quantization.quantize_static, same settings and data, in one run.

    python bench/accuracy.py --zoo ../shared/zoo

Both sides: uint8 activations (asymmetric, min-max), int8 weights (symmetric, per channel), all calibration samples of the model.
ONNX Runtime's Q/DQ model runs node by node (no graph optimization), because its 8-bit kernels saturate on processors without VNNI.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from zoo import Array, Case, Samples, case

import npukit as nk
from npukit.diagnosis import decibels_of, powers
from npukit.graph import save
from npukit.report import decibels, percent, table

MODELS = ("ultraface_rfb_320", "yunet_n_320", "fastestdet", "resnet20_cifar10", "mobilenetv2s_cifar10")


class Reader(CalibrationDataReader):
    def __init__(self, samples: Samples) -> None:
        self._samples = iter(samples)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._samples, None)


def run_ort(model: Path, samples: Samples) -> dict[str, Array]:
    """All outputs, stacked, computed node by node."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rows = [session.run(names, feeds) for feeds in samples]
    return {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(names)}


def quantized_by_ort(found: Case, folder: Path) -> dict[str, Array]:
    # Scales per channel need opset 13; the models are older.
    newer, prepared, quantized = (folder / f"{step}.onnx" for step in ("newer", "prepared", "quantized"))
    save(nk.load(found.model), newer)
    quant_pre_process(str(newer), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(quantized),
        Reader(found.calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return run_ort(quantized, found.evaluation)


def quantized_by_npukit(found: Case) -> dict[str, Array]:
    model = nk.quantize(found.model, backend="htp", data=found.calibration)
    with nk.Session(model) as session:
        rows = [session.run(feeds) for feeds in found.evaluation]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def rows_of(name: str, zoo: Path) -> list[tuple[str, ...]]:
    found = case(name, zoo)
    reference = run_ort(found.model, found.evaluation)
    with tempfile.TemporaryDirectory() as folder:
        theirs = quantized_by_ort(found, Path(folder))
    ours = quantized_by_npukit(found)
    rows = []
    levels = [tuple(decibels_of(*powers(n, reference[n], side[n])) for side in (ours, theirs)) for n in reference]
    shown = dict(zip(reference, levels, strict=True))
    if len(levels) > 4:
        shown = {f"mean of {len(levels)} outputs": tuple(float(np.mean(column)) for column in zip(*levels, strict=True))}
    for output, (mine, other) in shown.items():
        rows.append((name, f"SQNR {output}", "-", decibels(mine), decibels(other)))
    if found.labels is not None:
        scores = [next(iter(side.values())) for side in (reference, ours, theirs)]
        rows.append((name, "accuracy", *(percent(float((s.argmax(1) == found.labels).mean())) for s in scores)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="8-bit accuracy beside ONNX Runtime's quantizer.")
    parser.add_argument("--zoo", type=Path, default=Path("../shared/zoo"), help="folder with the pretrained models")
    parser.add_argument("models", nargs="*", default=MODELS)
    args = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    rows = [row for name in args.models for row in rows_of(name, args.zoo)]
    print(table(["Model", "Measure", "Float", "npukit htp", "quantize_static"], rows))


if __name__ == "__main__":
    main()
