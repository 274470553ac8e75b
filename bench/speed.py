"""Time of the HTP emulator beside ONNX Runtime on one thread, in paired runs: the best of interleaved repetitions.

python bench/speed.py --zoo ../shared/zoo

ORT float32 is the float model; QDQ the model that ``npukit export --format onnx-qdq`` writes, with the optimizations that ONNX
Runtime applies by default; quantize_static that of ONNX Runtime's own quantizer (uint8 activations, int8 weights per channel). On
processors without VNNI the products of uint8 and int8 that both of these use saturate: they are fast, and their results differ.
quantize_static u8u8 has uint8 weights, whose products are exact, as those of the fast form are.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
MODELS = ("ultraface_rfb_320", "yunet_n_320", "fastestdet", "mobilenetv2s_cifar10", "resnet20_cifar10", "convvit_cifar10")


def best_of(repeats: int, *actions: Callable[[], Any]) -> list[float]:
    """The shortest time of each action in ms, the actions taking turns; each runs once before it is timed."""
    times: list[list[float]] = [[] for _ in actions]
    for turn in range(repeats + 1):
        for action, found in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            if turn:
                found.append(1e3 * (time.perf_counter() - start))
    return [min(found) for found in times]


class _Samples:
    """Samples as a CalibrationDataReader of onnxruntime."""

    def __init__(self, samples: list[dict[str, Any]]) -> None:
        self._next: Iterator[dict[str, Any]] = iter(samples)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._next, None)


def quantize_static(model: Any, samples: list[dict[str, Any]], weights: str) -> Any:
    """The graph that ONNX Runtime's quantizer makes of a graph; ``weights`` is QInt8 or QUInt8."""
    from onnxruntime import quantization as ort

    import npukit as nk
    from npukit.graph import fold_affine, remove_dead_nodes, save

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
        save(remove_dead_nodes(fold_affine(model)), source)
        types = {"activation_type": ort.QuantType.QUInt8, "weight_type": ort.QuantType[weights]}
        ort.quantize_static(str(source), str(target), _Samples(samples), per_channel=True, **types)
        return nk.load(target)


def main() -> None:
    from zoo import case

    import npukit as nk
    from npukit.backend.ort import OrtModel
    from npukit.encoding.formats import insert_qdq
    from npukit.quantization import Options, open_session
    from npukit.report import table

    parser = argparse.ArgumentParser(description="Speed of the HTP emulator beside ONNX Runtime, one thread.")
    parser.add_argument("--zoo", type=Path, default=Path("../shared/zoo"), help="folder with the pretrained models")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--simulator", action="store_true", help="the vendor's simulator too (needs onnxruntime-qnn)")
    args = parser.parse_args()
    rows, ratios = [], []
    for name in MODELS:
        found = case(name, args.zoo)
        feeds = {key: value[:1] for key, value in found.evaluation[0].items()}
        model, samples = nk.load(found.model, batch=1), found.calibration[:8]
        static = [quantize_static(model, samples, weights) for weights in ("QInt8", "QUInt8")]
        for activations in ("uint8", "uint16", "float16"):
            made = nk.quantize(model, backend="htp", data=samples, options=Options(activations=activations))
            others = [model, insert_qdq(made.graph, made.encodings), *(static if activations == "uint8" else [])]
            runs = [partial(open_session(made, kernels=kernels).run, feeds) for kernels in ("fast", "numpy")]
            runs += [partial(OrtModel(graph, threads=1).run, feeds) for graph in others]
            fast, slow, *rest = best_of(args.repeats, *runs)
            if args.simulator:
                with open_session(made, backend="qnn") as session:
                    (simulator,) = best_of(3, partial(session.run, feeds))
                ratios.append((name, activations, f"{simulator:.0f}", f"{simulator / fast:.0f}x", f"{simulator / slow:.0f}x"))
            cells = [f"{ms:.2f} ({fast / ms:.2f}x)" for ms in rest] + ["-"] * (4 - len(rest))
            rows.append((name, activations, f"{fast:.2f}", f"{slow:.1f}", *cells))
    headers = ["Model", "activations", "fast", "numpy", "ORT float32", "QDQ", "quantize_static", "quantize_static u8u8"]
    print(table(headers, rows))
    print("milliseconds of one run; in brackets: fast form / this")
    if ratios:
        print(table(["Model", "activations", "simulator ms", "simulator / fast", "simulator / numpy"], ratios))


if __name__ == "__main__":
    if any(os.environ.get(name) != "1" for name in THREADS):
        # BLAS reads these when it is loaded, so they must be set before numpy is imported.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **dict.fromkeys(THREADS, "1")})
    main()
