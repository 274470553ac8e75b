"""Encodings: quantization grids and float types, and the arithmetic on them."""

from npukit.encoding._types import FLOAT_BITS, INT_BITS, Array, Encoding

__all__ = ["FLOAT_BITS", "INT_BITS", "Array", "Encoding"]
