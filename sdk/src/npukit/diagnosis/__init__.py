"""What quantization does to a model: comparison of backends, at once or step by step, analysis by layer, remedies."""

from npukit.diagnosis.analyze import Analysis, analyze
from npukit.diagnosis.compare import Comparison, compare
from npukit.diagnosis.outputs import OutputsSqnr, outputs_sqnr
from npukit.diagnosis.raised import Raised, raise_sources
from npukit.diagnosis.remedies import Remedy
from npukit.diagnosis.sqnr import Agreement, TensorRow, decibels_of, mean_sqnr, powers, total_powers
from npukit.diagnosis.statistics import TensorStats
from npukit.diagnosis.steps import Generation, Step, compare_steps
from npukit.diagnosis.survey import LayerRow

__all__ = [
    "Agreement",
    "Analysis",
    "Comparison",
    "Generation",
    "LayerRow",
    "OutputsSqnr",
    "Raised",
    "Remedy",
    "Step",
    "TensorRow",
    "TensorStats",
    "analyze",
    "compare",
    "compare_steps",
    "decibels_of",
    "mean_sqnr",
    "outputs_sqnr",
    "powers",
    "raise_sources",
    "total_powers",
]
