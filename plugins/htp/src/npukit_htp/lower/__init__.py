"""The lowerings: op type -> how ONNX Runtime computes what the kernel of the op defines."""

from __future__ import annotations

from collections.abc import Mapping

from npukit.backend import Lowering
from npukit_htp.lower.elementwise import ELEMENTWISE
from npukit_htp.lower.movement import MOVEMENT
from npukit_htp.lower.pool import POOL
from npukit_htp.lower.sums import SUMS
from npukit_htp.lower.tables import TABLES

LOWERINGS: Mapping[str, Lowering] = {**ELEMENTWISE, **MOVEMENT, **POOL, **SUMS, **TABLES}
"""Every op of the default ONNX domain that has a fast form; not every node of these ops has one."""

__all__ = ["LOWERINGS"]
