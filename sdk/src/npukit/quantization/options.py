"""Options: how to quantize."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from npukit.backend import Edge, Precision
from npukit.errors import UsageError, did_you_mean

COMPUTE_TYPES = ("int", "float16", "float32")


def _types(instance: object, attribute: Any, value: Mapping[str, str]) -> None:
    for node, dtype in value.items():
        if dtype not in COMPUTE_TYPES:
            raise UsageError(f"node '{node}' cannot compute in '{dtype}'", hint=did_you_mean(dtype, COMPUTE_TYPES))


def _ties(value: Mapping[str, str] | Iterable[Iterable[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((a, b) for a, b in (value.items() if isinstance(value, Mapping) else value))


def _bindings(value: Iterable[Mapping[str, int]]) -> tuple[Mapping[str, int], ...]:
    return tuple(dict(binding) for binding in value)


@attrs.frozen
class Options:
    """How to quantize. Empty types, None and 0 mean: as the backend does by default.

    ``per_block`` and ``lpbq`` are sizes of blocks of inputs: weights of ops that have such a form get a float scale per block, or
    LPBQ grids (an integer 1..16 times a float scale per channel). UsageError for both, or with a ``per_channel`` that is False.

    ``calibration`` names an observer: min-max, percentile, entropy, mse, sqnr, or one that a plugin brings. ``float_fallback`` lets
    ops without a kernel run in float16; ``node_types`` says of nodes, by name or by a pattern of names ("layers.0.*"), what they
    compute in ("int", "float16", "float32"). ``edges`` are what callers hand over and get at graph inputs and outputs (all others:
    real values in the model's own types). ``ties`` are pairs of tensors that get one grid, by name or with wildcards
    ({"past_*": "new_*"}); an output tied to an input is what that input gets at the next step of a sequence. ``bindings`` keeps the
    model symbolic in the package, with these sizes of its symbols to run it with. ``strict`` raises when the result violates the
    backend's constraints; otherwise the violations are only listed. ``legalize`` first makes the smallest change of encodings that
    ends the violations.
    """

    activations: str = ""
    weights: str = ""
    per_channel: bool | None = None
    per_block: int = 0
    lpbq: int = 0
    calibration: str = "min-max"
    percentile: float = 99.99
    float_fallback: bool = False
    strict: bool = True
    legalize: bool = False
    seed: int = 0
    limit: int | None = None
    node_types: Mapping[str, str] = attrs.field(factory=dict, validator=_types)
    edges: Mapping[str, Edge] = attrs.field(factory=dict)
    ties: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=_ties)
    bindings: tuple[Mapping[str, int], ...] = attrs.field(default=(), converter=_bindings)

    def __attrs_post_init__(self) -> None:
        if min(self.per_block, self.lpbq) < 0:
            raise UsageError(f"a block has 1 weight or more, found {min(self.per_block, self.lpbq)}")
        if (self.per_channel is False) + bool(self.per_block) + bool(self.lpbq) > 1:
            raise UsageError("weights have one scale, scales per block, or LPBQ grids: ask for one of them")

    def decisions(self) -> tuple[str, ...]:
        """The options that decide about encodings and are not left as they are by default."""
        default = Options()
        names = ("activations", "weights", "per_channel", "per_block", "lpbq", "calibration", "percentile", "ties")
        return tuple(name for name in names if getattr(self, name) != getattr(default, name))

    def precision(self, default: Precision) -> Precision:
        """``default`` with the types that are asked for here."""
        if self.per_block or self.lpbq:
            default = attrs.evolve(default, per_block=self.per_block, lpbq=self.lpbq)
        return attrs.evolve(
            default,
            activations=self.activations or default.activations,
            weights=self.weights or default.weights,
            per_channel=default.per_channel if self.per_channel is None else self.per_channel,
        )
