"""From a float model to a quantized package: data, observers, the pipeline, and comparison of the results."""

from npukit.quantization._remedies import Remedy
from npukit.quantization._repair import Change
from npukit.quantization._statistics import TensorStats
from npukit.quantization.analyze import Analysis, LayerRow, analyze
from npukit.quantization.calibrate import calibrate
from npukit.quantization.compare import Comparison, TensorRow, compare, open_session
from npukit.quantization.data import Batches, Feeds, open_data
from npukit.quantization.legalize import Legalized, legalize
from npukit.quantization.observers import Range
from npukit.quantization.optimize import Job, Judge, Optimizer
from npukit.quantization.pipeline import CheckResult, Options, Quantized, Report, check, convert, quantize, read_source

__all__ = [
    "Analysis",
    "Batches",
    "Change",
    "CheckResult",
    "Comparison",
    "Feeds",
    "Job",
    "Judge",
    "LayerRow",
    "Legalized",
    "Optimizer",
    "Options",
    "Quantized",
    "Range",
    "Remedy",
    "Report",
    "TensorRow",
    "TensorStats",
    "analyze",
    "calibrate",
    "check",
    "compare",
    "convert",
    "legalize",
    "open_data",
    "open_session",
    "quantize",
    "read_source",
]
