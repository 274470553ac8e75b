"""Encodings in files: AIMET JSON 0.6.1, 1.0.0 and 2.0.0, and Q/DQ nodes in an ONNX model."""

from npukit.encoding.formats.aimet import VERSIONS, Overrides, read_encodings, write_encodings
from npukit.encoding.formats.qdq import DEQUANTIZED, extract_qdq, insert_qdq

__all__ = ["DEQUANTIZED", "VERSIONS", "Overrides", "extract_qdq", "insert_qdq", "read_encodings", "write_encodings"]
