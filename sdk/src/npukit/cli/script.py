"""Console scripts of plugins: how mistakes end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from npukit.errors import NpukitError, one_line

_ENVIRONMENT, _BUG, _INTERRUPTED = 2, 3, 130


def run_script(
    work: Callable[[], int],
    fail: Callable[[str], None],
    told: Callable[[NpukitError], int],
    *,
    bug: str = "a bug of npukit or of a plugin",
) -> int:
    """The exit code of ``work``: what it returns or leaves with, or what its errors stand for, each said on one line by ``fail``.

    ``told`` says an error of npukit and returns its exit code. Files and memory that the system refuses are 2, an interruption is
    130, and anything else is 3, with ``bug`` behind it. Whoever reads the output and goes ends the script without an error.
    """
    try:
        return work()
    except SystemExit as done:  # -h
        return int(done.code or 0)
    except NpukitError as error:
        return told(error)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0
    except OSError as error:
        fail(f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or one_line(error)}")
        return _ENVIRONMENT
    except MemoryError:
        fail("out of memory")
        return _ENVIRONMENT
    except KeyboardInterrupt:
        fail("interrupted")
        return _INTERRUPTED
    except Exception as error:
        fail(f"{type(error).__name__}: {one_line(error)} ({bug})")
        return _BUG
