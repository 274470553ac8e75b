"""Finding plugins: the one place that walks entry points and plugin files, for the registry and for the command line.

A plugin may raise anything when it is imported or called, SystemExit too. That is contained and kept with its name, so it stops
nobody else.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import attrs
import pluggy

from npukit.errors import PluginError, UsageError
from npukit.plugins import hookspecs

GROUP = "npukit"

_T = TypeVar("_T")


@attrs.frozen
class Found:
    """A discovered plugin. ``distribution`` is what brings it, or the path of its file; ``cause`` says why it is broken."""

    name: str
    distribution: str
    plugin: Any = None
    cause: str = ""


def discover(plugin_files: Iterable[str | Path] = ()) -> tuple[Found, ...]:
    """The installed plugins (entry points of group "npukit"), by name, and those of the files, imported.

    Raises UsageError for a file that does not exist.
    """
    found: dict[str, Found] = {}
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: e.name):
        if entry.name not in found:
            found[entry.name] = _imported(entry.name, entry.dist.name if entry.dist else "", entry.load)
    files = tuple(_from_file(path, found) for path in dict.fromkeys(Path(file) for file in plugin_files))
    return (*found.values(), *files)


def contained(call: Callable[[], _T]) -> tuple[_T | None, str]:
    """(what ``call`` returns, ""), or (None, the cause in one line) when it raises anything but KeyboardInterrupt."""
    try:
        return call(), ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return None, " ".join(f"{type(error).__name__}: {error}".split())


def manager() -> pluggy.PluginManager:
    """A manager that knows the hooks and no plugin."""
    made = pluggy.PluginManager(GROUP)
    made.add_hookspecs(hookspecs)
    return made


def register_commands(plugin: Any, subparsers: argparse._SubParsersAction[Any]) -> None:
    """Let one plugin add its commands. Raises whatever the plugin raises."""
    alone = manager()
    alone.register(plugin)
    alone.hook.register_commands(subparsers=subparsers)


def _imported(name: str, distribution: str, load: Callable[[], Any]) -> Found:
    plugin, cause = contained(load)
    return Found(name, distribution, plugin, cause)


def _from_file(path: Path, installed: dict[str, Found]) -> Found:
    if not path.is_file():
        raise UsageError(f"plugin file {path} does not exist")
    if path.stem in installed:
        taken = PluginError(f"an installed plugin is called '{path.stem}'", hint="rename the file")
        return Found(path.stem, str(path), cause=str(taken))
    return _imported(path.stem, str(path), lambda: _import_file(path))


def _import_file(path: Path) -> ModuleType:
    name = f"npukit_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses, attrs and pickle look for the module of a class
    spec.loader.exec_module(module)
    return module
