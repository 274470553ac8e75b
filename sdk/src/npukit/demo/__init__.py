"""A small network that ships with npukit, and the whole trip with it.

The data are 628 of scikit-learn's digits: "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak, UCI Machine
Learning Repository (https://doi.org/10.24432/C50P49, CC BY 4.0). bench/train_digits.py trains the network.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npukit.plugins.known import DEFAULT_BACKEND, FLOAT_BACKEND

if TYPE_CHECKING:
    from npukit.backend import Session
    from npukit.encoding import Array
    from npukit.plugins import Registry

__all__ = ["DATA", "MODEL", "run"]

MODEL = Path(__file__).with_name("digits_cnn.onnx")
DATA = Path(__file__).with_name("digits.npz")
CALIBRATION, TEST = "calibration.npz", "test.npz"
_SIMULATED = f"{FLOAT_BACKEND}:qdq"
_RUNS = (
    ("float32", MODEL.name, (FLOAT_BACKEND,)),
    ("a8w8", "a8w8.dlc", (_SIMULATED, DEFAULT_BACKEND)),
    ("a8w4", "a8w4.dlc", (_SIMULATED, DEFAULT_BACKEND)),
)


def run(registry: Registry, say: Callable[[str], None] = print, folder: Path | None = None) -> tuple[str, dict[str, Any]]:
    """Check, quantize and run the digit classifier; return the table as text and its numbers.

    ``say`` gets one line per step: the command a user would type, and what came of it. ``folder`` keeps the model, the data and
    the packages, so that these commands work there.
    """
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        return _trip(registry, say, folder)
    with tempfile.TemporaryDirectory() as made:
        return _trip(registry, say, Path(made))


def _trip(registry: Registry, say: Callable[[str], None], folder: Path) -> tuple[str, dict[str, Any]]:
    from npukit.quantization import Options, check, open_session, quantize
    from npukit.report import percent, table

    images, labels, calibrated = _unpack(folder)
    model, calibration = folder / MODEL.name, folder / CALIBRATION
    verdict = check(model, backend=DEFAULT_BACKEND, registry=registry)
    found_by = f"{verdict.verdict} by {DEFAULT_BACKEND}:{verdict.soc.name}, {verdict.nodes} nodes"
    say(f"$ npukit check {model.name} --backend {DEFAULT_BACKEND}\n    {found_by}")

    for label, weights in (("a8w8", "int8"), ("a8w4", "int4")):
        made = quantize(model, backend=DEFAULT_BACKEND, data=calibration, options=Options(weights=weights), registry=registry)
        made.save(folder / f"{label}.dlc")
        origins = ", ".join(f"{count} {origin}" for origin, count in sorted(made.report.origins.items()))
        flags = f"--backend {DEFAULT_BACKEND} --weights {weights} --data {CALIBRATION} -o {label}.dlc"
        say(f"$ npukit quantize {model.name} {flags}\n    {origins}")

    found: dict[str, dict[str, float]] = {}
    for label, name, backends in _RUNS:
        for backend in backends:
            say(f"$ npukit run {name} --backend {backend} --data {TEST}")
            with open_session(folder / name, backend=backend, registry=registry) as session:
                found.setdefault(label, {})[backend] = _accuracy(session, images, labels)
    columns = (FLOAT_BACKEND, _SIMULATED, DEFAULT_BACKEND)
    rows = [(label, *(percent(row[c]) if c in row else "-" for c in columns)) for label, row in found.items()]
    text = table(
        ["Digits, test accuracy", f"{FLOAT_BACKEND} (float)", f"{_SIMULATED} (simulated)", f"{DEFAULT_BACKEND} (integer)"], rows
    )
    return f"\n{text}\n\n{len(labels)} test images, calibrated on {calibrated} others", {"accuracy": found}


def _unpack(folder: Path) -> tuple[Array, Array, int]:
    """Write the model and the data to ``folder``; return test images, labels, and how many calibration images there are."""
    import numpy as np

    shutil.copyfile(MODEL, folder / MODEL.name)
    with np.load(DATA, allow_pickle=False) as archive:
        calibration, images, labels = (archive[key] for key in ("calibration", "test_images", "test_labels"))
    np.savez(folder / CALIBRATION, image=calibration)
    np.savez(folder / TEST, image=images, label=labels)
    return images, labels, len(calibration)


def _accuracy(session: Session, images: Array, labels: Array) -> float:
    """The share of images whose highest score is that of their label."""
    scores = session.run({"image": images})["scores"]
    return float((scores.argmax(axis=1) == labels).mean())
