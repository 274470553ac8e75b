"""Encodings: quantization grids and float types, the arithmetic on them, and which tensors share one."""

from npukit.encoding.arithmetic import (
    MIN_RANGE,
    GridForm,
    container,
    dequantize,
    encoding_for_range,
    encoding_for_weights,
    fake_quantize,
    quantize,
    spread,
)
from npukit.encoding.codes import Codes, codes_of, has_original_weights, packed_pieces, packed_size, packs, part_of
from npukit.encoding.propagate import GRID_PRESERVING, propagate
from npukit.encoding.solve import Conflict, Fixed, Group, Shared, Solution, solve
from npukit.encoding.types import FLOAT_BITS, INT_BITS, Array, Encoding

__all__ = [
    "FLOAT_BITS",
    "GRID_PRESERVING",
    "INT_BITS",
    "MIN_RANGE",
    "Array",
    "Codes",
    "Conflict",
    "Encoding",
    "Fixed",
    "GridForm",
    "Group",
    "Shared",
    "Solution",
    "codes_of",
    "container",
    "dequantize",
    "encoding_for_range",
    "encoding_for_weights",
    "fake_quantize",
    "has_original_weights",
    "packed_pieces",
    "packed_size",
    "packs",
    "part_of",
    "propagate",
    "quantize",
    "solve",
    "spread",
]
