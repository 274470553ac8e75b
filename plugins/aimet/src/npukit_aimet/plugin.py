"""The entry point of group ``npukit``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npukit.plugins import hookimpl

if TYPE_CHECKING:
    from npukit.quantization import Optimizer


@hookimpl
def register_optimizers() -> list[Optimizer]:
    return []
