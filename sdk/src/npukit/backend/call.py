"""What a kernel gets and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import attrs

from npukit.backend.value import Value
from npukit.encoding import Array, Encoding
from npukit.errors import ModelError
from npukit.graph import Node


@attrs.frozen(eq=False)
class Accumulator:
    """Exact integers (in any numeric dtype that holds them) and the scale, broadcastable, that makes them real."""

    values: Array
    scale: Array


@attrs.frozen(eq=False)
class Call:
    """What a kernel gets: the node, its input values (None for an absent one), and the encoding wanted for each output.

    ``memo`` is kept per node between runs: put prepared constants there. ``type`` is what the node computes in: "int", "float16" or
    "float32". A float island gets real values, rounded to its type, and is asked for real values.
    """

    node: Node
    inputs: tuple[Value | None, ...]
    outputs: tuple[Encoding | None, ...]
    memo: dict[str, Any]
    type: str = "int"

    def value(self, index: int) -> Value:
        """Input ``index``, which must be present."""
        value = self.optional(index)
        if value is None:
            raise ModelError(f"node '{self.node.name}' ({self.node.op}) needs its input {index}")
        return value

    def optional(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """The memoized result of ``make``; use it only for what depends on constants alone."""
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]


Result: TypeAlias = "Accumulator | Value | Array"
"""An Accumulator is requantized by the backend, a Value taken as it is, an array of real values rounded to the output grid."""


Kernel: TypeAlias = Callable[[Call], Sequence[Result]]
