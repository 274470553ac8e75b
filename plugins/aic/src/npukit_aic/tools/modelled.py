"""The speed that the model of the card (npukit_aic.speed) gives a compiled model."""

from __future__ import annotations

from typing import Any

from npukit_aic.qpc import Qpc
from npukit_aic.speed import Estimate, estimate_package

MILLI, MICRO = 1e3, 1e6
"""Milliseconds and microseconds of a second."""


def modelled(qpc: Qpc, *, shapes: int = 0, **options: Any) -> Estimate:
    """The speed of a QPC on the card that it was compiled for; ``options`` replace those that it was compiled with."""
    return estimate_package(qpc.package, {**qpc.options, **options}, shapes)
