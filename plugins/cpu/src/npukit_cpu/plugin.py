"""The entry point of the cpu backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npukit.plugins import hookimpl

if TYPE_CHECKING:
    from npukit.backend import Backend


@hookimpl
def register_backends() -> Backend:
    from npukit_cpu.backend import CpuBackend

    return CpuBackend()
