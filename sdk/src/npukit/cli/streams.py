"""Writing to stdout and stderr when their reader may have left."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from npukit.errors import UsageError


def write(stream: TextIO, text: str) -> None:
    """Write and flush. A reader that closed the pipe (``| head``) is no error: the stream is silent from then on.

    So is a full disk behind stderr, where nothing could be said of it. Raises UsageError when the result cannot be written.
    """
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        silence(stream)
    except OSError as error:
        silence(stream)
        if stream is not sys.stderr:
            raise UsageError(f"cannot write to stdout: {error.strerror}") from None
    except UnicodeEncodeError:
        write(stream, text.encode("ascii", "backslashreplace").decode())


def silence(stream: TextIO) -> None:
    """Point the stream at the null device, which also takes what the interpreter flushes when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
