"""The commands that plugins add to ``npukit``. Apart from the registry, so that ``npukit --help`` imports nothing heavy."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
from typing import TypeVar

import pluggy

from npukit.plugins import hookspecs

GROUP = "npukit"

_Parser = TypeVar("_Parser", bound=argparse.ArgumentParser)


def add_commands(subparsers: argparse._SubParsersAction[_Parser]) -> None:
    """Let every installed plugin add its commands; one that cannot be imported is skipped (``npukit backends`` shows why)."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: e.name):
        with contextlib.suppress(Exception):  # whatever a plugin raises, the others must go on
            if not manager.has_plugin(entry.name):
                manager.register(entry.load(), entry.name)
    manager.hook.register_commands(subparsers=subparsers)
