"""Contexts, and what the host knows of its cards."""

# ruff: noqa: N802, N803, N815  the names are those of the API

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import attrs

from npukit.errors import UsageError
from npukit_aic import cards
from npukit_aic.crt.status import CallError, QDevStatus, QLogLevel, QStatus, status_and_value, status_only
from npukit_aic.crt.values import QIDList


class Context:
    """The cards that programs of it may run on: all, or those of ``ids``. Raises UsageError for an id that no card has."""

    def __init__(self, ids: Iterable[int] | None = None) -> None:
        known = cards.devices()
        self.devices = known if ids is None else tuple(ids)
        for device in self.devices:
            cards.info(device)
        self._level = QLogLevel.QL_WARN

    def setLogLevel(self, level: QLogLevel) -> QStatus:
        """QL_DEBUG writes to stderr where programs are activated; errors are written at every level."""
        self._level = QLogLevel(level)
        return QStatus.QS_SUCCESS

    def debug(self, text: str) -> None:
        """Write a line to stderr at the level QL_DEBUG."""
        if self._level == QLogLevel.QL_DEBUG:
            print(f"qaicrt: {text}", file=sys.stderr)

    def checked(self, device: int) -> int:
        """``device``. Raises UsageError when it is none of this context."""
        if device not in self.devices:
            raise UsageError(f"card {device} is not in the context", hint=f"it has {', '.join(map(str, self.devices))}")
        return device


@attrs.frozen
class QDevInfo:
    """A card."""

    qid: int
    devStatus: QDevStatus
    skuType: str


@attrs.frozen
class QResourceInfo:
    """Neural cores (NSP) of a card."""

    nspTotal: int
    nspFree: int


class Util:
    """Questions about this host."""

    def checkLibraryVersion(self) -> QStatus:
        """Library and driver always fit one another here."""
        return QStatus.QS_SUCCESS

    def getAicVersion(self) -> tuple[QStatus, int, int, int, str]:
        """Status, major, minor and patch of the emulator's version, and a variant that says what it is."""
        major, minor, patch = (int(part) for part in version("npukit-aic").split(".")[:3])
        return QStatus.QS_SUCCESS, major, minor, patch, "npukit-emulated"

    def getDeviceIds(self, deviceType: Any = None) -> tuple[QStatus, QIDList]:
        """The ids of all cards, which are of one type."""
        return QStatus.QS_SUCCESS, QIDList(cards.devices())

    @status_and_value
    def getDeviceInfo(self, device: int) -> QDevInfo:
        """Whether a card is ready, and which one it is."""
        return QDevInfo(device, QDevStatus.QDS_READY, cards.info(device).soc.name)

    @status_and_value
    def getResourceInfo(self, device: int) -> QResourceInfo:
        """How many neural cores a card has, and how many are free at this moment."""
        found = cards.info(device)
        return QResourceInfo(found.total, found.free)

    @status_and_value
    def getPerformanceInfo(self, device: int) -> None:
        """An emulated card has no clocks: QS_UNSUPPORTED."""
        raise CallError("an emulated card has no clocks to ask for", QStatus.QS_UNSUPPORTED)

    @status_only
    def lockDevice(self, device: int) -> None:
        """Nobody can be kept from an emulated card: QS_UNSUPPORTED."""
        raise CallError("an emulated card cannot be locked", QStatus.QS_UNSUPPORTED)
