"""Estimates of compiled models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import npukit
from npukit.graph import bind
from npukit.package import Package
from npukit_aic.speed.card import card_of
from npukit_aic.speed.estimate import Estimate, solve
from npukit_aic.speed.plan import read_plan
from npukit_aic.speed.work import Model, model_of


def model_of_package(package: Package, shapes: int = 0) -> Model:
    """What a package, with the sizes of its specialization ``shapes``, asks of a card."""
    graph = bind(package.graph, package.bindings[shapes]) if package.bindings else package.graph
    made = package.manifest
    planned = npukit.target("aic", soc=made.soc, settings=made.settings).types(graph, package.encodings)
    return model_of(graph, package.encodings, {**planned, **package.types}, package.edges)


def estimate_package(package: Package, settings: Mapping[str, Any], shapes: int = 0) -> Estimate:
    """How fast the card that a package was compiled for would run it; ``settings`` and errors are those of ``estimate``."""
    card = card_of(npukit.target("aic", soc=package.manifest.soc).soc)
    return solve(model_of_package(package, shapes), card, read_plan(settings, card.cores))
