"""A small cache that threads share."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """The last ``size`` values that were asked for, by key; any number of threads may ask at once.

    A value is made once, while the others wait for it. One that falls out is dropped, not closed: a thread that still uses it goes
    on, and it is freed when nobody does.
    """

    def __init__(self, size: int = 4) -> None:
        self._size = size
        self._lock = Lock()
        self._values: dict[Hashable, V] = {}

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of ``key``, made by ``make`` when it is not among the last ones."""
        with self._lock:
            value = self._values.pop(key) if key in self._values else make()
            self._values[key] = value  # the newest is the last
            if len(self._values) > self._size:
                del self._values[next(iter(self._values))]
            return value

    def clear(self) -> None:
        """Drop all values."""
        with self._lock:
            self._values.clear()
