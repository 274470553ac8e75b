"""A small network that ships with npukit, and the whole trip with it.

The data are 628 of scikit-learn's digits: "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak, UCI Machine
Learning Repository (https://doi.org/10.24432/C50P49, CC BY 4.0). bench/train_digits.py trains the network.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npukit.backend import Session
    from npukit.encoding import Array
    from npukit.plugins import Registry

__all__ = ["DATA", "MODEL", "run"]

MODEL = Path(__file__).with_name("digits_cnn.onnx")
DATA = Path(__file__).with_name("digits.npz")


def run(registry: Registry, say: Callable[[str], None] = print) -> tuple[str, dict[str, Any]]:
    """Check, quantize and run the digit classifier; return the table as text and its numbers.

    ``say`` gets one line per step: the command a user would type, and what came of it.
    """
    import numpy as np

    from npukit.quantization import Options, Quantized, check, open_session, quantize
    from npukit.report import percent, table

    with np.load(DATA, allow_pickle=False) as archive:
        calibration, images, labels = (archive[key] for key in ("calibration", "test_images", "test_labels"))
    samples = [{"image": image[None]} for image in calibration]

    verdict = check(MODEL, backend="htp", registry=registry)
    say(f"$ npukit check digits_cnn.onnx --backend htp\n    {verdict.verdict} by htp:{verdict.soc.name}, {verdict.nodes} nodes")

    def prepare(weights: str) -> Quantized:
        made = quantize(MODEL, backend="htp", data=samples, options=Options(weights=weights), registry=registry)
        origins = ", ".join(f"{count} {origin}" for origin, count in sorted(made.report.origins.items()))
        say(f"$ npukit quantize digits_cnn.onnx --backend htp --weights {weights} --data ... -o digits.dlc\n    {origins}")
        return made

    models = {"float32": MODEL, "a8w8": prepare("int8"), "a8w4": prepare("int4")}
    backends = {"float32": ("cpu",), "a8w8": ("cpu:qdq", "htp"), "a8w4": ("cpu:qdq", "htp")}
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for label, model in models.items():
            source: Any = model
            if isinstance(model, Quantized):
                source = Path(folder) / f"{label}.dlc"
                model.save(source)
            for backend in backends[label]:
                say(f"$ npukit run {source.name} --backend {backend} --data ...")
                with open_session(source, backend=backend, registry=registry) as session:
                    found.setdefault(label, {})[backend] = _accuracy(session, images, labels)
    columns = ("cpu", "cpu:qdq", "htp")
    rows = [(label, *(percent(row[c]) if c in row else "-" for c in columns)) for label, row in found.items()]
    text = table(["Digits, test accuracy", "cpu (float)", "cpu:qdq (simulated)", "htp (integer)"], rows)
    return f"\n{text}\n\n{len(labels)} test images, calibrated on {len(calibration)} others", {"accuracy": found}


def _accuracy(session: Session, images: Array, labels: Array) -> float:
    """The share of images whose highest score is that of their label."""
    scores = session.run({"image": images})["scores"]
    return float((scores.argmax(axis=1) == labels).mean())
