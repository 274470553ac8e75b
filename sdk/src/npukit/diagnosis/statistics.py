"""Ranges and outliers of tensors, in memory that does not grow with the data."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from npukit.calibration.observers import Percentile, chosen
from npukit.calibration.profile import Watch
from npukit.encoding import Array, Encoding
from npukit.graph import Graph, Tensor

_SIDE = 99.95
"""Percentile on either side: 99.9 % of the values lie between."""
_CENTRE = Percentile()


@attrs.frozen(eq=False)
class TensorStats:
    """What is known of one tensor's values, and how it is stored.

    ``low`` and ``high`` bound the values seen; ``scale`` is the (largest) step of the grid, None for a float type. ``used`` is the
    share of that range which 99.9 % of the values use, ``kurtosis`` the fourth standardized moment (3 for a normal distribution),
    ``channel_ratio`` the largest magnitude of any channel over that of the median channel (None: there are no channels).
    """

    name: str
    op: str
    depth: int
    constant: bool
    dtype: str
    granularity: str
    scale: float | None
    low: float
    high: float
    used: float
    kurtosis: float
    channel_ratio: float | None


class Watcher:
    """Sees all values of one tensor. ``axis`` is that of its channels."""

    def __init__(self, axis: int | None) -> None:
        self._axis = axis
        self._values = Watch((_CENTRE,))
        self._peaks: Array = np.zeros(())

    def see(self, values: Array) -> None:
        self._values.see(values)
        if self._axis is not None and values.size:
            self._peaks = np.maximum(self._peaks, _peaks(values, self._axis))

    def stats(self, tensor: Tensor, encoding: Encoding | None, op: str, depth: int) -> TensorStats:
        seen = self._values.seen()
        full, central = seen.full, chosen(_CENTRE, seen, "", _SIDE)
        width = full.high - full.low
        return TensorStats(
            name=tensor.name,
            op=op,
            depth=depth,
            constant=tensor.is_constant,
            dtype=tensor.dtype if encoding is None else encoding.dtype,
            granularity="float" if encoding is None else encoding.granularity,
            scale=None if encoding is None or encoding.is_float else float(encoding.steps.max()),
            low=full.low,
            high=full.high,
            used=(central.high - central.low) / width if width else 1.0,
            kurtosis=_kurtosis(*seen.values()),
            channel_ratio=_ratio(self._peaks),
        )


def channel_ratio(values: Array | None, axis: int) -> float | None:
    """The largest magnitude of any channel over that of the median channel."""
    return None if values is None or axis >= values.ndim else _ratio(_peaks(values, axis))


def _peaks(values: Array, axis: int) -> Array:
    others = tuple(d for d in range(values.ndim) if d != axis)
    return np.asarray(np.abs(values).max(axis=others))


def _ratio(peaks: Array) -> float | None:
    """The largest over the median of the channels that are not all zero."""
    used = peaks[peaks > 0] if peaks.ndim else peaks
    return float(used.max() / np.median(used)) if used.ndim and used.size > 1 else None


def _kurtosis(values: Array, counts: Array) -> float:
    total = counts.sum()
    if not total:
        return 0.0
    centred = values - (values @ counts) / total
    variance = (centred**2) @ counts / total
    return float((centred**4) @ counts / total / variance**2) if variance > 0 else 0.0


def watchers(graph: Graph) -> dict[str, Watcher]:
    """One for every float activation; the second dimension of four is that of channels."""
    found = {}
    for name in graph.float_activations():
        shape = graph.tensor(name).shape or ()
        found[name] = Watcher(1 if len(shape) == 4 and isinstance(shape[1], int) else None)
    return found


def all_stats(
    graph: Graph, encodings: Mapping[str, Encoding], seen: Mapping[str, Watcher], axes: Mapping[str, int | None]
) -> tuple[TensorStats, ...]:
    """The statistics of all activations, and of the constants that are quantized; ``axes`` are those of weights' channels."""
    depth = {name: index + 1 for index, node in enumerate(graph.nodes) for name in node.outputs}
    found = []
    for name, watcher in seen.items():
        node = graph.producers.get(name)
        found.append(watcher.stats(graph.tensor(name), encodings.get(name), node.op if node else "input", depth.get(name, 0)))
    readers = {name: (node.op, index + 1) for index, node in reversed([*enumerate(graph.nodes)]) for name in node.inputs}
    for name, (op, place) in readers.items():
        data = graph.constant(name)
        if data is not None and data.size and name in encodings:
            watcher = Watcher(axes.get(name))
            watcher.see(np.asarray(data, np.float32))
            found.append(watcher.stats(graph.tensor(name), encodings[name], op, place))
    return tuple(sorted(found, key=lambda s: s.depth))
