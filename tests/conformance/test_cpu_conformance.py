"""The cpu backend keeps the contract of backends, on both of its SoCs."""

from __future__ import annotations

from npukit.testing import BackendConformance
from npukit_cpu.backend import CpuBackend


class TestCpuQdq(BackendConformance):
    """The Q/DQ simulation."""

    backend = CpuBackend()
    soc = "qdq"


class TestCpuFloat(BackendConformance):
    """The float model."""

    backend = CpuBackend()
    soc = "float32"
