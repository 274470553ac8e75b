"""The compiler's options that change the speed, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from npukit.errors import UsageError


@attrs.frozen
class Plan:
    """The options by the names of qaic.Session's keywords, in the form that the model uses.

    ``mos`` is the number of cores that the weights of an activation are split over; each group of so many cores has a copy.
    ``depth_first_bytes`` is 0 without depth-first order, None for the card's default.
    """

    cores: int = 1
    activations: int = 1
    set_size: int = 10
    mos: int = 1
    ols: int = 1
    multicast: bool = False
    producer_dma: bool = False
    depth_first_bytes: float | None = 0
    vtcm_ratio: float = 1.0
    combine_inputs: bool = False
    combine_outputs: bool = False
    host_preproc: bool = False
    mxfp6: bool = False

    @property
    def copies(self) -> int:
        """How many groups of cores hold a copy of all weights."""
        return -(-self.cores // self.mos)


def read_plan(settings: Mapping[str, Any], total: int) -> Plan:
    """The plan that ``settings`` ask for on a card of ``total`` cores; an absent one, or None, has the default of qaic.Session.

    Without ``mos`` the weights are split over all cores, or over those of one cluster with ``sdp_cluster_sizes``. Of several values
    of ``mos`` the largest counts. Raises UsageError for values out of range, and for more cores than the card has.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    clusters = _numbers(given.get("sdp_cluster_sizes"))
    cores = _count(given, "aic_num_cores", 1)
    activations = _count(given, "num_activations", 1)
    if cores * activations > total:
        hint = "lower aic_num_cores or num_activations"
        raise UsageError(f"{activations} activations of {cores} cores need {cores * activations}, the card has {total}", hint=hint)
    if sum(clusters) > cores:
        raise UsageError(f"sdp_cluster_sizes {list(clusters)} need {sum(clusters)} cores, aic_num_cores is {cores}")
    mos = max(_numbers(given.get("mos")), default=max(clusters, default=cores))
    if not 1 <= mos <= cores:
        raise UsageError(f"mos splits over 1 to {cores} cores (aic_num_cores), found {mos}")
    ratio = float(given.get("vtcm_working_set_limit_ratio", 1.0))
    if not 0 <= ratio <= 1:
        raise UsageError(f"vtcm_working_set_limit_ratio lies in 0 to 1, found {ratio:g}")
    if given.get("host_preproc") and given.get("aic_preproc"):
        raise UsageError("host_preproc and aic_preproc exclude one another", hint="give one of them")
    return Plan(
        cores,
        activations,
        _count(given, "set_size", 10),
        mos,
        _count(given, "ols", 1),
        bool(given.get("multicast_weights")),
        bool(given.get("use_producer_dma")),
        _depth_first(given),
        ratio,
        bool(given.get("combine_inputs")),
        bool(given.get("combine_outputs")),
        bool(given.get("host_preproc")),
        bool(given.get("mxfp6_matmul")),
    )


def _count(given: Mapping[str, Any], name: str, default: int) -> int:
    value = int(given.get(name, default))
    if value < 1:
        raise UsageError(f"{name} is 1 or more, found {value}")
    return value


def _numbers(value: Any) -> tuple[int, ...]:
    """One number, a list of them, or "7,7"."""
    if value is None:
        return ()
    parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value
    return tuple(int(part) for part in parts)


def _depth_first(given: Mapping[str, Any]) -> float | None:
    if not given.get("aic_enable_depth_first"):
        return 0
    size = given.get("aic_depth_first_mem")
    return None if size is None else float(size) * (1 << 20)
