"""Finding plugins and resolving ``--backend`` selectors. The registry is an object that is passed in, never a global."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from npukit.backend import Backend, Selection, Soc, Target, load_socs
from npukit.errors import NpukitError, PluginError, UsageError, did_you_mean, one_line
from npukit.events import Event
from npukit.graph import Graph
from npukit.plugins.discovery import Found, contained, discover, manager, register
from npukit.plugins.known import DEFAULT_BACKEND, KNOWN

_TRACEBACK = "on the command line -v shows the traceback"


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
        self._manager = manager()
        self._statuses: list[PluginStatus] = []
        self._backends: dict[str, Backend] = {}
        self._optimizers: dict[tuple[str, str], Any] = {}
        self._observers: list[Any] = []

    @classmethod
    def load(cls, plugin_files: Sequence[str | Path] = ()) -> Registry:
        """The installed plugins (entry points of group "npukit") and the given plugin files."""
        return cls.of(discover(plugin_files))

    @classmethod
    def of(cls, found: Iterable[Found]) -> Registry:
        """The plugins that were found already."""
        registry = cls()
        for one in found:
            registry._add(one)
        return registry

    def add(self, name: str, plugin: Any) -> None:
        """Register a plugin object (a module or any object with hook implementations)."""
        self._add(Found(name, "", plugin))

    def statuses(self) -> tuple[PluginStatus, ...]:
        return tuple(self._statuses)

    def backends(self) -> tuple[Backend, ...]:
        return tuple(self._backends.values())

    def optimizers(self) -> tuple[Any, ...]:
        """The optimizers of all plugins (``npukit.quantization.Optimizer``)."""
        return tuple(self._optimizers.values())

    def observers(self) -> tuple[Any, ...]:
        """The calibration methods of all plugins (``npukit.calibration.Observer``)."""
        return tuple(self._observers)

    def resolve(self, selector: str, *, soc: str = "", soc_file: str | os.PathLike[str] | None = None) -> tuple[Backend, Soc]:
        """The backend and SoC that "htp", "htp:sm8750" or "htp:v79" name.

        ``soc`` is the same as the part after the colon; ``soc_file`` adds the SoCs of a YAML file. Raises UsageError with a
        did-you-mean for unknown names and PluginError with the cause for a broken plugin.
        """
        name, _, inline = selector.partition(":")
        if inline and soc and inline.lower() != soc.lower():
            raise UsageError(f"two SoCs are named: '{inline}' in --backend and '{soc}'", hint="give one of them")
        backend = self._backend(name)
        return backend, _soc(backend, inline or soc, soc_file)

    def target(
        self,
        selector: str | Backend | Target = "",
        *,
        soc: str = "",
        soc_file: str | os.PathLike[str] | None = None,
        settings: Mapping[str, Any] | None = None,
        made_for: Selection | None = None,
        default: str = DEFAULT_BACKEND,
    ) -> Target:
        """The target that a selector, a backend or a target names: the one place where this is decided.

        Without a selector it is that of ``made_for``, what a package was made for, else ``default``. A selector that names the
        backend of ``made_for`` and no SoC takes its SoC and settings along; ``settings`` win over those. Another backend that is
        planned by the same constraints (``plans_as``) takes the SoC along if it knows it. Raises what ``resolve`` raises, and
        UsageError for a setting that the backend does not have.
        """
        if isinstance(selector, Target):
            return selector
        given = dict(settings or {})
        past = made_for or Selection()
        name = (selector.name if isinstance(selector, Backend) else selector) or past.backend or default
        if not soc and past.backend and name.lower() == past.backend.lower():
            soc, given = past.soc, {**past.settings, **given}
        elif not soc and ":" not in name and self._shares_chips(name, past):
            soc = past.soc
        if isinstance(selector, Backend):
            backend, chip = selector, _soc(selector, soc, soc_file)
        else:
            backend, chip = self.resolve(name, soc=soc, soc_file=soc_file)
        return Target.of(backend, chip, self.planner(backend), given)

    def _shares_chips(self, name: str, past: Selection) -> bool:
        """Whether a backend and the one of a package are planned by the same constraints, and it knows the package's SoC."""
        found = [self._backends.get(n.lower()) for n in (name, past.backend)]
        if None in found:
            return False
        families = {b.plans_as or b.name for b in found if b is not None}
        known = {soc.name for soc in found[0].socs()} if found[0] is not None else set()
        return len(families) == 1 and past.soc in known

    def planner(self, backend: Backend) -> Backend:
        """The backend whose op constraints plan models for ``backend``: itself, or the one it names when that is installed."""
        return self._backends.get(backend.plans_as, backend)

    def load_model(
        self, source: Any, *, example: Any = None, symbols: Mapping[str, int] | None = None, batch: int | None = None
    ) -> Graph | None:
        """The graph of a model that some plugin reads, or None. Raises PluginError that names a plugin that fails."""
        graphs = self._ask("load_model", source=source, example=example, symbols=symbols or {}, batch=batch)
        return next((graph for graph in graphs if graph is not None), None)

    def track(self, event: Event) -> None:
        """Tell all plugins. Raises PluginError that names a plugin that fails."""
        for _ in self._ask("track_event", event=event):
            pass

    def _ask(self, hook: str, **arguments: Any) -> Iterator[Any]:
        """What the plugins return from a hook, one after another in pluggy's order."""
        for implementation in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            try:
                found = self._only(hook, implementation.plugin)(**arguments)
            except (NpukitError, KeyboardInterrupt, MemoryError):
                raise
            except BaseException as error:
                cause = f"{type(error).__name__}: {one_line(error)}"
                raise PluginError(f"plugin '{implementation.plugin_name}' fails in {hook}: {cause}", hint=_TRACEBACK) from error
            yield found

    def _backend(self, name: str) -> Backend:
        for known, backend in self._backends.items():
            if known.lower() == name.lower():
                return backend
        for status in self._statuses:
            if status.state == "broken" and status.name == name:
                raise PluginError(f"backend '{name}' is broken: {status.cause}", hint="npukit backends shows all of them")
        hint = KNOWN.get(name) or did_you_mean(name, self._backends)
        raise UsageError(f"there is no backend '{name}'", hint=hint, code="unknown-backend")

    def _add(self, found: Found) -> None:
        parts, cause = (None, found.cause) if found.cause else contained(lambda: self._register(found))
        if parts is None:
            self._statuses.append(PluginStatus(found.name, "broken", cause, found.distribution))
            return
        backends, optimizers, observers = parts
        self._backends |= {backend.name: backend for backend in backends}
        self._observers += observers
        self._optimizers |= {(optimizer.name, optimizer.engine): optimizer for optimizer in optimizers}
        names = tuple(dict.fromkeys(optimizer.name for optimizer in optimizers))
        self._statuses.append(PluginStatus(found.name, "ok", "", found.distribution, backends, names))

    def _register(self, found: Found) -> tuple[tuple[Backend, ...], tuple[Any, ...], tuple[Any, ...]]:
        """Enter a plugin and return what it registers; one that fails is taken out again."""
        try:
            register(self._manager, found.plugin, found.name)
            return self._registered(found.plugin)
        except BaseException:
            if self._manager.get_plugin(found.name) is found.plugin:
                self._manager.unregister(name=found.name)
            raise

    def _registered(self, plugin: Any) -> tuple[tuple[Backend, ...], tuple[Any, ...], tuple[Any, ...]]:
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
        observers = self._results("register_observers", plugin)
        for observer in observers:
            if not all(hasattr(observer, part) for part in ("name", "range")):
                raise PluginError(f"register_observers returned {type(observer).__name__}, not an Observer")
            if any(observer.name == other.name for other in self._observers):
                raise PluginError(f"observer '{observer.name}' is already registered by another plugin")
        return backends, optimizers, observers

    def _results(self, hook: str, plugin: Any) -> tuple[Any, ...]:
        """What one plugin returns from a hook that registers objects."""
        found: list[Any] = []
        for result in self._only(hook, plugin)():
            found += result if isinstance(result, Iterable) else [result]
        return tuple(found)

    def _only(self, hook: str, plugin: Any) -> Callable[..., Any]:
        """A hook as one plugin has it."""
        return self._manager.subset_hook_caller(hook, [p for p in self._manager.get_plugins() if p is not plugin])


def _soc(backend: Backend, name: str, soc_file: str | os.PathLike[str] | None) -> Soc:
    """The SoC called ``name``, of a file first; without a name the first one of the file, or the backend's default."""
    rows = load_socs(Path(soc_file)) if soc_file is not None else ()
    return next((row for row in rows if not name or row.name.lower() == name.lower()), None) or backend.soc(name)
