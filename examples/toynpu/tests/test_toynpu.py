"""The Toy NPU keeps the contract of backends."""

from __future__ import annotations

from toynpu.backend import ToyNpu

from npukit.testing import BackendConformance


class TestToyNpu(BackendConformance):
    """All checks of the kit."""

    backend = ToyNpu()
