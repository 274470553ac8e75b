"""What reading and writing ONNX share: type names, values in a model file, bytes of a tensor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from npukit.errors import ModelError
from npukit.graph.model import Array, Dim, Shape

STANDARD_DOMAINS = ("", "ai.onnx")


# Ops that ONNX Runtime has in the default domain and ONNX does not; its optimizer and its exporters for language models write them.
RUNTIME_OPS = frozenset({"SimplifiedLayerNormalization"})


def dtype_name(elem_type: int) -> str:
    """ "float32" for TensorProto.FLOAT, and so on: the ONNX name in lower case, sized."""
    name = str(TensorProto.DataType.Name(elem_type)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def elem_type(dtype: str) -> int:
    name = {"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper())
    return int(TensorProto.DataType.Value(name))


def type_of(value: onnx.ValueInfoProto) -> tuple[str, Shape | None]:
    kind = value.type.tensor_type
    dtype = dtype_name(kind.elem_type) if kind.elem_type else ""
    if not kind.HasField("shape"):
        return dtype, None
    return dtype, tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in kind.shape.dim)


def merged_shape(new: Shape | None, old: Shape | None) -> Shape | None:
    """The better known of two shapes of the same tensor, dimension by dimension."""
    if new is None or old is None or len(new) != len(old):
        return old if new is None else new

    def better(a: Dim, b: Dim) -> Dim:
        return a if isinstance(a, int) or b is None else b

    return tuple(better(a, b) for a, b in zip(new, old, strict=True))


def inline(proto: TensorProto) -> Array:
    """The values of a tensor that stands in the model itself; onnx would look for others relative to the working directory."""
    if external_data_helper.uses_external_data(proto):
        raise ModelError(f"tensor '{proto.name}' is in another file, which only initializers may be")
    if any(d < 0 for d in proto.dims):
        raise ModelError(f"tensor '{proto.name}' has the negative dimensions {list(proto.dims)}")
    return numpy_helper.to_array(proto)


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, TensorProto):
        return inline(value)
    if isinstance(value, (str, int, float)):
        return value
    return tuple(plain(v) for v in value)


def numpy_dtype(proto: TensorProto) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(proto.data_type))


def numpy_type(dtype: str) -> np.dtype[Any]:
    """The numpy dtype of a tensor's ``dtype``; bfloat16 and the like are those of ml_dtypes."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(elem_type(dtype)))


PACKED = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}
"""The bits of the types of which several values are in one byte."""


def byte_count(proto: TensorProto) -> int:
    count = math.prod(map(int, proto.dims))  # exact: a damaged file may claim any dimensions
    bits = PACKED.get(dtype_name(proto.data_type))
    return count * numpy_dtype(proto).itemsize if bits is None else -(-count * bits // 8)
