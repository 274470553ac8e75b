"""What quantization does to a model: comparison of backends, analysis by layer, remedies."""

from npukit.diagnosis.analyze import Analysis, LayerRow, analyze
from npukit.diagnosis.compare import Agreement, Comparison, TensorRow, compare
from npukit.diagnosis.remedies import Remedy
from npukit.diagnosis.statistics import TensorStats

__all__ = ["Agreement", "Analysis", "Comparison", "LayerRow", "Remedy", "TensorRow", "TensorStats", "analyze", "compare"]
