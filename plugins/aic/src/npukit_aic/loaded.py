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
        return {name: np.ascontiguousarray(value) for name, value in found.items()}

    def close(self) -> None:
        """Free what the card holds."""
        self._session.close()
