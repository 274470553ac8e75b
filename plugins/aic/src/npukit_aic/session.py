"""qaic.Session: a model on a virtual card."""

from __future__ import annotations

import cProfile
import logging
import os
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import attrs
import numpy as np

from npukit.encoding import Array
from npukit.errors import UsageError, did_you_mean
from npukit.graph import Tensor
from npukit_aic import cards, options
from npukit_aic.cache import compiled
from npukit_aic.feeds import read_feeds
from npukit_aic.gate import Gate
from npukit_aic.loaded import Loaded, is_finite
from npukit_aic.metrics import Benchmark, Times, print_calls
from npukit_aic.qpc import Binding, Qpc, read_qpc
from npukit_aic.samples import random_samples

_LOG = logging.getLogger("qaic")
_CHANGEABLE = ("num_activations", "dev_id", "set_size")
_ROWS = {row.name: row for row in options.ROWS}


class Shapes(dict[str, tuple[tuple[int, ...], np.dtype[Any]]]):
    """Shape and dtype by name, in the order of the model. The documentation calls it as a method, public code does not: it gives
    itself when it is called."""

    def __call__(self) -> Shapes:
        return self


@attrs.frozen(eq=False)
class _Active:
    """A QPC that is on a card: what runs it, the cores that it holds, and who may run now."""

    loaded: Loaded
    claim: cards.Claim
    gate: Gate

    def end(self) -> None:
        """Let runs that have begun finish, then free the card; runs that wait are turned away."""
        self.gate.close()
        self.loaded.close()
        self.claim.release()


class Session:
    """A model on a virtual Cloud AI 100, by the interface of the vendor's ``qaic.Session``.

    ``model_path`` is an ONNX model, which is compiled when this has not been done before, or a QPC: a programqpc.bin or its folder.
    The keywords are the rows of ``npukit_aic.options``; with ``options_path`` they may stand in a YAML file. Any number of threads
    may call ``run``.

    Raises OptionError, which is a ValueError, for an option that is wrong, other errors of npukit for a model or QPC that is.
    """

    def __init__(self, model_path: str | os.PathLike[str], **kwargs: Any) -> None:
        self._options = options.read(kwargs)
        self._qpc = _opened(Path(model_path), self._options)
        self.model_input_shape_dict, self.model_output_shape_dict = _shapes(self._qpc.inputs), _shapes(self._qpc.outputs)
        self._lock = threading.Lock()
        self._active: _Active | None = None
        self._watched = True
        self._times = Times()
        self._profiler = threading.Lock()
        self.profiling_results: list[cProfile.Profile] = []
        self.last_benchmark: Benchmark | None = None

    def setup(self) -> None:
        """Load the model and claim its cores; doing so again does nothing. Raises UsageError when too few cores are free."""
        self._ready()

    def reset(self) -> None:
        """Release the cores, after the runs that have begun; the next run loads the model again."""
        with self._lock:
            active, self._active = self._active, None
        if active is not None:
            active.end()

    def run(self, input_dict: Mapping[str, Any]) -> dict[str, Array]:
        """The outputs by name: fresh C-contiguous arrays of the dtypes in ``model_output_shape_dict``.

        Inputs are cast to the model's dtypes, and reshaped when they have the right number of elements. What the model has no
        input for is warned of. Waits while ``set_size`` x ``num_activations`` other runs are going on. Raises DataError for an
        input that is missing or has another number of elements, and what ``setup`` raises when it was not called before.
        """
        if self._options["enable_profiling"]:
            return self._profiled(input_dict)
        if not self._options["enable_metrics"]:
            return self._run(input_dict)
        start = perf_counter()
        found = self._run(input_dict)
        self._times.add(perf_counter() - start)
        return found

    def _run(self, input_dict: Mapping[str, Any]) -> dict[str, Array]:
        feeds = read_feeds(self._qpc.inputs, input_dict)
        while True:
            active = self._active or self._ready()
            if active.gate.enter():
                try:
                    found = active.loaded.run(feeds)
                    if self._watched and not all(map(is_finite, found.values())):
                        self._warn_of_overflow(active.loaded, feeds)
                    return found
                finally:
                    active.gate.leave()

    def _warn_of_overflow(self, loaded: Loaded, feeds: Mapping[str, Array]) -> None:
        """Say once in which node infinities and NaN begin."""
        self._watched = False
        text = loaded.overflow(feeds)
        if text:
            warnings.warn(f"an output is not finite: {text}", stacklevel=4)

    def _profiled(self, input_dict: Mapping[str, Any]) -> dict[str, Array]:
        """One profile at a time: Python has one profiler for all threads."""
        profile = cProfile.Profile()
        with self._profiler:
            self.profiling_results.append(profile)
            return profile.runcall(self._run, input_dict)

    def run_benchmark(
        self, num_inferences: int | None = None, inf_time: float | None = None, input_dict: Mapping[str, Any] | None = None
    ) -> tuple[int, float, float, int]:
        """(runs, samples per second, seconds, batch) of ``num_inferences`` runs (default 40), or of ``inf_time`` seconds.

        The figures are those of the modelled card, not of this machine: only a few inferences are run here. ``last_benchmark`` has
        what the model says beside them, and how long these few took. Without ``input_dict`` inputs are random.
        """
        if num_inferences is not None and inf_time is not None:
            raise UsageError("run_benchmark takes num_inferences or inf_time, not both")
        for name, value in (("num_inferences", num_inferences), ("inf_time", inf_time)):
            if value is not None and value <= 0:
                raise UsageError(f"run_benchmark takes {name} above 0, found {value}")
        feeds = _random(self._qpc.inputs) if input_dict is None else input_dict
        self.last_benchmark = found = Benchmark.of(self._qpc, self._options, num_inferences, inf_time, lambda: self._run(feeds))
        return found.inferences, found.rate, found.seconds, found.batch

    def get_metrics(self) -> dict[str, float]:
        """Count, sum, mean, extremes and percentiles of the seconds that runs took on this machine, without the first.

        Raises UsageError without ``enable_metrics``, or before the second run.
        """
        self._needs("enable_metrics")
        return self._times.metrics()

    def print_metrics(self) -> None:
        """Print what ``get_metrics`` gives."""
        self._needs("enable_metrics")
        print(self._times.text())

    def print_profile_data(self, n: int = 1) -> None:
        """Print the calls of the last ``n`` runs, from ``profiling_results``. Raises UsageError without ``enable_profiling``."""
        self._needs("enable_profiling")
        print_calls(self.profiling_results[-n:] if n > 0 else [])

    def _needs(self, name: str) -> None:
        if not self._options[name]:
            raise UsageError(f"the session keeps none: it was made without {name}", hint=f"qaic.Session(..., {name}=True)")

    def backend_options(self) -> dict[str, Any]:
        """The options that ``update_backend_options`` changes, with their values."""
        return {name: self._options[name] for name in _CHANGEABLE}

    def update_backend_options(self, **kwargs: Any) -> None:
        """Change options; the next run loads the model again. Raises OptionError for one that is wrong or cannot be changed."""
        for name in kwargs:
            if name not in _CHANGEABLE:
                hint = did_you_mean(name, _CHANGEABLE)
                raise options.OptionError(f"option '{name}' of qaic.Session cannot be changed", hint=hint)
        given = options.given_values(kwargs)
        self._options = {**self._options, **given}
        self.reset()

    def _ready(self) -> _Active:
        with self._lock:
            if self._active is None:
                self._active = _activated(self._qpc, self._options)
            return self._active


