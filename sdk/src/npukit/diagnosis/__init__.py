"""What quantization does to a model: comparison of backends, at once or step by step, analysis by layer, remedies."""

from npukit.diagnosis.analyze import Analysis, LayerRow, analyze
from npukit.diagnosis.compare import Comparison, compare
from npukit.diagnosis.remedies import Remedy
from npukit.diagnosis.sqnr import Agreement, TensorRow, decibels_of, mean_sqnr, powers, total_powers
from npukit.diagnosis.statistics import TensorStats
from npukit.diagnosis.steps import Generation, Step, compare_steps

__all__ = [
    "Agreement",
    "Analysis",
    "Comparison",
    "Generation",
    "LayerRow",
    "Remedy",
    "Step",
    "TensorRow",
    "TensorStats",
    "analyze",
    "compare",
    "compare_steps",
    "decibels_of",
    "mean_sqnr",
    "powers",
    "total_powers",
]
