"""Run a graph again where something changed: cut it, keep activations of samples in bounded memory, re-run only what follows."""

from npukit.replay.cutting import Piece, cut, downstream, following, frontier
from npukit.replay.pool import side_by_side
from npukit.replay.replay import Replay, Step
from npukit.replay.store import Rows, Store

__all__ = [
    "Piece",
    "Replay",
    "Rows",
    "Step",
    "Store",
    "cut",
    "downstream",
    "following",
    "frontier",
    "side_by_side",
]
