"""Ranges for a task, from data or from a profile, each tensor being observed once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from npukit.calibration import MIN_MAX, Batches, Observer, Profile, Range, all_observers, observe, open_data
from npukit.calibration.profile import is_profile
from npukit.errors import DataError
from npukit.events import OnEvent, ignore
from npukit.graph import MASK, Graph
from npukit.plugins import Registry
from npukit.quantization.options import Options
from npukit.quantization.plan import Task
from npukit.quantization.request import read_source, resolve


class Calibration:
    """The ranges seen so far in the float model. They hold for one graph: with another one it is observed anew."""

    def __init__(self, data: Any, graph: Graph, options: Options, observer: Observer, on_event: OnEvent) -> None:
        self._data, self._options, self._observer, self._on_event = data, options, observer, on_event
        self._given = as_profile(data)
        self._graph = graph
        self._known = self._given or Profile({}, 0)

    def samples(self, graph: Graph) -> Batches | None:
        """The data as samples of a graph; None when there is none, or only a profile of it."""
        no_data = self._data is None or self._given is not None
        return None if no_data else open_data(self._data, graph, limit=self._options.limit)

    def ranges(self, task: Task, reference: Graph) -> dict[str, Range]:
        """The range of every tensor of a task that needs one, seen in ``reference``, which has the same names."""
        wanted = {n: task.plan.activations[n] for n in task.unknown()}
        self._see(reference, wanted)
        return {n: self._range(n, dtype, masked=n in reference.before_softmax) for n, dtype in wanted.items()}

    def _range(self, name: str, dtype: str, masked: bool) -> Range:
        seen = self._known.tensors.get(name)
        # The size of a mask says nothing about scores; what is needed of it is decided from the extremes.
        observer = MIN_MAX if masked and seen is not None and seen.low < MASK else self._observer
        return self._known.range(name, observer, dtype, self._options.percentile)

    def _see(self, reference: Graph, wanted: Mapping[str, str]) -> None:
        if self._given is not None:
            if reference is not self._graph:
                raise DataError("a profile does not hold for a model that an optimizer changed", hint="give --data instead")
            return
        if reference is not self._graph:
            self._graph, self._known = reference, Profile({}, 0)
        missing = [n for n in wanted if n not in self._known.tensors]
        if not missing:
            return
        batches = self.samples(reference)
        if batches is None:
            count = f"{len(missing)} tensors need a range, but no calibration data is given"
            raise DataError(count, hint="--data FOLDER or data=")
        found = observe(reference, batches, missing, (self._observer,), on_event=self._on_event)
        self._known = Profile({**self._known.tensors, **found.tensors}, found.samples)


def as_profile(data: Any) -> Profile | None:
    """The profile that was given in place of data, None when it is data."""
    if isinstance(data, Profile):
        return data
    return Profile.load(data) if isinstance(data, str | os.PathLike) and is_profile(data) else None


def profile(
    source: Any,
    backend: Any = "",
    *,
    data: Any,
    limit: int | None = None,
    registry: Registry | None = None,
    on_event: OnEvent = ignore,
) -> Profile:
    """See once what the float model does on data: ranges and histograms of every float tensor, as ``backend`` prepares the model.

    The result stands in for ``data`` in ``quantize``, with any calibration method and any types. Raises DataError for bad data.
    """
    registry = registry or Registry.load()
    origin = read_source(source, registry=registry)
    graph = resolve(backend, origin, registry).prepare(origin.graph)
    observers = all_observers(registry.observers())
    return observe(graph, open_data(data, graph, limit=limit), graph.float_activations(), observers, on_event=on_event)