def _activated(qpc: Qpc, values: Mapping[str, Any]) -> _Active:
    copies = values["num_activations"]
    claim = cards.claim(values["dev_id"], copies * _cores(qpc), group=values["oversubscription_name"] or "")
    try:
        return _Active(Loaded(qpc), claim, Gate(copies * values["set_size"]))
    except BaseException:
        claim.release()
        raise


def _cores(qpc: Qpc) -> int:
    """The cores of one copy of the model."""
    return int(qpc.options.get("aic_num_cores") or 1)


def _opened(path: Path, values: Mapping[str, Any]) -> Qpc:
    card = cards.info(values["dev_id"]).soc.name  # a card that is not there is named before a model is read
    if path.suffix == ".onnx":
        return compiled(path, values, values["card"] or card)
    if path.suffix != ".bin" and not path.is_dir():
        hint = "a .onnx file, or programqpc.bin or its folder"
        raise UsageError(f"'{path}' is no ONNX model and no QPC", hint=hint)
    idle = [name for name, value in values.items() if _ROWS[name].at == "compile" and value != _ROWS[name].default]
    if idle:
        _LOG.warning("'%s' is compiled already, what it was compiled with stays: %s ignored", path, ", ".join(idle))
    return read_qpc(path)


def _random(inputs: tuple[Binding, ...]) -> dict[str, Array]:
    """One random sample."""
    return random_samples({b.name: Tensor(b.name, str(b.dtype), b.shapes[0]) for b in inputs}, "uniform", 1)[0]


def _shapes(bindings: tuple[Binding, ...]) -> Shapes:
    return Shapes({b.name: (b.shapes[0], b.dtype) for b in bindings})
