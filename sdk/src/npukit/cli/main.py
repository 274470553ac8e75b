"""Run one command: find it, call it, and turn every exception into one line and an exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

from npukit.cli.console import MainConsole
from npukit.cli.parser import parse
from npukit.errors import NpukitError

_INTERRUPTED = 130
_BUG = 3
_ENVIRONMENT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``npukit`` with ``argv`` (default: the process arguments) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # What the flags ask for must hold for usage errors too, which come before there are parsed arguments.
    console = MainConsole(
        json="--json" in arguments,
        quiet=any(a in ("-q", "--quiet") for a in arguments),
        verbose=any(a in ("-v", "--verbose") for a in arguments),
    )
    try:
        args = parse(arguments, console.note)
        console.configure(json=args.json, quiet=args.quiet, verbose=args.verbose)
        code: int = args.run(args, console)
    except SystemExit as done:  # argparse, after --help and --version, or the command of a plugin
        code = _left_with(console, done)
    except KeyboardInterrupt:
        console.fail("interrupted")
        code = _INTERRUPTED
    except NpukitError as error:
        if console.verbose and error.__cause__ is not None:
            console.raw_error(traceback.format_exc())
        console.fail(error.message, hint=error.hint, code=error.code)
        code = error.exit_code
    except OSError as error:
        console.fail(_os_message(error), code="file")
        code = _ENVIRONMENT
    except MemoryError:
        console.fail("out of memory", hint="a smaller --batch or --limit needs less", code="memory")
        code = _ENVIRONMENT
    except Exception as error:
        code = _report_bug(console, error)
    return console.close(code)


def _left_with(console: MainConsole, done: SystemExit) -> int:
    """The exit code of ``sys.exit``: a message is an error, as Python itself has it."""
    if done.code is None or isinstance(done.code, int):
        return done.code or 0
    console.fail(str(done.code))
    return 1


def _os_message(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def _report_bug(console: MainConsole, error: Exception) -> int:
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else ""
    hint = "" if console.verbose else "this is a bug in npukit or in a plugin; run again with -v for the traceback"
    if console.verbose:
        console.raw_error(traceback.format_exc())
    console.fail(f"{type(error).__name__}: {first}", hint=hint, code="bug")
    return _BUG
