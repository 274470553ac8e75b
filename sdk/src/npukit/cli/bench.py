"""Time a model on this machine, and estimate what it costs on the chip.

The measured time is that of the backend's session here: for an emulator it is emulation time, not device time. The estimate counts
multiply-accumulates and bytes per op; where the peak figures of the chip are public it adds a time, which is a lower bound, never a
measurement. --estimate runs nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from npukit.cli.console import Console
from npukit.cli.options import (
    add_backend,
    add_data,
    add_model_inputs,
    add_strictness,
    positive,
    registry_from,
    source_from,
    target_from,
)
from npukit.cli.run import note_problems
from npukit.errors import DataError, UsageError
from npukit.plugins.known import FLOAT_BACKEND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npukit.backend import OpCost, Program, Session, Speed, Target
    from npukit.encoding import Array, Encoding

SUMMARY = "how long does a model take, here and on the chip?"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a .dlc or .onnx file")
    add_backend(parser, default=FLOAT_BACKEND)
    add_strictness(parser)
    add_data(parser, required=False)
    add_model_inputs(parser)
    parser.add_argument("--runs", type=positive, default=10, metavar="N", help="timed runs after a first one (default: 10)")
    parser.add_argument("--top", type=positive, default=10, metavar="N", help="how many ops to list (default: 10)")
    parser.add_argument("--estimate", action="store_true", help="only the estimate: run nothing")


def run(args: argparse.Namespace, console: Console) -> int:
    from npukit.backend import total
    from npukit.quantization import open_session
    from npukit.quantization.settings import default_settings

    if args.estimate and args.data:
        raise UsageError("--estimate runs nothing: leave --data out")
    registry = registry_from(args)
    source = source_from(args, registry)
    target = target_from(args, registry, source, default=FLOAT_BACKEND)
    with open_session(source, target, strict=args.strict, float_fallback=args.float_fallback, registry=registry) as session:
        note_problems(session, console)
        program = session.program
        label, encodings = target.name, {} if session.ignores_encodings else program.encodings
        costs, speed = target.estimate(program.graph, encodings), target.speed(program.graph, encodings)
        notes = [*default_settings(target), *_idle(target, program, encodings)]
        times = [] if args.estimate else _measure(session, _samples(session, args.data, args.limit), args.runs, console)
    for note in notes:
        console.note(f"note: {note}")
    parts = [_measured_text(times, label)] if times else []
    parts += _estimate_text(costs, speed, label, args.top)
    data = {
        "backend": program.backend,
        "soc": program.soc.name,
        "measured_ms": {"runs": len(times), "median": statistics.median(times), "min": min(times)} if times else None,
        "estimate": {"ops": costs, "total": total(costs), "speed": speed},
    }
    console.emit("\n".join(parts), data)
    return 0


def _idle(target: Target, program: Program, encodings: Mapping[str, Encoding]) -> list[str]:
    """A note for every setting that changes nothing in the estimate."""

    def estimated(where: Target) -> tuple[Sequence[OpCost], Speed | None]:
        return where.estimate(program.graph, encodings), where.speed(program.graph, encodings)

    changed = target.changed("cost")
    found = estimated(target) if changed else None
    return [
        f"setting '{name}' = {target.settings[name]} changed nothing in this estimate"
        for name in changed
        if estimated(target.with_default(name)) == found
    ]


def _samples(session: Session, data: str | None, limit: int | None) -> list[dict[str, Array]]:
    """The samples of --data, or one of normal values when there is none."""
    from npukit.calibration import open_data

    if data is not None:
        return list(open_data(data, session.program.graph, limit=limit))
    import numpy as np

    from npukit.graph import sample_shape

    rng = np.random.default_rng(0)
    feeds: dict[str, Any] = {}
    for tensor in session.inputs:
        shape = sample_shape(session.program.graph, tensor.name)
        if shape is None:
            raise DataError(f"input '{tensor.name}' has no fixed shape to make a sample of", hint="give --data")
        feeds[tensor.name] = (rng.standard_normal(shape) if tensor.is_float else np.zeros(shape)).astype(tensor.dtype)
    return [feeds]


def _measure(session: Session, samples: Sequence[dict[str, Array]], runs: int, console: Console) -> list[float]:
    """Milliseconds of ``runs`` runs, the samples taking turns; a first run that loads and warms up is not counted."""
    from npukit.events import Event

    session.run(samples[0])
    times = []
    for index in range(runs):
        feeds = samples[index % len(samples)]
        start = time.perf_counter()
        session.run(feeds)
        times.append(1e3 * (time.perf_counter() - start))
        console.on_event(Event("bench", index + 1, runs))
    return times


def _measured_text(times: Sequence[float], label: str) -> str:
    what = "time on this machine, not on a device"
    return f"{label}: median {statistics.median(times):.2f} ms, min {min(times):.2f} ms of {len(times)} runs ({what})"


def _estimate_text(costs: Sequence[OpCost], whole_model: Speed | None, label: str, top: int) -> list[str]:
    """The table of the costliest ops and the total."""
    from npukit.backend import total
    from npukit.report import count, percent, size, table

    whole = total(costs)
    timed = whole.us is not None
    parts = [(c.us or 0.0) if timed else float(c.bit_ops or 0) for c in costs]
    ranked = sorted(zip(costs, parts, strict=True), key=lambda pair: -pair[1])[:top]
    rows = [
        (
            c.op,
            c.node,
            "?" if c.macs is None else count(c.macs) if c.macs else "-",
            c.operands or "-",
            size(c.bytes),
            "?" if c.fits is None else "yes" if c.fits else "no",
            size(c.ddr_bytes),
            "-" if c.us is None else f"{c.us:.3g}",
            percent(part / (sum(parts) or 1.0), 1),
        )
        for c, part in ranked
    ]
    share = "Share of us" if timed else "Share of bit ops"
    headers = ["Op", "Node", "MACs", "Operands", "Bytes", "Fits VTCM", "DDR", "Estimated us", share]
    least = f", {whole.unknown} ops not counted" if whole.unknown else ""
    if whole_model is not None:
        speed = (
            f"modelled, not measured: {whole_model.rate:,.0f} inferences/s, latency {1e3 * whole_model.latency:.3g} ms,"
            f" bound by {whole_model.bound}; {whole_model.setup}"
        )
    elif timed:
        speed = f"at least {whole.us:.3g} us by peak figures, vector work not counted"
    else:
        speed = "no time: no peak figures of this chip are public, or a shape is not known"
    return [
        "",
        f"estimate for {label}, the {len(rows)} costliest of {len(costs)} ops",
        "",
        table(headers, rows),
        f"total: {count(whole.macs)} MACs, {size(whole.ddr_bytes)} over DDR{least}; {speed}",
    ]
