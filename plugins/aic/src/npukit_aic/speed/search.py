"""Every combination of options, by the speed model: what the vendor's configurator measures on a card, in moments."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from npukit.backend import Edge, Soc
from npukit.encoding import Encoding
from npukit.errors import UsageError
from npukit.graph import Graph, bind
from npukit_aic.speed.card import card_of
from npukit_aic.speed.estimate import Estimate, solve
from npukit_aic.speed.plan import read_plan
from npukit_aic.speed.work import Model, model_of

OBJECTIVES = ("throughput", "latency")
BATCH = "batch"
"""The name of the batch in a space; all other names are keywords of qaic.Session."""


@attrs.frozen(eq=False)
class Search:
    """``found``: options and estimates, the best first; ``refused``: options that a card or the model cannot have, and why."""

    found: tuple[tuple[Mapping[str, Any], Estimate], ...]
    refused: tuple[tuple[Mapping[str, Any], str], ...]


def search(
    graph: Graph,
    encodings: Mapping[str, Encoding],
    types: Mapping[str, str],
    soc: Soc,
    space: Mapping[str, Sequence[Any]],
    objective: str = "throughput",
    *,
    settings: Mapping[str, Any] | None = None,
    edges: Mapping[str, Edge] | None = None,
) -> Search:
    """All combinations in ``space`` (option -> values, and "batch" -> sizes), by the highest rate or the lowest latency.

    ``settings`` hold for all of them. Of equal ones that come first in the space stays first. The batch is the symbol in front of
    the shape of the first input; a model with a fixed one has no other. Raises UsageError for another objective and a chip without
    constants.
    """
    if objective not in OBJECTIVES:
        raise UsageError(f"there is no objective '{objective}'", hint=f"one of {', '.join(OBJECTIVES)}")
    card = card_of(soc)
    models: dict[int | None, Model | str] = {}
    found, refused = [], []
    for values in itertools.product(*space.values()):
        options = dict(zip(space, values, strict=True))
        batch = options.get(BATCH)
        if batch not in models:
            models[batch] = _model(graph, encodings, types, edges, batch)
        model = models[batch]
        try:
            plan = read_plan({**(settings or {}), **options}, card.cores)
        except UsageError as error:
            refused.append((options, error.message))
            continue
        if isinstance(model, str):
            refused.append((options, model))
        else:
            found.append((options, solve(model, card, plan)))
    found.sort(key=lambda pair: pair[1].latency if objective == "latency" else -pair[1].rate)
    return Search(tuple(found), tuple(refused))


def _model(
    graph: Graph,
    encodings: Mapping[str, Encoding],
    types: Mapping[str, str],
    edges: Mapping[str, Edge] | None,
    batch: int | None,
) -> Model | str:
    """The work with one batch, or why the graph cannot have it."""
    if batch is not None:
        shape = graph.tensor(graph.inputs[0]).shape if graph.inputs else None
        first = shape[0] if shape else None
        if isinstance(first, str):
            graph = bind(graph, {first: batch})
        elif first != batch:
            return f"the first input has a fixed batch of {first}" if shape else "the first input has no batch"
    return model_of(graph, encodings, types, edges)
