"""Optimizers of engine ``aimet``: AIMET's own AdaRound, sequential MSE and cross-layer scaling in the pipeline of npukit."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from npukit.backend import Scheme
from npukit.calibration import open_data
from npukit.encoding import Array, Encoding, fake_quantize, spread
from npukit.errors import PluginError
from npukit.events import Event
from npukit.graph import Graph, Tensor
from npukit.quantization import Job, Optimizer
from npukit_aimet.batches import merged
from npukit_aimet.bridge.conversation import Limits, Ready, Step, converse
from npukit_aimet.bridge.environment import interpreter
from npukit_aimet.bridge.exchange import JOB, Answer, Request, read_answer, write_request
from npukit_aimet.bridge.layers import Layers, choose_layers
from npukit_aimet.config import section
from npukit_aimet.decided import refuse_decided, with_room_for_biases, within_limits

_CLOSE = 1e-6


@attrs.frozen
class _Bridge(Optimizer):
    """What all have in common. ``samples`` (anything that open_data takes) replaces the calibration data, ``num_batches`` keeps the
    first of them, and they go to AIMET in the batches that npukit's own optimizers take; the time-outs are in seconds."""

    engine = "aimet"

    num_batches: int | None = None
    samples: Any = None
    timeout: float = Limits().total
    start_timeout: float = Limits().start

    def configure(self, settings: Mapping[str, Any], folder: Path) -> Optimizer:
        """This optimizer with ``aimet_quantizer: NAME: {dataset, num_batches}``, and the fields that it has."""
        found = section(settings, self.name, folder)
        known = {field.name: field for field in attrs.fields(type(self)) if field.name != "samples"}
        found.only("dataset", *known)
        loader = found.dataset()
        numbers = {n: found.number(n, whole="int" in str(f.type), least=1) for n, f in known.items()}
        changes = {**numbers, "samples": loader, "num_batches": None if loader else numbers["num_batches"]}
        return attrs.evolve(self, **{name: value for name, value in changes.items() if value is not None})

    def _ask(self, python: Path, request: Request, job: Job) -> tuple[Ready, Answer]:
        """Send a request and wait for the answer, with progress as events of the job."""
        stage = f"{self.name} (AIMET)"
        job = job if self.samples is None else attrs.evolve(job, samples=open_data(self.samples, job.graph))

        def on_step(step: Step) -> None:
            # The last layer counts as done only when the answer is there.
            job.on_event(Event(stage, min(step.done, max(step.total - 1, 0)), step.total, step.message))

        with tempfile.TemporaryDirectory(prefix="npukit-aimet-") as name:
            folder = Path(name)
            write_request(folder, request, merged(job, self.num_batches))
            ready = converse(python, [JOB], folder, Limits(self.start_timeout, self.timeout), on_step)
            answer = read_answer(folder, request)
        total = len(request.nodes)
        job.on_event(Event(stage, total, total))
        return ready, answer


@attrs.frozen
class AimetAdaround(_Bridge):
    """AIMET's ``apply_adaround`` on the grids that the pipeline gives the weights; ``iterations`` None is AIMET's default."""

    name = "adaround"
    title = "AIMET's AdaRound, in an environment of its own"

    iterations: int | None = None

    def run(self, job: Job) -> Job:
        python = interpreter()
        layers = choose_layers(job.graph, job.encodings(), self.name)
        if not layers.nodes:
            return job.decide({}, (), *_notes(self.name, layers))
        ready, answer = self._ask(python, _request(self.name, job, layers, iterations=self.iterations), job)
        grids = {name: layers.grids[name].with_origin("optimizer:adaround") for name in layers.weights}
        constants = [_rounded(job.graph.tensor(name), answer, grids[name]) for name in grids]
        return job.decide(grids, constants, *_notes(self.name, layers, ready))


