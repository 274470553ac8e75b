"""The one definition of SQNR, the signal-to-quantization-noise ratio, for all of npukit.

SQNR = 10 log10(sum x^2 / sum (x - y)^2) in dB, x being the float values and y the quantized ones, sums over all elements of a
tensor and all samples: the ratio of the totals, not the mean of ratios per sample. Every output has its own; the one number for
several outputs is ``mean_sqnr``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs
import numpy as np

from npukit.encoding import Array, Encoding
from npukit.errors import DataError
from npukit.graph import MASK, Graph

MOST = 200.0
"""Decibels that ``mean_sqnr`` gives where nothing differs: a number that JSON can hold."""


def decibels_of(signal: float, noise: float) -> float:
    """The SQNR of two sums of squares: inf without noise, -inf without signal (a tensor that overflowed has none left)."""
    if noise == 0:
        return float("inf")
    return float("-inf") if signal == 0 or not np.isfinite(noise) else 10 * float(np.log10(signal / noise))


def noise_power(name: str, wanted: Array, got: Array) -> float:
    """sum (x - y)^2 of one tensor in one sample.

    Raises DataError when the shapes differ or there are no elements: no noise over no elements is not a perfect result.
    """
    if wanted.shape != got.shape:
        message = f"tensor '{name}' has shape {list(got.shape)} when the model is quantized, {list(wanted.shape)} in float"
        raise DataError(message, hint="a shape is computed from quantized values: bind it with --onnx-define-symbol or --batch")
    if not wanted.size:
        raise DataError(f"tensor '{name}' is empty, its shape is {list(wanted.shape)}: there is nothing to compare")
    error = np.subtract(wanted, got, dtype=np.float64).ravel()
    return float(error @ error)


def powers(name: str, wanted: Array, got: Array) -> tuple[float, float]:
    """(sum x^2, sum (x - y)^2) of one tensor in one sample. Raises what ``noise_power`` raises."""
    noise, x = noise_power(name, wanted, got), np.asarray(wanted, np.float64).ravel()
    return float(x @ x), noise


def total_powers(
    wanted: Iterable[Mapping[str, Array]], got: Iterable[Mapping[str, Array]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Signal and noise of every tensor of ``wanted``, by name: ``powers`` summed over the samples, which are as many on both sides.

    Raises what ``powers`` raises.
    """
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for expected, found in zip(wanted, got, strict=True):
        for name, values in expected.items():
            power, error = powers(name, values, found[name])
            signal[name] = signal.get(name, 0.0) + power
            noise[name] = noise.get(name, 0.0) + error
    return signal, noise


def mean_sqnr(signal: Mapping[str, float], noise: Mapping[str, float]) -> float:
    """One number for several outputs, in dB: the mean over the outputs of noise as a share of signal, at most MOST.

    An output without signal counts as noise only when it has some. Outputs count alike, however many elements they have.
    """
    shares = [noise[n] / signal[n] if signal[n] else float(noise[n] > 0) for n in signal]
    return float(-10 * np.log10(max(float(np.mean(shares)), 10 ** (-MOST / 10))))


@attrs.frozen
class Agreement:
    """How far two backends agree on one tensor of one grid: shares of equal codes and of codes at most one step apart, the
    largest difference in steps, and the SQNR of one against the other in dB (inf when equal)."""

    exact: float
    within_one: float
    largest: int
    sqnr: float


@attrs.frozen
class TensorRow:
    """One tensor: ``sqnr`` against the reference in dB per backend (inf when equal), ``depth`` its place in the graph.

    ``agreement`` is that of the pair of backends compared code by code, None where they have no common grid.
    """

    name: str
    op: str
    depth: int
    low: float
    high: float
    sqnr: Mapping[str, float]
    agreement: Agreement | None = None


class Meter:
    """Adds up signal and noise per tensor and label over samples, for tensors of ``graph``.

    Tensors of ``refuse`` must not be empty, others may be. What a mask leaves out counts as 0: how far below does not matter.
    """

    def __init__(self, graph: Graph, names: Iterable[str], labels: Sequence[str], refuse: Iterable[str] = ()) -> None:
        self.names = list(names)
        self._masked = graph.before_softmax
        self._labels, self._refuse = labels, frozenset(refuse)
        self._signal = dict.fromkeys(self.names, 0.0)
        self._noise = {label: dict.fromkeys(self.names, 0.0) for label in labels}
        self._low = dict.fromkeys(self.names, np.inf)
        self._high = dict.fromkeys(self.names, -np.inf)

    def see(self, wanted: Mapping[str, Array]) -> None:
        """The float values of one sample."""
        for name in self.names:
            values = np.asarray(self._kept(name, wanted, wanted), np.float64).ravel()
            self._signal[name] += float(values @ values)
            self._low[name] = min(self._low[name], float(values.min(initial=np.inf)))
            self._high[name] = max(self._high[name], float(values.max(initial=-np.inf)))

    def add(self, label: str, wanted: Mapping[str, Array], got: Mapping[str, Array]) -> None:
        """The float values and those of a label, of one sample."""
        for name in self.names:
            if wanted[name].size or got[name].size or name in self._refuse:
                kept = self._kept(name, wanted, wanted), self._kept(name, wanted, got)
                self._noise[label][name] += noise_power(name, *kept)

    def _kept(self, name: str, wanted: Mapping[str, Array], values: Mapping[str, Array]) -> Array:
        masked = name in self._masked and values[name].shape == wanted[name].shape
        return np.where(wanted[name] < MASK, 0, values[name]) if masked else values[name]

    def rows(self, graph: Graph) -> list[TensorRow]:
        """The SQNR of every tensor that had elements."""
        depth = {name: index + 1 for index, node in enumerate(graph.nodes) for name in node.outputs}
        found = []
        for name in self.names:
            node = graph.producers.get(name)
            levels = {label: decibels_of(self._signal[name], self._noise[label][name]) for label in self._labels}
            low, high = self._low[name], self._high[name]
            if low <= high:
                found.append(TensorRow(name, node.op if node else "input", depth.get(name, 0), low, high, levels))
        return found


def inner_tensors(graph: Graph, encodings: Mapping[str, Encoding]) -> set[str]:
    """Tensors inside a fused op: they are clamped to the range behind it, so their own SQNR means nothing."""
    clamps = [n for n in graph.nodes if n.op in ("Relu", "Clip") and not n.domain]
    pairs = [(n.inputs[0], encodings.get(n.inputs[0]), encodings.get(n.outputs[0])) for n in clamps]
    return {name for name, a, b in pairs if a is not None and b is not None and a.same_grid(b)}
