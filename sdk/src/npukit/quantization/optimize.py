"""The seam for optimizers: what one gets, and what it gives back."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from npukit.backend import OpCost, Plan, Precision, Problem, Scheme, Session, read_yaml
from npukit.calibration.data import Batches
from npukit.encoding import Encoding
from npukit.errors import DataError, UsageError, did_you_mean
from npukit.events import OnEvent, ignore
from npukit.graph import Graph, Tensor
from npukit.plugins import KNOWN, OPTIMIZERS, Registry

ENGINE = "npukit"
"""The engine of an optimizer that computes in this process."""


@attrs.frozen(eq=False)
class Judge:
    """What a job knows of its backend: functions of a graph and of decisions about its tensors.

    ``precision`` has the types of tensors that nobody decided on, ``scheme`` makes grids of ranges and weights. ``plan(graph,
    given)`` is what the op constraints ask for; ``complete(graph, reference, given, precision)`` finishes the encodings as the
    pipeline would, calibrating the ranges that are missing in the float model ``reference``; ``problems(graph, encodings)`` lists
    what the constraints say against them; ``cost(graph, encodings)`` is the backend's estimate per node;
    ``opened(graph, reference, given)`` is the package that the pipeline would make, opened on the backend: what it computes is what
    the user gets. It raises ConstraintError where the pipeline would.
    """

    precision: Precision
    scheme: Scheme
    plan: Callable[[Graph, Mapping[str, Encoding]], Plan]
    complete: Callable[[Graph, Graph, Mapping[str, Encoding], Precision], dict[str, Encoding]]
    problems: Callable[[Graph, Mapping[str, Encoding]], tuple[Problem, ...]]
    cost: Callable[[Graph, Mapping[str, Encoding]], tuple[OpCost, ...]]
    opened: Callable[[Graph, Graph, Mapping[str, Encoding]], Session]


@attrs.frozen(eq=False)
class Job:
    """A model between float and quantized, frozen: an optimizer returns a changed copy.

    ``graph`` is prepared for the backend; earlier optimizers may have changed its constants. ``reference`` is the float model that
    the result is measured by: the same nodes and names. ``given`` are the encodings decided so far, by the user or by earlier
    optimizers; every other tensor gets one later. ``replaced`` are encodings that an optimizer put others
    in the place of: a later one may go back to them. ``samples`` is None when there is no data. ``notes`` are lines for the report.
    """

    graph: Graph
    reference: Graph
    given: Mapping[str, Encoding]
    judge: Judge
    samples: Batches | None = None
    seed: int = 0
    on_event: OnEvent = ignore
    notes: tuple[str, ...] = ()
    replaced: Mapping[str, Encoding] = attrs.field(factory=dict)

    @property
    def data(self) -> Batches:
        """The calibration samples, iterable as often as their source is. Raises DataError when none are given."""
        if self.samples is None:
            raise DataError("this optimizer needs calibration data, but none is given", hint="--data FOLDER or data=")
        return self.samples

    def encodings(self, given: Mapping[str, Encoding] | None = None, precision: Precision | None = None) -> dict[str, Encoding]:
        """The encodings of all tensors as they would be if this job were the last word; or with other decisions or types."""
        decided = self.given if given is None else given
        return self.judge.complete(self.graph, self.reference, decided, precision or self.judge.precision)

    def opened(self, given: Mapping[str, Encoding]) -> Session:
        """The package that ``given`` decisions end in, opened on the backend. Raises ConstraintError when it is not legal."""
        return self.judge.opened(self.graph, self.reference, given)

    def decide(self, encodings: Mapping[str, Encoding], constants: Iterable[Tensor] = (), *notes: str) -> Job:
        """This job with more decisions, and with other values of some constants."""
        graph = self.graph.with_tensors(constants) if (constants := tuple(constants)) else self.graph
        return attrs.evolve(self, graph=graph, given={**self.given, **encodings}, notes=(*self.notes, *notes))

    def rewrite(self, constants: Iterable[Tensor], *notes: str) -> Job:
        """This job with other constants that leave what the model computes as it is: in the float model too."""
        changed = tuple(constants)
        graph, reference = self.graph.with_tensors(changed), self.reference.with_tensors(changed)
        return attrs.evolve(self, graph=graph, reference=reference, notes=(*self.notes, *notes))


class Optimizer(abc.ABC):
    """Improves a quantized model. ``name`` is what ``--optimize`` takes, ``title`` one line for people.

    ``engine`` names where it computes; optimizers of one name may differ in it. The encodings that it decides have the origin
    ``optimizer:NAME``.
    """

    name: str
    title: str = ""
    engine: str = ENGINE

    def configure(self, settings: Mapping[str, Any], folder: Path) -> Optimizer:
        """This optimizer with the settings of a configuration file (the whole document), which lies in ``folder``.

        Raises UsageError that names the path of a wrong setting ("$.amp.candidates[0]"), or when there is nothing to configure.
        """
        raise UsageError(f"optimizer '{self.name}' takes no configuration", hint="leave --config out")

    @abc.abstractmethod
    def run(self, job: Job) -> Job:
        """The job after this optimizer. Nothing of ``job`` is changed in place."""


def choose(
    optimize: str | Sequence[str | Optimizer],
    registry: Registry,
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    engine: str = "",
) -> tuple[Optimizer, ...]:
    """The optimizers that ``optimize`` names ("cle,adaround", or a list of names and Optimizer objects), configured.

    ``config`` (a YAML file or its content) is shown to every optimizer that takes one; at least one must. Raises UsageError for
    unknown names and engines, PluginError for optimizers of a plugin that is not installed.
    """
    words = [w.strip() for w in optimize.split(",") if w.strip()] if isinstance(optimize, str) else list(optimize)
    found = [w if isinstance(w, Optimizer) else _named(w, engine, registry) for w in words]
    if config is None:
        return tuple(found)
    settings = config if isinstance(config, Mapping) else _read(Path(config))
    folder = Path() if isinstance(config, Mapping) else Path(config).parent
    configured = [o.configure(settings, folder) if _takes_settings(o) else o for o in found]
    if not any(map(_takes_settings, found)):
        raise UsageError("no optimizer that is asked for takes a configuration", hint="--optimize adaround or amp does")
    return tuple(configured)


def _takes_settings(optimizer: Optimizer) -> bool:
    return type(optimizer).configure is not Optimizer.configure


def _named(name: str, engine: str, registry: Registry) -> Optimizer:
    known: list[Optimizer] = list(registry.optimizers())
    same = {o.engine: o for o in known if o.name == name}
    if not same:
        names = sorted({o.name for o in known})
        missing = OPTIMIZERS.get(name, "")
        hint = KNOWN[missing] if missing and name not in names else did_you_mean(name, names)
        raise UsageError(f"there is no optimizer '{name}'", hint=hint, code="unknown-optimizer")
    wanted = engine or ENGINE
    if wanted not in same:
        raise UsageError(f"optimizer '{name}' has no engine '{wanted}'", hint=f"it has {', '.join(sorted(same))}")
    return same[wanted]


def _read(path: Path) -> Mapping[str, Any]:
    found = read_yaml(path, "configuration")
    if not isinstance(found, Mapping):
        raise UsageError(f"{path} is not a YAML mapping")
    return found
