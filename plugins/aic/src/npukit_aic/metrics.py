"""What a session tells of its runs: times on this machine, calls of Python, and the rate of the modelled card."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from npukit.errors import UsageError
from npukit_aic.options import ROWS
from npukit_aic.qpc import Qpc

if TYPE_CHECKING:
    from npukit_aic.speed import Estimate

_PERCENTILES = {"P25": 25, "P50": 50, "P75": 75, "P90": 90, "P99": 99, "P999": 99.9}
_MOST_RUNS = 3


class Times:
    """The seconds that runs took. The first is left out: it has loaded the model."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def add(self, seconds: float) -> None:
        """One more run; threads may add at once."""
        self._seconds.append(seconds)

    def metrics(self) -> dict[str, float]:
        """Count, extremes, percentiles, sum and mean. Raises UsageError before the second run."""
        seconds = np.array(self._seconds[1:])
        if not seconds.size:
            raise UsageError("there are no metrics yet", hint="they begin with the second run of the session")
        found = {"num_of_inferences": len(seconds), "min_latency": seconds.min(), "max_latency": seconds.max()}
        found |= dict(zip(_PERCENTILES, np.percentile(seconds, list(_PERCENTILES.values())), strict=True))
        found |= {"total_inference_time": seconds.sum(), "avg_latency": seconds.mean()}
        return {name: value if isinstance(value, int) else float(value) for name, value in found.items()}

    def text(self) -> str:
        """Eleven lines: the count, then seconds."""
        found = self.metrics()
        lines = {
            "Minimum": "min_latency",
            "Maximum": "max_latency",
            "Average": "avg_latency",
            **{f"{name[1:]}% of the inferences took less than": name for name in ("P25", "P50", "P75", "P90", "P99")},
            "Sum": "total_inference_time",
            "Average of all": "avg_latency",
        }
        return "\n".join(
            [f"Inferences: {found['num_of_inferences']}", *(f"{what}: {found[key]!r} s" for what, key in lines.items())]
        )


@attrs.frozen
class Benchmark:
    """What ``run_benchmark`` found.

    ``inferences`` runs in ``seconds``, each of ``batch`` samples (stats_batchsize, else the batch of the model), so ``rate``
    samples per second, and ``latency_s`` of a run, are those of the modelled card; ``bound`` says what limits it. ``wall_s`` is
    what ``wall_runs`` runs took on this machine.
    """

    inferences: int
    rate: float
    seconds: float
    batch: int
    latency_s: float
    bound: str
    wall_s: float
    wall_runs: int

    @classmethod
    def of(
        cls, qpc: Qpc, options: Mapping[str, Any], count: int | None, seconds: float | None, run: Callable[[], object]
    ) -> Benchmark:
        """Of ``count`` inferences (default 40), or of those that fit into ``seconds``; a few are run."""
        modelled = _modelled(qpc, options)
        runs_per_s = modelled.rate / modelled.batch
        inferences = count or (40 if seconds is None else max(1, int(runs_per_s * seconds)))
        runs = min(inferences, _MOST_RUNS)
        start = perf_counter()
        for _ in range(runs):
            run()
        wall = perf_counter() - start
        batch = options["stats_batchsize"] or modelled.batch
        return cls(inferences, runs_per_s * batch, inferences / runs_per_s, batch, modelled.latency, modelled.bound, wall, runs)


def _modelled(qpc: Qpc, options: Mapping[str, Any]) -> Estimate:
    """What the model of speed says of the first specialization, on the card that the QPC was compiled for."""
    from npukit_aic.speed import estimate_package

    now = {row.name: options[row.name] for row in ROWS if row.at == "run" and row.name in options}
    return estimate_package(qpc.package, {**qpc.options, **now})


def print_calls(profiles: Iterable[cProfile.Profile]) -> None:
    """The functions that each run called, with their calls and seconds."""
    print("function\tncalls\ttottime\tcumtime\n")
    for profile in profiles:
        stats: Any = pstats.Stats(profile)
        for function, (_, calls, total, cumulative, _) in stats.stats.items():
            print(f"{function} {calls} {total} {cumulative}")
