"""The smallest change of encodings that a backend accepts."""

from npukit.legalize.search import Change, repair

__all__ = ["Change", "repair"]
