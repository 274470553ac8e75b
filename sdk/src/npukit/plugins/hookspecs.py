"""The hooks a plugin may implement. Hooks register objects; the objects do the work.

A plugin is a module that an entry point of group ``npukit`` names::

    # pyproject.toml                                   # my_npu/plugin.py
    [project.entry-points.npukit]                      from npukit.plugins import hookimpl
    mynpu = "my_npu.plugin"
                                                       @hookimpl
                                                       def register_backends():
                                                           from my_npu.backend import MyNpu

                                                           return MyNpu()

Import heavy modules inside the hook, not at the top: every plugin module is imported when backends are looked up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from npukit.backend import Backend
    from npukit.events import Event
    from npukit.graph import Graph

hookspec = pluggy.HookspecMarker("npukit")
hookimpl = pluggy.HookimplMarker("npukit")


@hookspec
def register_backends() -> Backend | list[Backend] | None:
    """Return the backends this plugin brings."""


@hookspec
def register_optimizers() -> Any:
    """Return an ``npukit.quantization.Optimizer`` or a list of them, for ``--optimize``."""


@hookspec
def register_observers() -> Any:
    """Return an ``npukit.calibration.Observer`` or a list of them, for ``--calibration``."""


@hookspec
def register_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add commands to ``npukit``: ``subparsers.add_parser(NAME, help=...)`` with ``set_defaults(run=function)``.

    ``run(args, console)`` returns the exit code; ``npukit.commands`` has the console and the flags that commands share. The flags
    of every command (--json, --quiet ...) are added afterwards. A name that is taken is refused.
    """


@hookspec(firstresult=True)
def load_model(source: Any, example: Any, symbols: Mapping[str, int], batch: int | None) -> Graph | None:
    """Return the graph of a model that this plugin can read, a path or any object, or None; ONNX is read when nobody else wants it.

    ``example``: the inputs to trace a model with, a tuple or name -> input, or None. ``symbols`` and ``batch``: the sizes that
    symbolic dimensions of the graph are to have, and the first dimension of every input. Q/DQ nodes in the graph become encodings.
    An implementation may leave out arguments. Raise an error of ``npukit.errors`` for a file that is known and cannot be read.
    """


@hookspec
def track_event(event: Event) -> None:
    """Hear about the progress of long stages."""
