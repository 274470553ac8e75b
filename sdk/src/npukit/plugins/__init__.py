"""Plugins: the hooks they implement and the registry that finds them. Importing this loads pluggy and nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from npukit.plugins.hookspecs import hookimpl
from npukit.plugins.known import CAPABILITIES, DEFAULT_BACKEND, FLOAT_BACKEND, KNOWN, OPTIMIZERS, READERS, REFERENCE

if TYPE_CHECKING:
    from npukit.backend import Backend, Target
    from npukit.plugins.registry import PluginStatus, Registry

__all__ = [
    "CAPABILITIES",
    "DEFAULT_BACKEND",
    "FLOAT_BACKEND",
    "KNOWN",
    "OPTIMIZERS",
    "READERS",
    "REFERENCE",
    "PluginStatus",
    "Registry",
    "hookimpl",
    "target",
]


def target(
    selector: str | Backend = "",
    *,
    soc: str = "",
    soc_file: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
) -> Target:
    """The target that ``selector`` names: "htp", "htp:sm8750", or a Backend object; the default backend when it is "".

    ``soc`` is the same as the part behind the colon, ``soc_file`` a YAML file with chips of your own, ``settings`` those of the
    backend (``npukit backends NAME`` lists them). Raises UsageError with a did-you-mean for unknown names.
    """
    from npukit.plugins.registry import Registry

    found = registry or Registry.load()
    return found.target(selector, soc=soc, soc_file=soc_file, settings=settings)


def __getattr__(name: str) -> Any:
    # A plugin module imports hookimpl from here; the registry pulls in the backend room, and with it numpy.
    if name in ("PluginStatus", "Registry"):
        from npukit.plugins import registry

        return getattr(registry, name)
    raise AttributeError(f"module 'npukit.plugins' has no attribute '{name}'")
