"""A progress bar with an ETA on a terminal, one line per finished stage elsewhere."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, TextIO

from npukit.cli.streams import write

if TYPE_CHECKING:
    from npukit.events import Event

_INTERVAL = 0.1
_BAR = 24


class Progress:
    """Draws events. Redraws at most ten times a second, so that a fast stage is not slowed down by the terminal."""

    def __init__(self, stream: TextIO, *, enabled: bool) -> None:
        self._stream = stream
        self._enabled = enabled
        self._bar = enabled and stream.isatty()
        self._stage = ""
        self._start = 0.0
        self._drawn_at = 0.0
        self._width = 0

    def show(self, event: Event) -> None:
        """Take one event."""
        if not self._enabled:
            return
        now = time.monotonic()
        if event.stage != self._stage:
            self._stage, self._start, self._drawn_at = event.stage, now, 0.0
        finished = event.total is not None and event.done >= event.total
        if finished:
            self.clear()
            write(self._stream, _finished(event, now - self._start) + "\n")
            self._stage = ""
        elif self._bar and now - self._drawn_at >= _INTERVAL:
            self._drawn_at = now
            self._draw(line(event, now - self._start))

    def clear(self) -> None:
        """Take the bar off the screen."""
        if self._width:
            write(self._stream, "\r" + " " * self._width + "\r")
            self._width = 0

    def _draw(self, text: str) -> None:
        text = text[: shutil.get_terminal_size().columns - 1]
        write(self._stream, "\r" + text.ljust(self._width))
        self._width = len(text)


def line(event: Event, elapsed: float) -> str:
    """The line of an unfinished stage: bar, count and ETA when the total is known, else the count."""
    message = f"  {event.message}" if event.message else ""
    if not event.total:
        return f"{event.stage}: {event.done}{message}"
    filled = _BAR * event.done // event.total
    bar = "#" * filled + "." * (_BAR - filled)
    eta = f"  ETA {duration(elapsed / event.done * (event.total - event.done))}" if event.done else ""
    return f"{event.stage} [{bar}] {event.done}/{event.total}{eta}{message}"


def duration(seconds: float) -> str:
    """``"0.4 s"``, ``"12 s"``, ``"3:05"``, ``"1:02:03"``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _finished(event: Event, elapsed: float) -> str:
    message = f"  {event.message}" if event.message else ""
    return f"{event.stage}: {event.done}/{event.total} in {duration(elapsed)}{message}"
