"""Where a command writes: the result to stdout, everything else to stderr."""

from __future__ import annotations

import json as json_module
import sys
from typing import TYPE_CHECKING, Any

from npukit.cli.progress import Progress
from npukit.cli.streams import write
from npukit.errors import UsageError

if TYPE_CHECKING:
    from npukit.events import Event


class Console:
    """The two streams of one command.

    ``emit`` prints the result once, as text or as JSON; ``note`` is a line for people, silent with ``-q``; ``on_event`` is the
    listener that long stages get. ``json``, ``quiet`` and ``verbose`` are the flags. A reader that closes the pipe early
    (``| head``) is no error, the exit code stays that of the command.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.json, self.quiet, self.verbose = json, quiet, verbose
        self._progress = Progress(sys.stderr, enabled=not quiet)

    def emit(self, text: str, data: Any) -> None:
        """Print the result: ``data`` with --json, else ``text``."""
        self._progress.clear()
        write(sys.stdout, (_dump(data) if self.json else text) + "\n")

    def note(self, text: str) -> None:
        """Print a line about what is going on."""
        if not self.quiet:
            self._progress.clear()
            write(sys.stderr, text + "\n")

    def on_event(self, event: Event) -> None:
        """Show the progress of a stage."""
        self._progress.show(event)


class MainConsole(Console):
    """The console as ``main`` has it, which learns the flags when they are parsed, reports errors, and ends."""

    def configure(self, *, json: bool, quiet: bool, verbose: bool) -> None:
        self.json, self.quiet, self.verbose = json, quiet, verbose
        self._progress = Progress(sys.stderr, enabled=not quiet)

    def raw_error(self, text: str) -> None:
        self._progress.clear()
        write(sys.stderr, text.rstrip("\n") + "\n")

    def fail(self, message: str, *, hint: str = "", code: str = "") -> None:
        """Print an error: one line, one more for the hint; with --json an object on stdout as well."""
        self.raw_error(f"error: {_one_line(message)}" + (f"\nhint: {_one_line(hint)}" if hint else ""))
        if self.json:
            write(sys.stdout, _dump({"error": {"code": code, "message": message, "hint": hint}}) + "\n")

    def close(self, code: int) -> int:
        """Finish the progress line, flush, and return ``code``, or that of the error when stdout cannot be written.

        A pipe that is closed by now is silenced for good.
        """
        self._progress.clear()
        try:
            write(sys.stdout, "")
        except UsageError as error:
            self.fail(error.message, code=error.code)
            code = error.exit_code
        write(sys.stderr, "")
        return code


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _dump(data: Any) -> str:
    """Strict JSON. Data that is plain already needs neither numpy nor attrs, so ``doctor`` works where they are missing."""
    try:
        return json_module.dumps(data, indent=2, allow_nan=False)
    except (TypeError, ValueError):
        from npukit.report import to_json

        return json_module.dumps(to_json(data), indent=2, allow_nan=False)
