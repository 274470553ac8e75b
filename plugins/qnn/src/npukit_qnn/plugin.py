"""The entry point of the qnn backend; the vendor's package is imported in a child process only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npukit.plugins import hookimpl

if TYPE_CHECKING:
    from npukit.backend import Backend


@hookimpl
def register_backends() -> Backend:
    """The one backend of this distribution."""
    from npukit_qnn.backend import QnnBackend

    return QnnBackend()
