"""The constants of the speed model, from data/speed.yaml."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs
import yaml

from npukit.backend import Soc
from npukit.errors import UsageError

BASES = ("documented", "fitted", "assumed")
_FILE = Path(__file__).parent.parent / "data" / "speed.yaml"


@attrs.frozen
class Constant:
    """One value, how well it is founded (one of BASES), and where it comes from or what it was derived from."""

    value: float = attrs.field(converter=float, validator=attrs.validators.gt(0))
    basis: str = attrs.field(validator=attrs.validators.in_(BASES))
    source: str = attrs.field(validator=attrs.validators.min_len(1))


@attrs.frozen
class Card:
    """A card in figures: operations, bytes and clocks per second, seconds, bytes. A multiply-accumulate counts as two operations.

    Rates are those of the whole card, but ``noc_bytes_per_s`` (one chip), lanes (one core and clock) and ``vtcm_bytes`` (one core).
    ``cards`` are joined to one, with ``between_bytes_per_s`` from one to another.
    """

    cores: int
    chips: int = attrs.field(converter=int)
    float16_ops_per_s: float
    int8_ops_per_s: float
    ddr_bytes_per_s: float
    link_bytes_per_s: float
    noc_bytes_per_s: float
    conv_efficiency: float
    matmul_efficiency: float
    ddr_efficiency: float
    int8_lanes: float
    int16_lanes: float
    float16_lanes: float
    float32_lanes: float
    clock_hz: float
    vtcm_bytes: float
    floor_s: float
    overhead_s: float
    transfer_s: float
    host_bytes_per_s: float
    depth_first_bytes: float
    mxfp6_bits: float
    cards: int = attrs.field(default=1, converter=int)
    between_bytes_per_s: float = math.inf

    def macs_per_s(self, precision: str, kind: str) -> float:
        """Multiply-accumulates per second of one core, for "int8", "int16", "float16" or "float32" and "conv" or "matmul".

        The tensor unit is assumed to take int16 at the rate of float16. float32 goes to the vector unit.
        """
        if precision == "float32":
            return self.vector_per_s(precision)
        peak = self.int8_ops_per_s if precision == "int8" else self.float16_ops_per_s
        efficiency = self.conv_efficiency if kind == "conv" else self.matmul_efficiency
        return efficiency * peak / 2 / self.cores

    def vector_per_s(self, precision: str) -> float:
        """Operations per second of the vector unit of one core."""
        return float(getattr(self, f"{precision}_lanes")) * self.clock_hz


@attrs.frozen
class Ops:
    """What ops cost on the vector unit: ``count`` operations per element by op (default 1), ``free`` ones, and pairs that are
    ``fused``."""

    count: Mapping[str, float]
    free: frozenset[str]
    fused: frozenset[tuple[str, str]]


@lru_cache(maxsize=1)
def _documents() -> dict[str, dict[str, Any]]:
    return {document["card"]: document for document in yaml.safe_load_all(_FILE.read_text(encoding="utf-8"))}


def constants(card: str) -> dict[str, Constant]:
    """All constants of a card by name. Raises UsageError for a card without any."""
    documents = _documents()
    if card not in documents or card == "every":
        known = ", ".join(name for name in documents if name != "every")
        raise UsageError(f"there are no speed constants of card '{card}'", hint=f"one of {known}")
    rows = {**documents["every"]["constants"], **documents[card]["constants"]}
    return {name: Constant(**row) for name, row in rows.items()}


@lru_cache(maxsize=8)
def _values(card: str) -> dict[str, float]:
    return {name: row.value for name, row in constants(card).items()}


def card_of(soc: Soc) -> Card:
    """The figures of a chip of this backend. Raises UsageError for one without constants."""
    return Card(cores=int(soc.features["cores"]), **_values(soc.name))


@lru_cache(maxsize=1)
def ops() -> Ops:
    """The tables of ops."""
    data = _documents()["every"]

    def counts() -> Iterator[tuple[str, float]]:
        for row in data["operations"]:
            yield from ((op, float(row["count"])) for op in row["ops"])

    return Ops(dict(counts()), frozenset(data["free"]), frozenset((first, second) for first, second in data["fused"]))
