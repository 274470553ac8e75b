"""Progress events: what a long stage tells whoever listens (the command line draws a bar from them)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs


@attrs.frozen
class Event:
    """``done`` of ``total`` steps of a stage are finished; ``total`` is None when it is not known."""

    stage: str
    done: int
    total: int | None = None
    message: str = ""


OnEvent: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener that does nothing."""
