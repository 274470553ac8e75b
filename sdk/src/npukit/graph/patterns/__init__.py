"""Functions that exporters write in many ways, recognised by their values."""

from npukit.graph.patterns.catalogue import PATTERNS, Pattern
from npukit.graph.patterns.fuse import fuse

__all__ = ["PATTERNS", "Pattern", "fuse"]
