"""What an optimizer may not do to tensors that others depend on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs
import numpy as np

from npukit.encoding import Array, Encoding
from npukit.errors import UsageError
from npukit.graph import Node
from npukit.quantization import Job


def with_room_for_biases(job: Job, encodings: Mapping[str, Encoding], grids: Mapping[str, Encoding]) -> dict[str, Encoding]:
    """``grids`` with the scales they had where smaller ones would push a bias out of half the int32 range."""
    found = dict(grids)
    for bias, (x, weight) in job.judge.plan(job.graph, job.given).derived.items():
        values = job.graph.tensor(bias).data
        if weight not in found or values is None or x not in encodings or encodings[x].is_float:
            continue
        found[weight] = _with_room(found[weight], encodings[weight].steps, values, float(encodings[x].steps))
    return found


def _with_room(grid: Encoding, before: Array, bias: Array, input_scale: float) -> Encoding:
    largest = np.abs(bias.astype(np.float64)).reshape(-1)
    largest = largest if grid.axis is not None else largest.max(initial=0)
    if np.shape(largest) != grid.steps.shape:
        return grid
    fits = largest <= grid.steps.astype(np.float64) * input_scale * 2.0**30
    return attrs.evolve(grid, scale=np.where(fits, grid.steps, np.maximum(before, grid.steps)))


def refuse_decided(job: Job, nodes: Iterable[Node], changed: Iterable[str]) -> None:
    """Raise UsageError when scaling changes the range of a tensor whose encoding is decided already."""
    for node in nodes:
        if node.input(1) not in changed:
            continue
        followers = [name for reader in job.graph.consumers.get(node.outputs[0], ()) for name in reader.outputs]
        touched = [name for name in (*node.inputs[1:], node.outputs[0]) if name in job.given]
        touched += [n for n in followers if n in job.given and job.graph.producers[n].op in ("Relu", "PRelu")]
        decided = [name for name in touched if not job.given[name].is_float]
        if decided:
            hint = "run cle before the optimizers that decide encodings, and without overrides of these tensors"
            raise UsageError(f"cle changes the range of '{decided[0]}', whose encoding is decided already", hint=hint)
