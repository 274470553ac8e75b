"""Running worker.py in an AIMET environment and hearing what it says."""

from __future__ import annotations

import importlib.resources
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from npukit.errors import PluginError, printable
from npukit_aimet.bridge.environment import SETUP_HINT, clean, minimum, too_old
from npukit_aimet.bridge.process import Child, ExpiredError, ending


@attrs.frozen
class Limits:
    """Seconds that an environment may take to say that AIMET is there, and to finish."""

    start: float = 300.0
    total: float = 6 * 3600.0


@attrs.frozen
class Ready:
    """What an environment says of itself: the version of aimet_onnx, and the tasks that it has functions for."""

    version: str
    can: tuple[str, ...] = ()


@attrs.frozen
class Step:
    """``done`` of ``total`` layers are finished; ``message`` names the one in work."""

    done: int
    total: int
    message: str


def converse(
    python: Path, arguments: Sequence[str], folder: Path, limits: Limits, on_step: Callable[[Step], None] = lambda step: None
) -> Ready:
    """Run the worker with ``python`` in ``folder`` until it says that it is done.

    Raises PluginError, with the end of its log, when it fails, is killed, hangs, answers nonsense, or has no AIMET or one that is
    too old. No process is left behind in any case.
    """
    script = folder / "worker.py"
    script.write_bytes(importlib.resources.files(__package__).joinpath("worker.py").read_bytes())
    environ = clean(os.environ, TMPDIR=str(folder))
    with Child([str(python), str(script), *arguments, "--tied"], folder, environ, log=folder / "worker.log", tied=True) as child:
        return _listen(child, python, limits, on_step)


def _listen(child: Child, python: Path, limits: Limits, on_step: Callable[[Step], None]) -> Ready:
    begin = time.monotonic()
    deadline = begin + limits.start
    ready: Ready | None = None
    stray = ""
    try:
        while (line := child.line(deadline)) is not None:
            message = _message(line)
            if message is None:
                stray = line or stray
            elif message["kind"] == "ready":
                ready = _ready(message, python)
                deadline = begin + max(limits.total, limits.start)
            elif message["kind"] == "progress":
                on_step(_step(message))
            elif message["kind"] == "error":
                raise _failure(message, ready, python)
            elif message["kind"] == "done" and ready is not None:
                return ready
        code = child.exit_code(deadline)
    except ExpiredError:
        raise _late(child, ready, python, limits) from None
    except (KeyError, TypeError, ValueError):
        raise PluginError(f"{python} answered nonsense: {printable(line or '')[:200]}", hint=SETUP_HINT) from None
    if ready is None:
        said = printable(stray)[:200] or child.tail() or "nothing"
        raise PluginError(f"{python} is no AIMET environment: it {ending(code)} and said: {said}", hint=SETUP_HINT)
    raise PluginError(f"AIMET {ready.version} {ending(code)}; the end of its log: {child.tail() or 'empty'}")


def _message(line: str) -> dict[str, Any] | None:
    """A line as a message of the worker, or None when it is something else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("kind"), str) else None


def _ready(message: dict[str, Any], python: Path) -> Ready:
    ready = Ready(str(message["version"]), tuple(map(str, message["can"])))
    if too_old(ready.version):
        raise PluginError(f"{python} has aimet_onnx {ready.version}, the bridge needs {minimum()} or newer", hint=SETUP_HINT)
    return ready


def _step(message: dict[str, Any]) -> Step:
    return Step(int(message["done"]), int(message["total"]), printable(str(message["message"])))


def _failure(message: dict[str, Any], ready: Ready | None, python: Path) -> PluginError:
    text = " ".join(str(message["message"]).split())[:500]
    if ready is None:
        return PluginError(f"{python} cannot load AIMET: {text}", hint=SETUP_HINT)
    return PluginError(f"AIMET {ready.version} failed: {text}")


def _late(child: Child, ready: Ready | None, python: Path, limits: Limits) -> PluginError:
    end = f"; the end of its log: {tail}" if (tail := child.tail()) else ""
    if ready is None:
        return PluginError(f"{python} hangs: no word from AIMET within {limits.start:g} s{end}", hint=SETUP_HINT)
    hint = "a larger timeout, or fewer iterations or num_batches"
    return PluginError(f"AIMET {ready.version} was stopped after {limits.total:g} s, the time-out{end}", hint=hint)
