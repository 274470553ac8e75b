"""Options: how to quantize."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from npukit.backend import Edge, Precision, Scheme
from npukit.calibration import Observer
from npukit.errors import UsageError, did_you_mean

COMPUTE_TYPES = ("int", "float16", "float32")


def _types(instance: object, attribute: Any, value: Mapping[str, str]) -> None:
    for node, dtype in value.items():
        if dtype not in COMPUTE_TYPES:
            raise UsageError(f"node '{node}' cannot compute in '{dtype}'", hint=did_you_mean(dtype, COMPUTE_TYPES))


def _ties(value: Mapping[str, str] | Iterable[Iterable[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((a, b) for a, b in (value.items() if isinstance(value, Mapping) else value))


def _float(instance: object, attribute: Any, value: str) -> None:
    if value not in ("", "float16", "float32"):
        raise UsageError(f"'{value}' is no type for tensors in float", hint="float16 or float32")


def _bindings(value: Iterable[Mapping[str, int]]) -> tuple[Mapping[str, int], ...]:
    return tuple(dict(binding) for binding in value)


@attrs.frozen
class Options:
    """How to quantize. Empty types, None and 0 mean: as the backend does by default.

    ``per_channel``: True, False, or the ops whose weights have one scale per channel. ``per_block`` and ``lpbq`` are sizes of
    blocks of inputs: weights of ops that have such a form get a float scale per block, or LPBQ grids (an integer 1..16 times a
    float scale per channel). UsageError for both, or with a ``per_channel`` that is False.

    ``calibration`` is an observer or the name of one: min-max, percentile, entropy, mse, sqnr, or one that a plugin brings;
    ``weight_calibration`` names one of npukit's own, which chooses the range of weights that have no blocks. ``scheme`` replaces
    fields of the backend's Scheme ({"weights": "asymmetric"}). ``bias`` is the type of biases where an op takes it (else int32).

    ``float_type`` stores what is left in float as float16 or float32, ``float_bias`` biases alone. ``keep_weights`` gives weights
    between float activations an integer grid where the op takes one. With ``islands`` a node with both integer and float
    activations computes in float, between a dequantize and a quantize, instead of being refused. ``float_fallback`` lets ops
    without a kernel run in float16; ``node_types`` says of nodes, by name or by a pattern of names ("layers.0.*"), what they
    compute in ("int", "float16", "float32"). ``edges`` are what callers hand over and get at graph inputs and outputs (all others:
    real values in the model's own types). ``ties`` are pairs of tensors that get one grid, by name or with wildcards
    ({"past_*": "new_*"}); an output tied to an input is what that input gets at the next step of a sequence. ``bindings`` keeps the
    model symbolic in the package, with these sizes of its symbols to run it with. ``strict`` raises when the result violates the
    backend's constraints; otherwise the violations are only listed. ``legalize`` first makes the smallest change of encodings that
    ends the violations.
    """

    activations: str = ""
    weights: str = ""
    bias: str = ""
    per_channel: bool | tuple[str, ...] | None = None
    per_block: int = 0
    lpbq: int = 0
    calibration: str | Observer = "min-max"
    weight_calibration: str = "min-max"
    percentile: float = 99.99
    scheme: Mapping[str, Any] = attrs.field(factory=dict)
    float_type: str = attrs.field(default="float32", validator=_float)
    float_bias: str = attrs.field(default="", validator=_float)
    keep_weights: bool = False
    islands: bool = False
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
        names = (
            *(
                "activations",
                "weights",
                "bias",
                "per_channel",
                "per_block",
                "lpbq",
                "calibration",
                "weight_calibration",
                "percentile",
            ),
            *("scheme", "float_type", "float_bias", "keep_weights", "ties"),
        )
        return tuple(name for name in names if getattr(self, name) != getattr(default, name))

    def grids(self, default: Scheme) -> Scheme:
        """``default`` with the fields that ``scheme`` names. Raises UsageError for a field that does not exist."""
        known = {field.name for field in attrs.fields(Scheme)}
        for name in self.scheme:
            if name not in known:
                raise UsageError(f"a scheme has no field '{name}'", hint=did_you_mean(name, known))
        return attrs.evolve(default, **self.scheme) if self.scheme else default

    def precision(self, default: Precision) -> Precision:
        """``default`` with the types that are asked for here."""
        if self.per_block or self.lpbq:
            default = attrs.evolve(default, per_block=self.per_block, lpbq=self.lpbq)
        return attrs.evolve(
            default,
            activations=self.activations or default.activations,
            weights=self.weights or default.weights,
            bias=self.bias or default.bias,
            keep_weights=self.keep_weights or default.keep_weights,
            per_channel=default.per_channel if self.per_channel is None else self.per_channel,
        )
