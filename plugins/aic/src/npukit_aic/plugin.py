"""Entry point of the plugin; imports nothing heavy until a hook is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npukit.plugins import hookimpl

if TYPE_CHECKING:
    import argparse

    from npukit.backend import Backend
    from npukit.calibration import Observer


@hookimpl
def register_backends() -> Backend:
    """The one backend of this distribution."""
    from npukit_aic.backend import AicBackend

    return AicBackend()


@hookimpl
def register_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    """``npukit aic-run``."""
    from npukit_aic import launcher

    summary = "run a script that was written for the vendor's card on the emulator"
    launcher.configure(subparsers.add_parser("aic-run", help=summary, description=launcher.__doc__))


@hookimpl
def register_observers() -> list[Observer]:
    """The compiler's calibrations."""
    from npukit_aic.observers import observers

    return observers()
