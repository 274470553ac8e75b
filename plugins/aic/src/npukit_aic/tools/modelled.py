"""The speed that the model of the card (npukit_aic.speed) gives a compiled model."""

from __future__ import annotations

from typing import Any

import npukit
from npukit.graph import bind
from npukit.package import Package
from npukit_aic.qpc import Qpc
from npukit_aic.speed import Estimate, Model, card_of, model_of, read_plan, solve

MILLI, MICRO = 1e3, 1e6
"""Milliseconds and microseconds of a second."""


def work_of(package: Package, shapes: int = 0) -> Model:
    """What a package, with the sizes of its specialization ``shapes``, asks of the card that it was compiled for."""
    graph = bind(package.graph, package.bindings[shapes]) if package.bindings else package.graph
    target = npukit.target("aic", soc=package.manifest.soc, settings=package.manifest.settings)
    types = {**target.types(graph, package.encodings), **package.types}
    return model_of(graph, package.encodings, types, package.edges)


def modelled(qpc: Qpc, *, shapes: int = 0, **options: Any) -> Estimate:
    """The speed of a QPC on the card that it was compiled for; ``options`` replace those that it was compiled with."""
    soc = npukit.target("aic", soc=qpc.package.manifest.soc).soc
    card = card_of(soc)
    return solve(work_of(qpc.package, shapes), card, read_plan({**qpc.options, **options}, card.cores))
