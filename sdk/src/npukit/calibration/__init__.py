"""What a float model does on data: samples, profiles, and the observers that make ranges of them."""

from npukit.calibration.data import Batches, Feeds, open_data
from npukit.calibration.observers import OBSERVERS, Observer, Range, Seen, all_observers, find_observer
from npukit.calibration.profile import Profile, observe

__all__ = [
    "OBSERVERS",
    "Batches",
    "Feeds",
    "Observer",
    "Profile",
    "Range",
    "Seen",
    "all_observers",
    "find_observer",
    "observe",
    "open_data",
]
