"""From a float model to a quantized package, and to a session."""

from npukit.quantization.legalize import Legalized, legalize
from npukit.quantization.optimize import Job, Judge, Optimizer
from npukit.quantization.pipeline import CheckResult, Options, Quantized, Report, check, convert, quantize, read_source
from npukit.quantization.session import open_session

__all__ = [
    "CheckResult",
    "Job",
    "Judge",
    "Legalized",
    "Optimizer",
    "Options",
    "Quantized",
    "Report",
    "check",
    "convert",
    "legalize",
    "open_session",
    "quantize",
    "read_source",
]
