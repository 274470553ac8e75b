"""The grids of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npukit.backend import port_axis, takes_blocks
from npukit.calibration import MIN_MAX, clipped, find_observer
from npukit.encoding import FLOAT_BITS, Array, Encoding
from npukit.errors import ModelError

if TYPE_CHECKING:
    from npukit.quantization.plan import Task


def weight_encoding(task: Task, name: str, lowest: float | None) -> Encoding:
    """The encoding of a weight from its values, those below ``lowest`` left out.

    In blocks where that is asked for and the op takes them, else with scales per channel or one scale. Raises
    ModelError for a weight without values.
    """
    port, dtype = task.plan.weight_ports[name], task.plan.weights[name]
    data = task.graph.tensor(name).data
    assert data is not None  # a weight is a constant
    if not data.size:
        raise ModelError(f"weight '{name}' has no values, its shape is {list(data.shape)}", hint="take its node out")
    if lowest is not None:
        data = np.maximum(data, lowest)
    axis = port_axis(port, data.ndim)
    kind, size = task.precision.blocks
    if not takes_blocks(port, kind):
        per_channel = _by_channel(task, name) and "channel" in port.granularity and axis is not None
        kind, size, axis = ("channel", 0, axis) if per_channel else ("tensor", 0, None)
        data = _cut(task, data, dtype, axis)
    symmetric = True if port.symmetric == "always" or (kind != "tensor" and port.symmetric is not None) else None
    return task.scheme.weight(data, dtype, granularity=kind, axis=axis, block_size=size or None, symmetric=symmetric)


def _by_channel(task: Task, name: str) -> bool:
    """Whether a weight is wished to have scales per channel."""
    wished = task.precision.per_channel
    return any(reader.op in wished for reader in task.graph.consumers[name]) if isinstance(wished, tuple) else wished


def _cut(task: Task, data: Array, dtype: str, axis: int | None) -> Array:
    """The values of a weight within the range that the calibration method of weights chooses."""
    if task.options.weight_calibration == MIN_MAX.name or dtype in FLOAT_BITS:
        return data
    return clipped(data, find_observer(task.options.weight_calibration), dtype, axis, task.options.percentile)
