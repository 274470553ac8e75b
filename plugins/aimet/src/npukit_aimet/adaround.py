"""AdaRound: choose for every weight the code that keeps the layer's output, not the one that is nearest."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np

import npukit
from npukit.backend import Scheme
from npukit.calibration import open_data
from npukit.encoding import Array, Encoding
from npukit.errors import UsageError, did_you_mean
from npukit.quantization import Job, Optimizer
from npukit_aimet.config import section
from npukit_aimet.decided import codes_of
from npukit_aimet.kept import Kept, fingerprint
from npukit_aimet.moments import Moments, Problem
from npukit_aimet.rounding import FEW, Grid, descend, enumerate_all, feed_back, relax
from npukit_aimet.walk import UnsolvableError, Visit, layers_of, left_alone, network_sqnr, rewrite, walk

_DAMPINGS = (0.01, 0.1)  # GPTQ's default share of the mean diagonal, and a careful one for rows with more weights than data


@attrs.frozen(eq=False)
class AdaRound(Optimizer):
    """Rounds weights for the output's sake (Nagel et al. 2020, https://arxiv.org/abs/2004.10568), on second moments of the data.

    Layers are rounded in order, each with the inputs that it has in the quantized network and the output of the float model as the
    target. ``solver``: "discrete" (error feedback and descent, up or down or one code further, whichever does better on samples
    held out; rows of few weights exactly) or "relaxation" (the paper's soft rounding up or down, ``iterations`` steps). ``refit``
    lets the bias take up the mean error. ``samples`` (anything that open_data takes) replaces the calibration data; ``batches`` is
    the most samples to use, None for all of them. ``results_dir`` keeps each layer once it is solved: a run that was interrupted or
    killed goes on there, and layers of another model, other data or other settings are not taken.
    """

    name = "adaround"
    title = "round weights so that each layer keeps its output"

    solver: str = "discrete"
    iterations: int = 1000
    refit: bool = True
    samples: Any = None
    batches: int | None = None
    results_dir: Path | None = None

    def __attrs_post_init__(self) -> None:
        if self.solver not in _SOLVERS:
            raise UsageError(f"adaround has no solver '{self.solver}'", hint=did_you_mean(self.solver, _SOLVERS))

    def configure(self, settings: Mapping[str, Any], folder: Path) -> AdaRound:
        """With ``aimet_quantizer: adaround: {dataset, num_batches}``, and npukit's own solver, iterations, refit and
        results_dir."""
        found = section(settings, self.name, folder)
        found.only("dataset", "num_batches", "solver", "iterations", "refit", "results_dir")
        loader, place = found.dataset(), found.text("results_dir")
        changes = {
            "solver": found.text("solver"),
            "iterations": found.number("iterations", whole=True, least=1),
            "refit": found.flag("refit"),
            "samples": loader,
            "batches": None if loader else found.number("num_batches", whole=True, least=1),
            "results_dir": None if place is None else Path(place),
        }
        return attrs.evolve(self, **{name: value for name, value in changes.items() if value is not None})

    def run(self, job: Job) -> Job:
        data = job.samples if self.samples is None else open_data(self.samples, job.graph)
        sampled = attrs.evolve(job, samples=data)
        best = self._rounded(sampled)
        if job.replaced:
            # Layers that do better one by one need not make a better network: look at what comes of the scales of before.
            note = "adaround goes back to the weight scales of before: with them the network's output is nearer to the float one"
            before = self._rounded(attrs.evolve(sampled.decide(job.replaced, (), note), replaced={}))
            best = max(best, before, key=partial(network_sqnr, limit=self.batches))
        return attrs.evolve(best, samples=job.samples, replaced={})

    def _rounded(self, job: Job) -> Job:
        encodings = job.encodings()
        layers, skipped = layers_of(job.graph, encodings)
        found: dict[str, Encoding] = {}
        alone: list[str] = []
        kept = Kept(self.results_dir)

        def solve(visit: Visit) -> Mapping[str, Array]:
            name = visit.layer.weight
            try:
                rounded, found[name] = self._recalled(kept, visit, job.judge.scheme, job.replaced.get(name))
            except np.linalg.LinAlgError as error:
                raise UnsolvableError(f"{error}; its weight is rounded to nearest") from None
            values = {name: visit.layer.restore(rounded).astype(np.float32)}
            if np.array_equal(values[name], visit.nearest[name]):
                alone.append(name)
            return values | (visit.refitted_bias(rounded) if self.refit else {})

        trip = walk(job, encodings, layers, solve, stage="adaround", limit=self.batches)
        decided = {name: grid.with_origin("optimizer:adaround") for name, grid in found.items()}
        done = rewrite(job, decided, trip.changed, [*skipped, *trip.left.values()], "adaround")
        return attrs.evolve(done, notes=(*done.notes, *left_alone(self.name, len(alone), len(layers))))

    def _recalled(self, kept: Kept, visit: Visit, scheme: Scheme, replaced: Encoding | None) -> tuple[Array, Encoding]:
        """What ``_choose`` makes of a layer, or made of it in a run before."""
        grids = [grid for grid in (visit.encoding, replaced) if grid is not None]
        values = (visit.seen, visit.unseen, *grids)
        arrays = [part for value in values if value is not None for part in attrs.astuple(value, recurse=False)]
        layer = (visit.layer.node.op, visit.layer.shape, visit.layer.groups, self.refit and visit.bias is not None)
        codes = [codes_of(scheme, grid) for grid in grids]
        settings = (npukit.__version__, self.solver, self.iterations)
        key = fingerprint(*settings, layer, codes, len(arrays), visit.weights, *arrays)
        found = kept.get(key, ("rounded", "steps"))
        if found is None:
            rounded, encoding = self._choose(visit, scheme, replaced)
            kept.put(key, {"rounded": rounded, "steps": encoding.steps})
            return rounded, encoding
        same = np.array_equal(found["steps"], visit.encoding.steps)
        return found["rounded"], visit.encoding if same else attrs.evolve(visit.encoding, scale=found["steps"])

    def _choose(self, visit: Visit, scheme: Scheme, replaced: Encoding | None) -> tuple[Array, Encoding]:
        """The rounded weights (G, R, K) and their encoding.

        The scales that an optimizer ``replaced`` are tried too: each row, or the layer where rows share scales, takes those that do
        better on the samples held out.
        """
        encoding = visit.encoding
        rounded, loss = self._best(visit, scheme)
        if replaced is None or not _differ_in_scale(encoding, replaced):
            return rounded, encoding
        others, other_loss = self._best(attrs.evolve(visit, encoding=replaced), scheme)
        better = visit.judged(other_loss) <= visit.judged(loss)
        steps = np.where(visit.rescaled(better), replaced.steps, encoding.steps)
        return np.where(better[:, :, None], others, rounded), attrs.evolve(encoding, scale=steps)

    def _best(self, visit: Visit, scheme: Scheme) -> tuple[Array, Array]:
        """Each row as the candidate has it that does best on the samples held out, and its loss there.

        Nearest rounding where the layer as a whole does no better.
        """
        scale, zero = visit.layer.grid(visit.encoding)
        grid = Grid.around(visit.weights, scale, zero, *codes_of(scheme, visit.encoding))

        def problem(moments: Moments) -> Problem:
            return moments.problem(visit.weights, free_bias=self.refit and visit.bias is not None)

        test, nearest = problem(visit.unseen or visit.seen), grid.snap(visit.weights)
        if self.solver == "discrete" and visit.weights.shape[2] <= FEW:
            whole = problem(visit.all)
            silent = np.diagonal(whole.hessian, axis1=1, axis2=2) == 0  # inputs that are always zero say nothing: nearest
            candidates = [np.where(silent[:, None, :], nearest, enumerate_all(whole, grid))]
        else:
            candidates = _SOLVERS[self.solver](self, problem(visit.seen), grid, visit.weights)
        losses = np.array([test.loss(candidate) for candidate in candidates])
        best, least, kept = np.argmin(losses, axis=0), losses.min(axis=0), test.loss(nearest)
        if kept.sum() <= least.sum():
            return nearest, kept
        return np.asarray(np.take_along_axis(np.array(candidates), best[None, :, :, None], 0)[0]), least


def _differ_in_scale(one: Encoding, other: Encoding) -> bool:
    """Whether two encodings are of one form and differ in their scales: the rows of either may be taken."""
    if (one.dtype, one.axis, one.block_size, one.steps.shape) != (other.dtype, other.axis, other.block_size, other.steps.shape):
        return False
    return np.array_equal(one.zeros, other.zeros) and not np.array_equal(one.steps, other.steps)


def _discrete(_: AdaRound, problem: Problem, grid: Grid, weights: Array) -> list[Array]:
    found = [descend(problem, grid, grid.snap(weights))]
    for damping in _DAMPINGS:
        grids = (grid, grid.widened)
        starts = feed_back(problem, grids, weights, damping=damping)
        found += [descend(problem, allowed, start) for allowed, start in zip(grids, starts, strict=True)]
    return found


def _relaxed(settings: AdaRound, problem: Problem, grid: Grid, weights: Array) -> list[Array]:
    return [descend(problem, grid, relax(problem, grid, weights, iterations=settings.iterations))]


_SOLVERS: dict[str, Any] = {"discrete": _discrete, "relaxation": _relaxed}
