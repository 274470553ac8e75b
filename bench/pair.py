"""One model on the emulator and on the vendor's simulator: the outputs of both, and how far apart they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from grid import Model
from numpy.typing import NDArray

from npukit.backend import Backend, Soc
from npukit.diagnosis import decibels_of, total_powers
from npukit.errors import NpukitError

Array = NDArray[Any]
Outputs = Mapping[str, Array]


def run(model: Model, ours: Backend, theirs: Backend, soc: Soc) -> tuple[Outputs, Outputs] | None:
    """The outputs of the emulator and of the simulator; None where the vendor does not run the model."""
    with theirs.open(theirs.compile(model.graph, model.encodings, soc)) as session:
        try:
            wanted = session.run(model.feeds)
        except NpukitError:
            return None
    with ours.open(ours.compile(model.graph, model.encodings, soc)) as session:
        return session.run(model.feeds), wanted


def steps_apart(model: Model, found: Outputs, wanted: Outputs) -> Array:
    """The differences of all elements: in steps of the grid, units of the last place of float16, or as they are."""
    steps = []
    for output, value in wanted.items():
        encoding = model.encodings.get(output)
        x, y = found[output].astype(np.float64), value.astype(np.float64)
        if encoding is not None and not encoding.is_float:
            steps.append(np.rint((x - y) / float(encoding.steps)))
        elif encoding is not None:
            steps.append(_ulps(x) - _ulps(y))
        else:
            steps.append(x - y)
    return np.abs(np.concatenate([s.ravel() for s in steps]))


def sqnr(wanted: Outputs, found: Outputs) -> float:
    """``found`` against ``wanted`` over all outputs, in dB."""
    signal, noise = total_powers([wanted], [found])
    return decibels_of(sum(signal.values()), sum(noise.values()))


def _ulps(values: Array) -> Array:
    """float16 values as integers in the order of the numbers."""
    bits = values.astype(np.float16).view(np.int16).astype(np.int64)
    return np.where(bits < 0, -32768 - bits, bits).astype(np.float64)
