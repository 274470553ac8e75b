"""One streaming pass of the float model over the calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any

import numpy as np

from npukit.backend.ort import OrtModel
from npukit.calibration.observers import Range, observer
from npukit.errors import DataError
from npukit.events import Event, OnEvent, ignore
from npukit.graph import Array, Graph


def calibrate(
    graph: Graph,
    batches: Iterable[Mapping[str, Array]],
    tensors: Mapping[str, str],
    *,
    method: str = "min-max",
    percentile: float = 99.99,
    threads: int = 0,
    on_event: OnEvent = ignore,
) -> dict[str, Range]:
    """The range of every tensor of ``tensors`` (name -> the encoding type it will get) over all batches.

    Memory does not grow with the number of batches: each is run, observed and dropped. Raises DataError when there are no
    batches, or when a tensor has NaN or infinite values (naming the tensor and the sample).
    """
    observers = {name: observer(method, dtype, percentile) for name, dtype in tensors.items()}
    total = len(batches) if isinstance(batches, Sized) else None
    done = 0
    with OrtModel(graph, list(tensors), threads=threads) as model:
        for feeds in batches:
            for name, values in model.run(feeds).items():
                _check_finite(name, values, done)
                observers[name].update(values)
            done += 1
            on_event(Event("calibrate", done, total))
    if not done:
        raise DataError("the calibration set is empty")
    return {name: seen.range() for name, seen in observers.items()}


def _check_finite(name: str, values: Any, sample: int) -> None:
    # A sum is finite unless a value is not (or it overflows, which the second look settles).
    if not np.isfinite(np.sum(values, dtype=np.float32)) and not np.all(np.isfinite(values)):
        raise DataError(f"tensor '{name}' has NaN or infinite values in sample {sample} (counted from 0)")
