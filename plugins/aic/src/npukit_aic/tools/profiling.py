"""What qaic-runner writes with --aic-profiling-type: latencies as CSV, layers as JSON for qaic-opstats. All times are modelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs

from npukit.graph import write_atomic
from npukit.report import to_json
from npukit_aic.speed import Estimate
from npukit_aic.tools.edge import MICRO

RATES = ("full", "half", "fourth", "eighth", "sixteenth")
"""Of how many samples one is kept: 1, 2, 4 ..."""
# Readers take the total from the column third from the end, drop the last two and Sample, and convert the others in place, which
# wants floats; columns that only a card with a statistics build can fill are N/A.
_DEVICE = ("devInfPerSec", "devExecUs", "devInWaitTimeUs", "devOutWaitTimeUs")
_HOST = ("hostRoundTripUs", "enqTimeUs", "preProcTimeUs", "submitTimeUs", "execTotalUs", "exectoVcUs")
_DONE = ("execToCompleteUs", "postProcUs", "totalRoundtripTimeUs")
COLUMNS = ("Sample", *_DEVICE, *_HOST, *_DONE, "queueDepth", "numInfInQueue")
STATS = "-stats.json"
"""How names of files for qaic-opstats end."""


@attrs.frozen
class Window:
    """The inferences of one activation that are profiled: ``count`` from ``start`` on, every ``step``-th of them."""

    start: int
    count: int
    step: int = 1

    def samples(self, total: int) -> range:
        """Their numbers, of ``total`` inferences."""
        return range(self.start, min(total, self.start + self.count), self.step)


def write_latency(folder: Path, speed: Estimate, runs: int, window: Window) -> None:
    """A CSV file per activation: four lines of text, the names of the columns, a row per sample.

    ``runs`` are the inferences of all activations, which take turns. A sample takes the modelled latency with a full set in
    flight.
    """
    activations, depth = speed.plan.activations, speed.plan.set_size
    whole = ("hostRoundTripUs", "execTotalUs", "execToCompleteUs", "totalRoundtripTimeUs")
    times = [speed.latency * MICRO if column in whole else 0.0 for column in (*_HOST, *_DONE)]
    values = ",".join([*["N/A"] * len(_DEVICE), *map(str, [*times, float(depth), float(depth)])])
    for index in range(activations):
        head = [
            "npukit latency profile: modelled for an emulated card, nothing is measured",
            f"program 0, activation {index} of {activations}",
            f"set size {depth}, batch size {speed.batch}",
            "times in microseconds",
        ]
        rows = [f"{sample},{values}" for sample in window.samples(len(range(index, runs, activations)))]
        text = "\n".join([*head, ",".join(COLUMNS), *rows]) + "\n"
        write_atomic(folder / f"aic-profiling-program-{index}-latency.txt", [text.encode()])


def stats(speed: Estimate) -> dict[str, Any]:
    """An estimate and its rows as plain data, times in seconds."""
    head = {"npukit": "modelled", "rate": speed.rate, "latency": speed.latency, "bound": speed.bound}
    return {**head, "rows": to_json(speed.rows)}


def write_stats(folder: Path, speed: Estimate) -> None:
    """A JSON file per activation with ``stats``."""
    for index in range(speed.plan.activations):
        write_atomic(folder / f"aic-profiling-program-{index}{STATS}", [json.dumps(stats(speed), indent=1).encode()])
