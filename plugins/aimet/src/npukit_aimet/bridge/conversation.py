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
    command = [str(python), str(script), *arguments, "--tied"]
    with Child(command, folder, environ, log=folder / "worker.log", tied=True) as child:
        return _Conversation(child, python, limits, on_step).ready_after_work()


@attrs.define
class _Conversation:
    """What has been heard so far."""

    child: Child
    python: Path
    limits: Limits
    on_step: Callable[[Step], None]
    ready: Ready | None = None
    stray: str = ""
    begin: float = attrs.field(factory=time.monotonic)

    @property
    def deadline(self) -> float:
        patience = self.limits.start if self.ready is None else max(self.limits.total, self.limits.start)
        return self.begin + patience

    def ready_after_work(self) -> Ready:
        """Listen until the work is done; raise PluginError when it will not be."""
        try:
            while (line := self.child.line(self.deadline)) is not None:
                if self._take(line) and self.ready is not None:
                    return self.ready
            code = self.child.exit_code(self.deadline)
        except ExpiredError:
            raise _late(self.child, self.ready, self.python, self.limits) from None
        if self.ready is None:
            said = printable(self.stray)[:200] or self.child.tail() or "nothing"
            raise PluginError(f"{self.python} is no AIMET environment: it {ending(code)} and said: {said}", hint=SETUP_HINT)
        raise PluginError(f"AIMET {self.ready.version} {ending(code)}; the end of its log: {self.child.tail() or 'empty'}")

    def _take(self, line: str) -> bool:
        """Take in a line; whether it says that the work is done."""
        message = _message(line)
        if message is None:
            self.stray = line or self.stray
            return False
        try:
            step = _step(message) if message["kind"] == "progress" else None
            if message["kind"] == "ready":
                self.ready = _ready(message, self.python)
            if message["kind"] == "error":
                raise _failure(message, self.ready, self.python)
        except (KeyError, TypeError, ValueError):
            raise PluginError(f"{self.python} answered nonsense: {printable(line)[:200]}", hint=SETUP_HINT) from None
        if step is not None:
            self.on_step(step)
        return bool(message["kind"] == "done")


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
