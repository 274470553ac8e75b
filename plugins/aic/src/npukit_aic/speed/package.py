"""Estimates of compiled models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import npukit
from npukit.graph import Graph, bind
from npukit.package import Package
from npukit_aic.speed.card import card_of
from npukit_aic.speed.estimate import Estimate, solve
from npukit_aic.speed.partitions import estimate_partitions
from npukit_aic.speed.plan import read_plan
from npukit_aic.speed.work import Model, model_of


def model_of_package(package: Package, shapes: int = 0) -> Model:
    """What a package, with the sizes of its specialization ``shapes``, asks of a card."""
    return _model(package, _bound(package, shapes))


def _bound(package: Package, shapes: int) -> Graph:
    return bind(package.graph, package.bindings[shapes]) if package.bindings else package.graph


def _model(package: Package, graph: Graph) -> Model:
    """The work in a graph of the package, or in a part of it."""
    made = package.manifest
    planned = npukit.target("aic", soc=made.soc, settings=made.settings).types(graph, package.encodings)
    edges = {name: edge for name, edge in package.edges.items() if name in (*graph.inputs, *graph.outputs)}
    return model_of(graph, package.encodings, {**planned, **package.types}, edges)


def estimate_package(package: Package, settings: Mapping[str, Any], shapes: int = 0) -> Estimate:
    """How fast the card that a package was compiled for would run it, or the cards that it is split over.

    ``settings`` and errors are those of ``estimate``.
    """
    card = card_of(npukit.target("aic", soc=package.manifest.soc).soc)
    partitions = package.manifest.options.get("partitions")
    if partitions:
        return estimate_partitions(_bound(package, shapes), partial(_model, package), partitions, card, settings)
    return solve(model_of_package(package, shapes), card, read_plan(settings, card.cores))
