"""Sequential MSE: choose the weight scales, layer by layer, that keep the layer's output."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from npukit.backend import Scheme
from npukit.encoding import Array, Encoding
from npukit.quantization import Job, Optimizer
from npukit_aimet.decided import codes_of, with_room_for_biases, within_limits
from npukit_aimet.walk import Visit, layers_of, rewrite, walk


@attrs.frozen(eq=False)
class SequentialMse(Optimizer):
    """Tries ``candidates`` scales per channel, 1/n .. n/n of the calibrated one, and keeps the one with the least output error.

    The error is E |(Q(w) - w) x|^2 with the inputs of the quantized network on both sides, as in aimet-onnx's apply_seq_mse
    (BSD-3-Clause, https://github.com/quic/aimet); it needs the second moments of the input only. Weights are rounded to nearest.
    Scales of blocks shrink together per channel. Where the backend's scales are powers of two, they are halved, down to 1/n at
    most; codes are those that its scheme uses. ``batches`` is the most samples to use, None for all of them.
    """

    name = "seq-mse"
    title = "choose weight scales that keep each layer's output"

    candidates: int = 20
    batches: int | None = None

    def run(self, job: Job) -> Job:
        encodings = job.encodings()
        layers, skipped = layers_of(job.graph, encodings)
        found: dict[str, Encoding] = {}

        def solve(visit: Visit) -> Mapping[str, Array]:
            factors, rounded = self._best(visit, job.judge.scheme)
            found[visit.layer.weight] = _scaled(visit, factors)
            return {visit.layer.weight: visit.layer.restore(rounded).astype(np.float32)}

        trip = walk(job, encodings, layers, solve, stage=self.name, limit=self.batches, both=False)
        grids = with_room_for_biases(job, encodings, found)
        return rewrite(job, grids, within_limits(job, grids), [*skipped, *trip.left.values()], self.name)

    def _factors(self, scheme: Scheme) -> list[float]:
        """What scales are multiplied by, the largest first."""
        if scheme.power_of_two:
            return [2.0**-k for k in range(self.candidates.bit_length())]
        return [k / self.candidates for k in range(self.candidates, 0, -1)]

    def _best(self, visit: Visit, scheme: Scheme) -> tuple[Array, Array]:
        """The factor of every row (G, R), and the weights rounded with it."""
        scale, zero = visit.layer.grid(visit.encoding)
        hessian = visit.all.hessian
        shape = visit.weights.shape
        best, factors, rounded = np.full(shape[:2], np.inf), np.ones(shape[:2]), visit.weights.copy()
        shared = visit.encoding.granularity == "tensor"
        for factor in self._factors(scheme):
            codes = np.rint(visit.weights / (scale * factor) + zero)
            values = (np.clip(codes, *codes_of(scheme, visit.encoding)) - zero) * scale * factor
            error = values - visit.weights
            loss = (np.matmul(error, hessian) * error).sum(-1)
            loss = np.full_like(loss, loss.sum()) if shared else loss
            better = loss < best
            best, factors = np.where(better, loss, best), np.where(better, factor, factors)
            rounded = np.where(better[:, :, None], values, rounded)
        return factors, rounded


def _scaled(visit: Visit, factors: Array) -> Encoding:
    """The encoding with the scales of every row multiplied by its factor (G, R)."""
    layer, encoding = visit.layer, visit.encoding
    full = layer.restore(np.broadcast_to(factors[:, :, None], visit.weights.shape))
    if encoding.axis is None:
        factor = full.reshape(-1)[0]
    elif encoding.block_size is None:
        factor = np.moveaxis(full, encoding.axis, 0).reshape(full.shape[encoding.axis], -1)[:, 0]
    else:
        axis = encoding.axis % full.ndim
        factor = np.take(full, np.arange(0, full.shape[axis], encoding.block_size), axis)
        factor = factor[tuple(slice(0, n) for n in encoding.steps.shape)]
    return attrs.evolve(encoding, scale=encoding.steps * factor, origin="optimizer:seq-mse")
