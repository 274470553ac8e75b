"""Finding plugins and resolving ``--backend`` selectors. The registry is an object that is passed in, never a global."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pluggy

from npukit.backend import Backend, Soc, load_socs
from npukit.errors import PluginError, UsageError, did_you_mean
from npukit.events import Event
from npukit.graph import Graph
from npukit.plugins import hookspecs
from npukit.plugins.commands import GROUP

# Plugins that exist but may not be installed: what to type.
KNOWN = {name: f"pip install npukit-{name}" for name in ("aimet", "cpu", "htp", "qnn")}


@attrs.frozen
class PluginStatus:
    """One discovered plugin: ``state`` is "ok" or "broken", then ``cause`` says why."""

    name: str
    state: str
    cause: str = ""
    distribution: str = ""
    backends: tuple[Backend, ...] = ()
    optimizers: tuple[str, ...] = ()


class Registry:
    """The plugins of one run. A plugin that fails to import or to register is kept as broken and stops nobody else."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        self._statuses: list[PluginStatus] = []
        self._backends: dict[str, Backend] = {}
        self._optimizers: dict[tuple[str, str], Any] = {}

    @classmethod
    def load(cls, plugin_files: Sequence[str | Path] = ()) -> Registry:
        """The installed plugins (entry points of group "npukit") and the given plugin files."""
        registry = cls()
        for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: e.name):
            if not any(status.name == entry.name for status in registry._statuses):
                registry._add(entry.name, entry.load, entry.dist.name if entry.dist else "")
        for path in plugin_files:
            if not Path(path).is_file():
                raise UsageError(f"plugin file {path} does not exist")
            registry._add(Path(path).stem, lambda path=path: _import_file(Path(path)), str(path))
        return registry

    def add(self, name: str, plugin: Any) -> None:
        """Register a plugin object (a module or any object with hook implementations)."""
        self._add(name, lambda: plugin, "")

    def statuses(self) -> tuple[PluginStatus, ...]:
        return tuple(self._statuses)

    def backends(self) -> tuple[Backend, ...]:
        return tuple(self._backends.values())

    def optimizers(self) -> tuple[Any, ...]:
        """The optimizers of all plugins (``npukit.quantization.Optimizer``)."""
        return tuple(self._optimizers.values())

    def resolve(self, selector: str, *, soc: str = "", soc_file: str | os.PathLike[str] | None = None) -> tuple[Backend, Soc]:
        """The backend and SoC that "htp", "htp:sm8750" or "htp:v79" name.

        ``soc`` is the same as the part after the colon; ``soc_file`` adds the SoCs of a YAML file. Raises UsageError with a
        did-you-mean for unknown names and PluginError with the cause for a broken plugin.
        """
        name, _, inline = selector.partition(":")
        if inline and soc and inline.lower() != soc.lower():
            raise UsageError(f"two SoCs are named: '{inline}' in --backend and '{soc}'", hint="give one of them")
        backend = self._backend(name)
        wanted = inline or soc
        if soc_file is not None:
            extra = _read_socs(Path(soc_file))
            for row in extra:
                if not wanted or row.name.lower() == wanted.lower():
                    return backend, row
        return backend, backend.soc(wanted)

    def planner(self, backend: Backend) -> Backend:
        """The backend whose op constraints plan models for ``backend``: itself, or the one it names when that is installed."""
        return self._backends.get(backend.plans_as, backend)

    def load_model(self, source: Any) -> Graph | None:
        """The graph of a model that some plugin reads, or None."""
        graph: Graph | None = self._manager.hook.load_model(source=source)
        return graph

    def track(self, event: Event) -> None:
        self._manager.hook.track_event(event=event)

    def _backend(self, name: str) -> Backend:
        for known, backend in self._backends.items():
            if known.lower() == name.lower():
                return backend
        for status in self._statuses:
            if status.state == "broken" and status.name == name:
                raise PluginError(f"backend '{name}' is broken: {status.cause}", hint="npukit backends shows all of them")
        hint = KNOWN.get(name) or did_you_mean(name, self._backends)
        raise UsageError(f"there is no backend '{name}'", hint=hint, code="unknown-backend")

    def _add(self, name: str, load: Any, distribution: str) -> None:
        try:
            plugin = load()
            self._manager.register(plugin, name)
            backends, optimizers = self._registered(plugin)
        except Exception as error:  # whatever a plugin raises, the others must go on
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            self._statuses.append(PluginStatus(name, "broken", f"{type(error).__name__}: {error}", distribution))
            return
        self._backends |= {backend.name: backend for backend in backends}
        self._optimizers |= {(optimizer.name, optimizer.engine): optimizer for optimizer in optimizers}
        names = tuple(dict.fromkeys(optimizer.name for optimizer in optimizers))
        self._statuses.append(PluginStatus(name, "ok", "", distribution, backends, names))

    def _registered(self, plugin: Any) -> tuple[tuple[Backend, ...], tuple[Any, ...]]:
        backends = self._results("register_backends", plugin)
        for backend in backends:
            if not isinstance(backend, Backend):
                raise PluginError(f"register_backends returned {type(backend).__name__}, not a Backend")
            if backend.name in self._backends:
                raise PluginError(f"backend '{backend.name}' is already registered by another plugin")
        optimizers = self._results("register_optimizers", plugin)
        for optimizer in optimizers:
            if not all(hasattr(optimizer, part) for part in ("name", "engine", "run")):
                raise PluginError(f"register_optimizers returned {type(optimizer).__name__}, not an Optimizer")
            if (optimizer.name, optimizer.engine) in self._optimizers:
                raise PluginError(f"optimizer '{optimizer.name}' is already registered by another plugin")
        return backends, optimizers

    def _results(self, hook: str, plugin: Any) -> tuple[Any, ...]:
        """What one plugin returns from a hook that registers objects."""
        others = [p for p in self._manager.get_plugins() if p is not plugin]
        found: list[Any] = []
        for result in self._manager.subset_hook_caller(hook, others)():
            found += result if isinstance(result, Iterable) else [result]
        return tuple(found)


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"npukit_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _read_socs(path: Path) -> tuple[Soc, ...]:
    try:
        return load_socs(path)
    except OSError as error:
        raise UsageError(f"cannot read SoC file {path}: {error.strerror}") from None
