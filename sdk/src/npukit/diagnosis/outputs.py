"""The SQNR of a model's outputs on a backend: what is left of the model, without a look inside."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import attrs

from npukit.backend import Session, Target
from npukit.calibration import Batches
from npukit.diagnosis.layers import measured
from npukit.diagnosis.sqnr import Meter
from npukit.encoding import Array
from npukit.plugins import REFERENCE, Registry
from npukit.quantization import open_session


@attrs.frozen
class OutputsSqnr:
    """``sqnr`` of every output in dB (inf: no error), over ``samples`` samples."""

    sqnr: Mapping[str, float]
    samples: int


def outputs_sqnr(
    model: Any,
    reference: Any,
    target: Target,
    batches: Batches,
    *,
    kernels: str = "",
    strict: bool = True,
    most: int | None = None,
    seconds: float = float("inf"),
    registry: Registry | None = None,
) -> OutputsSqnr:
    """Run ``model`` on ``target`` and the float model ``reference`` beside it, and compare their outputs: of one that is not float,
    such as indices, the float tensors that it is made from.

    At most ``most`` samples are run, and no further one after ``seconds``. SQNR is that of ``npukit.diagnosis.sqnr``. Raises what
    ``open_session`` raises, DataError without samples and for outputs of other shapes or none.
    """
    with (
        open_session(model, target, kernels=kernels, strict=strict, registry=registry) as session,
        open_session(reference, REFERENCE, registry=registry) as exact,
    ):
        names = measured(session.program.graph)
        pairs = ((feeds, exact.run(feeds, names)) for feeds in islice(batches, most))
        return session_sqnr(session, pairs, seconds=seconds)


def session_sqnr(
    session: Session, samples: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]], *, seconds: float = float("inf")
) -> OutputsSqnr:
    """The same for an open session, and samples with what the float model makes of them: ``measured`` of the session's graph."""
    graph = session.program.graph
    names = measured(graph)
    meter, count, start = Meter(graph, names, ["it"], refuse=names), 0, time.monotonic()
    for feeds, wanted in samples:
        meter.see(wanted)
        meter.add("it", wanted, session.run(feeds, names))
        count += 1
        if time.monotonic() - start > seconds:
            break
    return OutputsSqnr({row.name: row.sqnr["it"] for row in meter.rows(graph)}, count)
