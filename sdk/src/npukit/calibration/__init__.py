"""What a float model does on data: samples, observers, ranges."""

from npukit.calibration.calibrate import calibrate
from npukit.calibration.data import Batches, Feeds, open_data
from npukit.calibration.observers import Range

__all__ = ["Batches", "Feeds", "Range", "calibrate", "open_data"]
