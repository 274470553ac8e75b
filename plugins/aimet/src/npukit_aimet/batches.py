"""Samples of a job in batches: how optimizers feed them, on npukit's engine and on AIMET's alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from itertools import islice

import numpy as np

from npukit.encoding import Array
from npukit.quantization import Job

_MERGED = 32

HOLDOUT = 8
"""Every eighth entry is held out: solutions are compared on samples they have not seen."""


def merged(job: Job, limit: int | None = None) -> Iterator[Mapping[str, Array]]:
    """The first ``limit`` samples of a job, up to 32 of them as one; where their other dimensions differ they stay apart."""
    size = _size(job)
    waiting: list[Mapping[str, Array]] = []
    for feeds in islice(job.data, limit):
        if waiting and (len(waiting) == size or any(v.shape[1:] != waiting[0][n].shape[1:] for n, v in feeds.items())):
            yield _stacked(waiting)
            waiting = []
        waiting.append(feeds)
    if waiting:
        yield _stacked(waiting)


def _size(job: Job) -> int:
    """How many samples may run at once: several where the first dimension of all inputs and outputs is one open batch.

    So many entries stay that some can be held out.
    """
    graph, samples = job.reference, job.data
    shapes = [graph.tensor(n).shape or (None,) for n in (*graph.inputs, *graph.outputs)]
    symbols = {shape[0] if shape else None for shape in shapes}
    (symbol,) = symbols if len(symbols) == 1 else (None,)
    if not isinstance(symbol, str) or any(symbol in shape[1:] for shape in shapes):
        return 1
    return max(1, min(_MERGED, len(samples) // HOLDOUT if isinstance(samples, Sized) else 1))


def _stacked(samples: list[Mapping[str, Array]]) -> Mapping[str, Array]:
    return samples[0] if len(samples) == 1 else {n: np.concatenate([feeds[n] for feeds in samples]) for n in samples[0]}
