"""A child process with a deadline: its lines as they come, its log, and nothing left of it afterwards."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from npukit.errors import PluginError

_LONGEST_LINE = 1 << 20
_POLL = 0.2
_GRACE = 5.0


class ExpiredError(Exception):
    """The deadline has passed."""


class Child:
    """A process in a group of its own; leaving the context ends the whole group.

    Standard error goes to the file ``log``; with ``merged`` standard output does too, besides being read line by line. The standard
    input of a ``tied`` process ends when this one does, however that may be.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        *,
        log: Path,
        merged: bool = False,
        tied: bool = False,
    ) -> None:
        self._log = log
        self._lines: queue.Queue[str | None] = queue.Queue()
        try:
            with open(log, "wb") as file:
                self._process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=dict(environ),
                    stdin=subprocess.PIPE if tied else subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT if merged else file,
                    start_new_session=True,
                )
        except OSError as error:
            raise PluginError(f"cannot start {command[0]}: {error.strerror or error}") from None
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout, merged), daemon=True)
        self._reader.start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            # The group may outlive its leader, so it is signalled even when the leader has ended.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
        self._reader.join(_GRACE)
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()

    def line(self, deadline: float) -> str | None:
        """The next line of standard output, None after the last one. Raises ExpiredError at ``deadline`` (of time.monotonic)."""
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                return self._lines.get(timeout=min(left, _POLL))
            # A grandchild may hold the pipe open for ever.
            if self._process.poll() is not None and self._lines.empty():
                return None
        raise ExpiredError

    def exit_code(self, deadline: float) -> int:
        """The exit code; minus the number of the signal that ended the process. Raises ExpiredError at ``deadline``."""
        try:
            return self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise ExpiredError from None

    def tail(self, count: int = 4) -> str:
        """The last lines of the log as one line."""
        return " | ".join(tail_of(self._log, count))

    def _read(self, stream: IO[bytes], merged: bool) -> None:
        with open(self._log, "ab") as log:
            while data := stream.readline(_LONGEST_LINE):
                if merged:
                    log.write(data)
                    log.flush()
                self._lines.put(data.decode("utf-8", "replace").rstrip())
        self._lines.put(None)


def tail_of(log: Path, count: int) -> list[str]:
    """The last ``count`` lines of a log that are not empty; a progress bar counts as its last state."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - (1 << 16)))
        text = file.read().decode("utf-8", "replace")
    lines = [line.rstrip("\r").rpartition("\r")[2].strip() for line in text.split("\n")]
    return [line[:300] for line in lines if line][-count:]


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code == -signal.SIGKILL:
        return "was killed by signal 9 (out of memory?)"
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
