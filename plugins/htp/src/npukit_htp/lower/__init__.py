"""The lowerings: op type -> how ONNX Runtime computes what the kernel of the op defines."""

from __future__ import annotations

from collections.abc import Mapping

from npukit.backend import Lowering
from npukit_htp.lower.elementwise import ELEMENTWISE
from npukit_htp.lower.movement import MOVEMENT
from npukit_htp.lower.pool import POOL
from npukit_htp.lower.sums import sums
from npukit_htp.lower.tables import TABLES
from npukit_htp.requantize import Scheme


def lowerings_of(scheme: Scheme) -> Mapping[str, Lowering]:
    """Every op of the default ONNX domain that has a fast form, for one requantization; not every node of these ops has one."""
    return {**ELEMENTWISE, **MOVEMENT, **POOL, **sums(scheme), **TABLES}


__all__ = ["lowerings_of"]
