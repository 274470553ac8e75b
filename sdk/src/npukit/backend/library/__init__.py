"""Kernels of ONNX ops, and their fast forms, for backends to choose from.

They compute what the ops are defined to compute: exact integer sums, tables of correctly rounded functions, float32 between grids.
What a chip does in another way, it overrides.
"""

from npukit.backend.library.kernels import KERNELS
from npukit.backend.library.kernels.matmul import einsum, is_matmul, matmul
from npukit.backend.library.kernels.unary import erf
from npukit.backend.library.lower import REAL, lowerings_of
from npukit.backend.library.lower.sums import product
from npukit.backend.library.lower.tables import tabulated
from npukit.backend.library.requantize import Requantization, Requantizer, spread, wide

__all__ = [
    "KERNELS",
    "REAL",
    "Requantization",
    "Requantizer",
    "einsum",
    "erf",
    "is_matmul",
    "lowerings_of",
    "matmul",
    "product",
    "spread",
    "tabulated",
    "wide",
]
