"""From a float model to a quantized package, and to a session."""

from npukit.quantization.calibrate import profile
from npukit.quantization.check import check
from npukit.quantization.convert import convert
from npukit.quantization.legalize import Legalized, legalize
from npukit.quantization.optimize import Job, Judge, Optimizer
from npukit.quantization.options import Options
from npukit.quantization.quantize import quantize
from npukit.quantization.request import Request, Source, freed, read_source, resolve
from npukit.quantization.result import CheckResult, Quantized, Report
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
    "Request",
    "Source",
    "check",
    "convert",
    "freed",
    "legalize",
    "open_session",
    "profile",
    "quantize",
    "read_source",
    "resolve",
]
