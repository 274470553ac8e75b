"""Look at this installation: Python, libraries, plugins, temporary folder. Exit code 2 when something needed is missing."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from npukit.cli.console import Console
from npukit.cli.options import whole_registry

if TYPE_CHECKING:
    from npukit.plugins import Registry

SUMMARY = "is this installation in order?"

_NEEDED = ("numpy", "onnx", "pluggy", "attrs", "pyyaml")
_OPTIONAL = {"onnxruntime": 'pip install "npukit[ort]"', "joblib": 'pip install "npukit[sweep]"'}


def configure(parser: argparse.ArgumentParser) -> None:
    """No flags of its own."""


def run(args: argparse.Namespace, console: Console) -> int:
    rows = [("python", "ok", platform.python_version(), sys.executable)]
    rows += [_library(name, "needed: pip install --force-reinstall npukit") for name in _NEEDED]
    rows += [_library(name, hint) for name, hint in _OPTIONAL.items()]
    rows.append(_temporary())
    if all(row[1] == "ok" for row in rows[1 : 1 + len(_NEEDED)]):
        rows += _plugins(whole_registry(args))
    broken = [name for name, state, _, _ in rows if state == "missing" and name in _NEEDED] + [
        r[0] for r in rows if r[1] == "broken"
    ]
    width = max(len(row[0]) for row in rows)
    text = "\n".join(f"{name:<{width}}  {state:<8} {what:<10} {why}".rstrip() for name, state, what, why in rows)
    verdict = f"to mend: {', '.join(broken)}" if broken else "everything needed is here"
    keys = ("name", "state", "version", "detail")
    console.emit(f"{text}\n{verdict}", {"checks": [dict(zip(keys, row, strict=True)) for row in rows], "broken": broken})
    return 2 if broken else 0


def _library(name: str, hint: str) -> tuple[str, str, str, str]:
    try:
        return name, "ok", version(name), ""
    except PackageNotFoundError:
        return name, "missing", "-", hint


def _temporary() -> tuple[str, str, str, str]:
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
        return "temporary files", "ok", "-", tempfile.gettempdir()
    except OSError as error:
        return "temporary files", "broken", "-", str(error)


def _plugins(registry: Registry) -> list[tuple[str, str, str, str]]:
    """The plugins that were found, then the known ones that were not."""
    from npukit.plugins import KNOWN

    statuses = registry.statuses()
    rows = [(f"plugin {s.name}", s.state, s.distribution, s.cause or _names(s.backends)) for s in statuses]
    found = {s.name for s in statuses}
    return rows + [(f"plugin {name}", "missing", "-", hint) for name, hint in KNOWN.items() if name not in found]


def _names(backends: tuple[object, ...]) -> str:
    return "backends: " + ", ".join(str(getattr(b, "name", "?")) for b in backends) if backends else ""
