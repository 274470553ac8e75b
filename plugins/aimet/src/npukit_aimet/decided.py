"""What an optimizer may not do to tensors that others depend on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from npukit.backend import Scheme
from npukit.encoding import Array, Encoding, spread
from npukit.errors import UsageError
from npukit.graph import Node
from npukit.quantization import Job


def with_room_for_biases(job: Job, encodings: Mapping[str, Encoding], grids: Mapping[str, Encoding]) -> dict[str, Encoding]:
    """``grids`` with larger scales where a bias would not fit into int32 otherwise, as the backend's scheme has them."""
    found = dict(grids)
    for bias, (x, weight) in job.judge.plan(job.graph, job.given).derived.items():
        if weight in found:
            found[weight] = job.judge.scheme.with_room_for_bias(encodings.get(x), found[weight], job.graph.tensor(bias))
    return found


def codes_of(scheme: Scheme, encoding: Encoding) -> tuple[int, int]:
    """The lowest and the highest code of a grid that the scheme uses."""
    return scheme.limits.get(encoding.dtype, (encoding.qmin, encoding.qmax))


def within_limits(job: Job, grids: Mapping[str, Encoding]) -> dict[str, Array]:
    """The constants that reach beyond the codes which the scheme uses of their new grids, clipped to these, by name."""
    found = {}
    for name, grid in grids.items():
        data = job.graph.tensor(name).data
        if data is not None and grid.dtype in job.judge.scheme.limits:
            ends = (np.subtract(code, grid.zeros) * grid.steps for code in codes_of(job.judge.scheme, grid))
            low, high = (spread(end.astype(np.float32), grid, data.shape) for end in ends)
            found[name] = np.clip(data, low, high).astype(data.dtype)
    return found


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
