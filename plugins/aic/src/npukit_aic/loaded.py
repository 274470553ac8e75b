"""A QPC that is loaded: what all faces (qaic.Session, qaicrt, qaic-runner) run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from npukit.encoding import Array
from npukit.quantization import open_session
from npukit_aic.qpc import Qpc


class Loaded:
    """A QPC ready to run; any number of threads may call ``run`` at once."""

    def __init__(self, qpc: Qpc) -> None:
        self.qpc = qpc
        self._session = open_session(qpc.package)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name, C-contiguous and fresh, for inputs in the shapes and dtypes of one specialization's bindings."""
        found = self._session.run(feeds, native=True)
        return {name: np.array(value, order="C") for name, value in found.items()}

    def overflow(self, feeds: Mapping[str, Array]) -> str:
        """The first node whose result is not finite for these inputs, in words; "" when there is none.

        Keeps all tensors meanwhile.
        """
        program = self._session.program
        graph = program.graph
        made = [n for node in graph.nodes for n in node.outputs if n in graph.consumers or n in graph.outputs]
        values = {**feeds, **self._session.run(feeds, made, native=True)}
        for node in graph.nodes:
            for name in node.outputs:
                if name in values and not is_finite(values[name], lowest=name in graph.before_softmax):
                    kind = program.type_of(node)
                    limit = " (largest value 65504)" if kind == "float16" else ""
                    largest = max((_largest(values[n]) for n in node.inputs if n in values), default=0.0)
                    found = "infinite values" if np.isinf(values[name]).any() else "NaN"
                    start = f"node '{node.name}' ({node.op}), computed in {kind}{limit}, gives {found} in '{name}'"
                    return f"{start}; its largest input is {largest:g}"
        return ""

    def close(self) -> None:
        """Free what the card holds."""
        self._session.close()


def is_finite(value: Array, *, lowest: bool = False) -> bool:
    """Whether an array has no NaN and nothing infinite, save -inf with ``lowest``."""
    return value.dtype.kind != "f" or bool(np.all(np.isfinite(value) | (np.isneginf(value) if lowest else False)))


def _largest(value: Array) -> float:
    return float(np.abs(value).max(initial=0)) if value.dtype.kind == "f" else 0.0
