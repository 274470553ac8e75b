"""The files that a compiler's user writes: read, checked, and turned into plain values."""