@attrs.frozen
class AimetSeqMse(_Bridge):
    """AIMET's ``apply_seq_mse``; ``candidates`` None is AIMET's default."""

    name = "seq-mse"
    title = "AIMET's sequential MSE, in an environment of its own"

    candidates: int | None = None

    def run(self, job: Job) -> Job:
        python = interpreter()
        encodings = job.encodings()
        layers = choose_layers(job.graph, encodings, self.name)
        if not layers.nodes:
            return job.decide({}, (), *_notes(self.name, layers))
        ready, answer = self._ask(python, _request(self.name, job, layers, candidates=self.candidates), job)
        scheme = job.judge.scheme
        grids = {name: _regridded(layers.grids[name], answer.encodings[name], scheme) for name in layers.weights}
        grids = with_room_for_biases(job, encodings, grids)
        clipped = (Tensor.constant(name, data) for name, data in within_limits(job, grids).items())
        return job.decide(grids, clipped, *_notes(self.name, layers, ready))


@attrs.frozen
class AimetCle(_Bridge):
    """The cross-layer scaling of AIMET's ``equalize_model``, without the steps that change what the network computes."""

    name = "cle"
    title = "AIMET's cross-layer scaling, in an environment of its own"

    def run(self, job: Job) -> Job:
        python = interpreter()
        nodes = [n for n in job.graph.nodes if n.op in ("Conv", "ConvTranspose") and job.graph.constant(n.input(1)) is not None]
        parameters = dict.fromkeys(name for node in nodes for name in node.inputs[1:] if _is_constant(job.graph, name))
        request = Request(self.name, job.graph, [n.name for n in nodes], list(parameters), seed=job.seed)
        if not nodes:
            return job.decide({}, (), "cle (AIMET): no convolution to equalize")
        ready, answer = self._ask(python, request, job)
        changed = {name: new for name, new in answer.constants.items() if not np.array_equal(new, _data(job.graph, name))}
        refuse_decided(job, nodes, changed)
        count = sum(node.input(1) in changed for node in nodes)
        note = f"cle (AIMET {ready.version}): {count} of {len(nodes)} convolutions equalized"
        return job.rewrite([Tensor.constant(name, data) for name, data in changed.items()], note)


def _request(task: str, job: Job, layers: Layers, **settings: Any) -> Request:
    names = [node.name for node in layers.nodes]
    return Request(task, job.graph, names, layers.weights, layers.grids, settings, job.seed)


def _notes(task: str, layers: Layers, ready: Ready | None = None) -> list[str]:
    """Lines for the report: how many layers, by which AIMET, and what was left out."""
    if ready is None:
        lines = [f"{task} (AIMET): no layer to work on"]
    else:
        lines = [f"{task} (AIMET {ready.version}): {len(layers.nodes)} layers"]
    if layers.left:
        more = ", ..." if len(layers.left) > 5 else ""
        lines.append(f"{task} (AIMET) left out {len(layers.left)} layers: {', '.join(layers.left[:5])}{more}")
    return lines


def _rounded(old: Tensor, answer: Answer, grid: Encoding) -> Tensor:
    """The weight on its grid. AIMET's are near it: between two codes, and the nearer one is meant."""
    name = old.name
    if not np.allclose(answer.encodings[name].steps, grid.steps, rtol=_CLOSE, atol=0):
        raise PluginError(f"AIMET rounded '{name}' to another grid than it was given")
    new = fake_quantize(answer.constants[name], grid)
    steps = spread(grid.steps, grid, new.shape)
    assert old.data is not None  # a weight is a constant
    clipped = np.clip(old.data, spread(grid.min, grid, new.shape), spread(grid.max, grid, new.shape))
    if np.any(np.abs(new - clipped) > steps * (1 + 1e-3)):
        raise PluginError(f"AIMET's weights '{name}' are no rounding of those it was given")
    return attrs.evolve(old, data=new.astype(old.data.dtype))


def _regridded(old: Encoding, new: Encoding, scheme: Scheme) -> Encoding:
    """``old`` with the scale, as the scheme has it, and the zero point of ``new``, which may be given for the other signedness."""
    if new.bits != old.bits or new.steps.shape != old.steps.shape:
        raise PluginError(f"AIMET answered with {new.dtype} {new.granularity} where {old.dtype} {old.granularity} was given")
    zero_point = new.zeros - new.qmin + old.qmin
    return attrs.evolve(old, scale=scheme.rounded(new.steps), zero_point=zero_point, origin="optimizer:seq-mse")


def _is_constant(graph: Graph, name: str) -> bool:
    return graph.constant(name) is not None


def _data(graph: Graph, name: str) -> Array:
    data = graph.tensor(name).data
    assert data is not None  # asked for constants only
    return data
