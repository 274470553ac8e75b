"""Streams, progress and exit codes of the command line."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys

import pytest

from npukit.cli import explain, main
from npukit.cli.console import Console
from npukit.cli.progress import Progress, duration, line
from npukit.errors import DataError
from npukit.events import Event


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def raising(error: BaseException) -> object:
    """The run function of a command that fails."""

    def run(args: argparse.Namespace, console: Console) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("no samples", hint="add some"), 1, "error: no samples\nhint: add some\n"),
        (PermissionError(13, "Permission denied", "a.dlc"), 2, "error: a.dlc: Permission denied\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (RuntimeError("first\nsecond"), 3, "error: RuntimeError: first\n"),
    ],
)
def test_every_failure_is_one_line_and_a_code(
    error: BaseException, code: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Expected errors, the system's, Ctrl-C and bugs have their own exit codes, and none shows a traceback."""
    monkeypatch.setattr(explain, "run", raising(error))
    assert main(["explain"]) == code
    shown = capsys.readouterr()
    assert shown.err.startswith(text)
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_verbose_shows_the_traceback_of_a_bug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """-v shows where a bug is; without it there is a hint that says so."""
    monkeypatch.setattr(explain, "run", raising(RuntimeError("oops")))
    assert main(["explain", "-v"]) == 3
    assert "Traceback" in capsys.readouterr().err
    assert main(["explain"]) == 3
    assert "run again with -v" in capsys.readouterr().err


def test_errors_are_json_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json stdout is JSON also when the command, or its usage, fails."""
    for argv, code in ((["explain", "nonsens", "--json"], "usage"), (["chek", "--json"], "unknown-command")):
        assert main(argv) == 2
        assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    """NaN and infinities, which JSON has not, become null."""
    Console(json=True).emit("", {"sqnr": float("inf"), "mean": float("nan")})
    assert json.loads(capsys.readouterr().out) == {"sqnr": None, "mean": None}


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_pipe_changes_nothing(closed: str) -> None:
    """A reader that leaves early (``| head``) causes neither a message nor another exit code."""
    reader, writer = os.pipe()
    os.close(reader)
    other = "stderr" if closed == "stdout" else "stdout"
    code = (
        "import sys; from npukit.cli.console import MainConsole; from npukit.events import Event; c = MainConsole(); "
        "c.on_event(Event('calibrate', 1, 1)); c.note('n'); c.emit('result', {}); sys.exit(c.close(1))"
    )
    streams = {closed: writer, other: subprocess.PIPE}
    done = subprocess.run([sys.executable, "-c", code], **streams, text=True, timeout=60)  # type: ignore[call-overload]
    os.close(writer)
    assert done.returncode == 1
    assert "BrokenPipe" not in (getattr(done, other) or "")
    assert getattr(done, other)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
@pytest.mark.parametrize("argv", [["explain"], ["explain", "--json"], ["--help"], ["--version"]])
def test_a_full_disk_behind_stdout(argv: list[str]) -> None:
    """A result that cannot be written is one line and exit code 2, whoever prints it."""
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "npukit", *argv], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "error: cannot write to stdout: No space left on device\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_behind_stderr() -> None:
    """What cannot be said costs neither the result nor the exit code."""
    code = (
        "import sys; from npukit.cli.console import MainConsole; c = MainConsole(); "
        "c.note('n'); c.emit('y', {}); sys.exit(c.close(1))"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stderr=full, stdout=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "y\n")


def test_progress_off_a_terminal_is_one_line_per_stage() -> None:
    """A log file gets the end of each stage, not a bar."""
    stream = io.StringIO()
    progress = Progress(stream, enabled=True)
    for done in range(11):
        progress.show(Event("calibrate", done, 10))
    assert stream.getvalue().startswith("calibrate: 10/10 in ")
    assert stream.getvalue().count("\n") == 1
    assert "\r" not in stream.getvalue()


def test_progress_on_a_terminal_is_wiped() -> None:
    """The bar is overwritten with blanks before anything else is printed."""
    stream = Terminal()
    progress = Progress(stream, enabled=True)
    progress.show(Event("calibrate", 5, 10))
    progress.clear()
    _, bar, blanks, rest = stream.getvalue().split("\r")
    assert "5/10" in bar
    assert blanks == " " * len(bar)
    assert rest == ""


def test_quiet_shows_no_progress() -> None:
    """-q silences the stages."""
    stream = Terminal()
    Progress(stream, enabled=False).show(Event("calibrate", 10, 10))
    assert stream.getvalue() == ""


def test_eta_is_the_rest_at_the_pace_so_far() -> None:
    """2 of 8 steps in 30 s leave 90 s; without a total there is no ETA."""
    assert line(Event("calibrate", 2, 8), 30).endswith("2/8  ETA 1:30")
    assert line(Event("read", 3), 30) == "read: 3"


@pytest.mark.parametrize(("seconds", "text"), [(0.44, "0.4 s"), (12.3, "12 s"), (185, "3:05"), (3723, "1:02:03")])
def test_duration(seconds: float, text: str) -> None:
    """Durations are short and readable."""
    assert duration(seconds) == text
