"""Statuses: what calls return where Python would raise."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from concurrent.futures import Future
from enum import IntEnum
from typing import Any, ParamSpec, TypeVar

from npukit.errors import NpukitError

_P = ParamSpec("_P")
_T = TypeVar("_T")


class QStatus(IntEnum):
    """How a call ended."""

    QS_SUCCESS = 0
    QS_ERROR = 1
    QS_INVAL = 2
    QS_NODEV = 3
    QS_AGAIN = 4
    QS_BUSY = 5
    QS_DEV_ERROR = 6
    QS_UNSUPPORTED = 7


class QLogLevel(IntEnum):
    """How much a context writes to stderr."""

    QL_DEBUG = 0
    QL_INFO = 1
    QL_WARN = 2
    QL_ERROR = 3


class QDevStatus(IntEnum):
    """The state of a card."""

    QDS_INITIALIZING = 0
    QDS_READY = 1
    QDS_ERROR = 2


class CallError(NpukitError):
    """A call that ends with ``status`` instead of QS_SUCCESS."""

    def __init__(self, message: str, status: QStatus = QStatus.QS_INVAL, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


def reported(error: NpukitError) -> QStatus:
    """The status of an error, whose text goes to stderr: a status cannot say it."""
    print(f"qaicrt: {error}", file=sys.stderr)
    return error.status if isinstance(error, CallError) else QStatus.QS_ERROR


def status_of(run: Future[Any]) -> QStatus:
    """How a run that has ended did. Raises what it raised when that is a defect, no refusal."""
    error = run.exception()
    if error is not None and not isinstance(error, NpukitError):
        raise error
    return QStatus.QS_SUCCESS if error is None else reported(error)


def status_only(call: Callable[_P, None]) -> Callable[_P, QStatus]:
    """A call that returns how it ended."""

    @functools.wraps(call)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> QStatus:
        try:
            call(*args, **kwargs)
        except NpukitError as error:
            return reported(error)
        return QStatus.QS_SUCCESS

    return wrapped


def status_and_value(call: Callable[_P, _T]) -> Callable[_P, tuple[QStatus, _T | None]]:
    """A call that returns how it ended and what it found, None for nothing."""

    @functools.wraps(call)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> tuple[QStatus, _T | None]:
        try:
            return QStatus.QS_SUCCESS, call(*args, **kwargs)
        except NpukitError as error:
            return reported(error), None

    return wrapped
