"""Bias correction: let every bias take up the mean error that the quantization of weights and inputs makes."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from npukit.encoding import Array, fake_quantize
from npukit.quantization import Job, Optimizer
from npukit_aimet.walk import Visit, layers_of, rewrite, walk


@attrs.frozen(eq=False)
class BiasCorrection(Optimizer):
    """Empirical bias correction, layer by layer (Nagel et al. 2019, https://arxiv.org/abs/1906.04721, section 4.2 and appendix D).

    b + E[W x] - E[Q(W) x~], with x~ the input of the layer in the network corrected so far. ``batches`` is the most samples to use.
    """

    name = "bias-correction"
    title = "let biases take up the mean error of quantization"

    batches: int | None = None

    def run(self, job: Job) -> Job:
        encodings = job.encodings()
        layers, skipped = layers_of(job.graph, encodings)

        def solve(visit: Visit) -> Mapping[str, Array]:
            layer = visit.layer
            stored = fake_quantize(np.asarray(job.graph.constant(layer.weight)), visit.encoding)
            rounded = layer.matrix(stored).astype(np.float64)
            return {layer.weight: stored, **visit.refitted_bias(rounded)}

        trip = walk(job, encodings, layers, solve, stage=self.name, limit=self.batches)
        biases = {layer.bias for layer in layers}
        changed = {n: v for n, v in trip.changed.items() if n in biases}
        return rewrite(job, {}, changed, [*skipped, *trip.left.values()], self.name)
