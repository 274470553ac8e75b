"""What quantization does to a model: comparison of backends, analysis by layer, remedies."""

from npukit.diagnosis.analyze import Analysis, LayerRow, analyze
from npukit.diagnosis.compare import Comparison, compare
from npukit.diagnosis.remedies import Remedy
from npukit.diagnosis.sqnr import Agreement, TensorRow, decibels_of, mean_sqnr, powers, total_powers
from npukit.diagnosis.statistics import TensorStats

__all__ = [
    "Agreement",
    "Analysis",
    "Comparison",
    "LayerRow",
    "Remedy",
    "TensorRow",
    "TensorStats",
    "analyze",
    "compare",
    "decibels_of",
    "mean_sqnr",
    "powers",
    "total_powers",
]
