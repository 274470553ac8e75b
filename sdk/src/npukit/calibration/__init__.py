"""What a float model does on data: samples, profiles, and the observers that make ranges of them."""

from npukit.calibration.data import Batches, Feeds, open_data
from npukit.calibration.input_list import InputList, read_input_list
from npukit.calibration.observers import MIN_MAX, OBSERVERS, Observer, Range, Seen, all_observers, find_observer
from npukit.calibration.profile import LEFT_OUT, Profile, clipped, observe

__all__ = [
    "LEFT_OUT",
    "MIN_MAX",
    "OBSERVERS",
    "Batches",
    "Feeds",
    "InputList",
    "Observer",
    "Profile",
    "Range",
    "Seen",
    "all_observers",
    "clipped",
    "find_observer",
    "observe",
    "open_data",
    "read_input_list",
]
