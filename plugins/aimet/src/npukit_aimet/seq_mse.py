"""Sequential MSE: choose the weight scales, layer by layer, that keep the layer's output."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from npukit.backend import Scheme
from npukit.encoding import Array, Encoding
from npukit.quantization import Job, Optimizer
from npukit_aimet.decided import codes_of, with_room_for_biases, within_limits
from npukit_aimet.walk import Visit, layers_of, left_alone, rewrite, walk


@attrs.frozen(eq=False)
class SequentialMse(Optimizer):
    """Tries ``candidates`` scales per channel, 1/n .. n/n of the calibrated one, and keeps the one with the least output error.

    The error is E |Q(w) x~ - w x|^2, with x~ the input of the layer in the quantized network and x that of the float one;
    aimet-onnx's apply_seq_mse (BSD-3-Clause, https://github.com/quic/aimet) has x~ on both sides, and so lets the loss of layers
    before add up. Weights are rounded to nearest. A row keeps its scale unless the new one does better on samples held out too.
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
            factors = self._best(visit, job.judge.scheme)
            if (factors == 1).all():
                return visit.nearest
            grid = attrs.evolve(visit.encoding, scale=visit.encoding.steps * visit.rescaled(factors), origin="optimizer:seq-mse")
            found[visit.layer.weight] = grid
            rounded = _rounded(visit, factors, job.judge.scheme)
            return {visit.layer.weight: visit.layer.restore(rounded).astype(np.float32)}

        trip = walk(job, encodings, layers, solve, stage=self.name, limit=self.batches)
        grids = with_room_for_biases(job, encodings, found)
        skipped += trip.left.values()
        done = rewrite(job, grids, within_limits(job, grids), skipped, self.name)
        notes = left_alone(self.name, len(layers) - len(trip.left) - len(found), len(layers))
        replaced = {**job.replaced, **{name: encodings[name] for name in grids}}
        return attrs.evolve(done, replaced=replaced, notes=(*done.notes, *notes))

    def _factors(self, scheme: Scheme) -> list[float]:
        """What scales are multiplied by, the largest first."""
        if scheme.power_of_two:
            return [2.0**-k for k in range(self.candidates.bit_length())]
        return [k / self.candidates for k in range(self.candidates, 0, -1)]

    def _best(self, visit: Visit, scheme: Scheme) -> Array:
        """The factor of every row, (G, R)."""
        fit, test = (m.problem(visit.weights, free_bias=False) for m in (visit.seen, visit.unseen or visit.seen))
        ones = np.ones(visit.weights.shape[:2])
        least, factors = np.full_like(ones, np.inf), ones
        for factor in self._factors(scheme):
            loss = visit.judged(fit.loss(_rounded(visit, factor * ones, scheme)))
            least, factors = np.minimum(loss, least), np.where(loss < least, factor, factors)
        old, new = (visit.judged(test.loss(_rounded(visit, f, scheme))) for f in (ones, factors))
        return np.where(new < old, factors, ones)


def _rounded(visit: Visit, factors: Array, scheme: Scheme) -> Array:
    """The weights rounded to nearest with the scales of every row multiplied by its factor (G, R)."""
    scale, zero = visit.layer.grid(visit.encoding)
    scale = scale * factors[:, :, None]
    codes = np.clip(np.rint(visit.weights / scale + zero), *codes_of(scheme, visit.encoding))
    return np.asarray((codes - zero) * scale)
