"""Plugins: the hooks they implement and the registry that finds them. Importing this loads pluggy and nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npukit.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from npukit.plugins.registry import KNOWN, PluginStatus, Registry

__all__ = ["KNOWN", "PluginStatus", "Registry", "hookimpl"]


def __getattr__(name: str) -> Any:
    # A plugin module imports hookimpl from here; the registry pulls in the backend room, and with it numpy.
    if name in ("KNOWN", "PluginStatus", "Registry"):
        from npukit.plugins import registry

        return getattr(registry, name)
    raise AttributeError(f"module 'npukit.plugins' has no attribute '{name}'")
