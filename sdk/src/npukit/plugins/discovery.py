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

from npukit.errors import PluginError, UsageError, did_you_mean
from npukit.plugins import hookspecs
from npukit.plugins.known import KNOWN

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
    """The installed plugins (entry points of group "npukit"), those that npukit knows first, and those of the files, imported.

    A name that is there already is broken and stays unimported. Raises UsageError for a file that does not exist.
    """
    found: dict[str, Found] = {}
    twice: list[Found] = []
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=_rank):
        if entry.name in found:
            taken = PluginError(f"{found[entry.name].distribution} has a plugin called '{entry.name}'", hint="uninstall one")
            twice.append(Found(entry.name, _distribution(entry), cause=str(taken)))
        else:
            found[entry.name] = _imported(entry.name, _distribution(entry), entry.load)
    files = tuple(_from_file(path, found) for path in dict.fromkeys(Path(file) for file in plugin_files))
    return (*found.values(), *twice, *files)


def _rank(entry: importlib.metadata.EntryPoint) -> tuple[bool, str]:
    """The plugins that npukit knows come first, so that no other takes their names, nor those of their backends."""
    return KNOWN.get(entry.name) != f"pip install {_distribution(entry)}", entry.name


def _distribution(entry: importlib.metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist else ""


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


def register(manager: pluggy.PluginManager, plugin: Any, name: str | None = None) -> None:
    """Enter a plugin. Raises PluginError for a hook that does not exist, unless its mark says ``optionalhook``."""
    manager.register(plugin, name)
    for caller in manager.get_hookcallers(plugin) or ():
        if not caller.has_spec() and not all(hook.optionalhook for hook in caller.get_hookimpls()):
            known = [name for name, hook in vars(manager.hook).items() if hook.has_spec()]
            raise PluginError(f"there is no hook '{caller.name}'", hint=did_you_mean(caller.name, known))


def register_commands(plugin: Any, subparsers: argparse._SubParsersAction[Any]) -> None:
    """Let one plugin add its commands. Raises whatever the plugin raises."""
    alone = manager()
    register(alone, plugin)
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
