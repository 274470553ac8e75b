"""The door to the vendor's module names: found behind all others, so that a real qaic is never hidden.

Every start of Python imports this module (npukit_aic.pth), so it imports next to nothing itself.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

NAMES = ("qaic", "qaicrt", "QAicApi_pb2")
"""The top-level modules that stand in for the vendor's."""
SHIMS = str(Path(__file__).parent / "shims")


class Door:
    """Finds the stand-ins in ``SHIMS``, when no finder before it has found such a module."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [SHIMS]) if name in NAMES else None


def open_door() -> None:
    """Put the door behind all finders, once; before them in a process of ``npukit aic-run``, where the emulator is wanted."""
    if Door in sys.meta_path:
        return
    root = os.environ.get("NPUKIT_AIC_ROOT")
    if root is None:
        sys.meta_path.append(Door)
    else:
        from npukit_aic.redirect import install

        sys.meta_path.insert(0, Door)
        install(root)
