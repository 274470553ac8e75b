"""The lowerings: op type -> how ONNX Runtime computes what the kernel of the op defines."""

from __future__ import annotations

from collections.abc import Mapping

from npukit.backend import Lowering
from npukit.backend.library.lower.elementwise import ELEMENTWISE
from npukit.backend.library.lower.movement import MOVEMENT
from npukit.backend.library.lower.norm import NORM
from npukit.backend.library.lower.pool import POOL
from npukit.backend.library.lower.real import REAL
from npukit.backend.library.lower.sums import sums
from npukit.backend.library.lower.tables import TABLES
from npukit.backend.library.requantize import Requantizer


def lowerings_of(requantizer: Requantizer) -> Mapping[str, Lowering]:
    """Every op of the default ONNX domain that has a fast form, for one requantization; not every node of these ops has one."""
    return {**ELEMENTWISE, **MOVEMENT, **NORM, **POOL, **sums(requantizer), **TABLES}


__all__ = ["REAL", "lowerings_of"]
