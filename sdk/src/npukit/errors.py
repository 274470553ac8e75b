"""The exceptions of npukit.

::

    NpukitError                 everything npukit raises on purpose
    +-- ModelError              the model itself (exit code 1)
    |   +-- ConstraintError     the backend refuses the model or its encodings; .problems lists all of them
    |   +-- EncodingError       an encoding is impossible, contradictory or names no tensor
    +-- DataError               calibration or input data: empty, NaN, wrong name, shape or type (exit code 1)
    +-- UsageError              unknown backend, SoC, option, missing or unwritable file (exit code 2)
        +-- PackageError        a .dlc file is damaged, hostile or of another version
        +-- PluginError         a plugin is broken or a package it needs is absent

A message is one line that names the node and tensor, what was found and what is allowed. ``hint`` says what to do about it;
``code`` is a short stable identifier for scripts and for ``npukit explain CODE``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar


class NpukitError(Exception):
    """Base of all errors; ``exit_code`` is what the command line returns."""

    exit_code: ClassVar[int] = 1
    default_code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        self.message = printable(message)
        self.hint = printable(hint)
        super().__init__(self.message)
        self.code = code or self.default_code

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ModelError(NpukitError):
    """The model is damaged, unsupported or inconsistent."""

    default_code = "model"


class ConstraintError(ModelError):
    """The backend's op constraints are violated; ``problems`` holds every violation."""

    default_code = "constraint"

    def __init__(self, message: str, *, problems: Sequence[Any] = (), hint: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint, code=code)
        self.problems = tuple(problems)


class EncodingError(ModelError):
    """An encoding is impossible, contradictory, or belongs to no tensor."""

    default_code = "encoding"


class DataError(NpukitError):
    """Calibration or input data is empty, not finite, or does not fit the model."""

    default_code = "data"


class UsageError(NpukitError):
    """What was asked for does not exist here: a name, an option, a file, a package."""

    exit_code = 2
    default_code = "usage"


class PackageError(UsageError):
    """A .dlc file is damaged, hostile, incomplete or of an unknown version."""

    default_code = "package"


class PluginError(UsageError):
    """A plugin failed to import, or something it needs is not installed."""

    default_code = "plugin"


def printable(text: str) -> str:
    """``text`` with line breaks and control characters escaped: names come from files, and a message is one harmless line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def one_line(error: BaseException) -> str:
    """What an exception of somebody else's library says, on one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def counted(count: int, noun: str) -> str:
    """A count and its noun: "1 encoding", "2 encodings"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'x'?"`` for the closest known name, else the sorted list of known names (at most 12)."""
    names = sorted(map(str, known))  # keys of a YAML file may be anything
    lower = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), list(lower), n=5, cutoff=0.5)
    if close:
        # Among equally similar names the one that starts alike is the likelier: SM8751 means SM8750, not SM8975.
        best = max(close, key=lambda known: (_similarity(name.lower(), known), _shared_start(name.lower(), known)))
        return f"did you mean '{lower[best]}'?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"known: {shown}" if shown else "none are known"


def _similarity(a: str, b: str) -> float:
    return round(difflib.SequenceMatcher(None, a, b).ratio(), 2)


def _shared_start(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
