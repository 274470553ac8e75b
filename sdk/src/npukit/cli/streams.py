"""Writing to stdout and stderr when their reader may have left."""

from __future__ import annotations

import os
from typing import TextIO


def write(stream: TextIO, text: str) -> None:
    """Write and flush. A reader that closed the pipe (``| head``) is no error: the stream is silent from then on."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        silence(stream)
    except UnicodeEncodeError:
        write(stream, text.encode("ascii", "backslashreplace").decode())


def silence(stream: TextIO) -> None:
    """Point the stream at the null device, which also takes what the interpreter flushes when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
