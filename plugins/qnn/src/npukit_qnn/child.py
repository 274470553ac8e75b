"""The parent's side of the child process: start it, ask it, and say in plain words what went wrong."""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import select
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping
from typing import IO, Any

from npukit.encoding import Array
from npukit.errors import ModelError, PluginError
from npukit_qnn._worker import receive, send

PACKAGE = "onnxruntime_qnn"
INSTALL = 'pip install "onnxruntime-qnn>=2.7" (wheels for Linux x86-64 and Windows; the vendor\'s licence applies)'
_TIMEOUT = 1800.0


class QnnRuntimeError(ModelError):
    """The vendor's runtime refused or failed; ``log`` is what it wrote meanwhile."""

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = log


class Child:
    """A child process that serves one chip. Raises PluginError when the vendor's package or platform is missing.

    It answers one thread at a time; ``lock`` keeps a request and the reading of its log together.
    """

    def __init__(self) -> None:
        require_runtime()
        self.lock = threading.RLock()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the child
        command = [sys.executable, "-m", "npukit_qnn._worker"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)
        self._stop = weakref.finalize(self, _stop, self._process, self._log)

    def ask(self, request: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> tuple[dict[str, Any], dict[str, Array]]:
        """Send a request and wait for its answer.

        Raises QnnRuntimeError when the vendor's runtime reports an error, PluginError when the child crashes or hangs.
        """
        with self.lock:
            mark = self._log.seek(0, 2)
            received = self._exchange(request, arrays)
            if received is None:
                raise PluginError(f"the vendor's runtime crashed (exit code {self._process.wait(10)}): {self._tail(mark)}")
            answer, found = received
            if "error" in answer:
                if answer["kind"] in ("ImportError", "ModuleNotFoundError"):
                    raise PluginError(f"the vendor's runtime does not load: {answer['error']}", hint=INSTALL)
                raise QnnRuntimeError(answer["error"], self.log(mark))
            return answer | {"log_start": mark}, found

    def _exchange(
        self, request: Mapping[str, Any], arrays: Mapping[str, Array] | None
    ) -> tuple[dict[str, Any], dict[str, Array]] | None:
        """The answer, None when the child has ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # both are pipes
        assert stdout is not None
        try:
            send(stdin, dict(request), arrays)
            if not select.select([stdout], [], [], _TIMEOUT)[0]:
                self.close()
                raise PluginError(f"the vendor's runtime has not answered for {_TIMEOUT:.0f} s and was stopped")
            return receive(stdout)
        except (BrokenPipeError, ValueError, EOFError):
            return None

    def log(self, start: int) -> str:
        """What the child wrote from a mark on."""
        with self.lock:
            self._log.seek(start)
            return self._log.read().decode("utf-8", "replace")

    @property
    def closed(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def _tail(self, start: int) -> str:
        lines = [line for line in self.log(start).splitlines() if line.strip()]
        return lines[-1][-300:] if lines else "it wrote nothing"

    def close(self) -> None:
        """Stop the child; this also happens when the object is collected or the program ends."""
        self._stop()


def _stop(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):  # a request it never read may still be buffered
                stream.close()
    log.close()


def is_installed() -> bool:
    """Whether the vendor's package is there; it is not imported."""
    return importlib.util.find_spec(PACKAGE) is not None


def require_runtime() -> None:
    """Raise PluginError with what to install when the vendor's package is not there."""
    if not is_installed():
        place = f"{platform.system()} {platform.machine()}"
        raise PluginError(f"the package onnxruntime-qnn is not installed (this is {place})", hint=INSTALL)
