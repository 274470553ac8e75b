"""A gate that lets some in at once, and can be closed."""

from __future__ import annotations

import threading


class Gate:
    """At most ``places`` are in between ``enter`` and ``leave``; others wait."""

    def __init__(self, places: int) -> None:
        self._free, self._places, self._closed = places, places, False
        self._changed = threading.Condition()

    def enter(self) -> bool:
        """Wait for a place; False when the gate is closed."""
        with self._changed:
            while not self._free and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            self._free -= 1
            return True

    def leave(self) -> None:
        """Give the place back."""
        with self._changed:
            self._free += 1
            self._changed.notify_all() if self._closed else self._changed.notify()

    def close(self) -> None:
        """Let nobody in any more, and wait until all have left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._free == self._places)
