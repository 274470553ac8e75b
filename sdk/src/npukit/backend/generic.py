"""Rows for a backend that brings none: what quantization of ONNX means without any chip in mind."""

from __future__ import annotations

from npukit.backend.constraint import OpConstraint, Port
from npukit.encoding import FLOAT_BITS, GRID_PRESERVING, INT_BITS

_SOURCE = "ONNX operator definitions, https://onnx.ai/onnx/operators/"
_ANY = Port()
_WEIGHTS = (*(dtype for dtype, bits in INT_BITS.items() if bits <= 16), *FLOAT_BITS)
_WHOLE = {"tensor", "channel", "block", "lpbq"}


def _weighted(op: str, axis: int, attributes: dict[str, tuple[object, ...]] | None = None) -> OpConstraint:
    weight = Port(granularity=_WHOLE, axis=axis, dtypes=_WEIGHTS)
    bias = Port(dtypes=("int32", *FLOAT_BITS), granularity=_WHOLE, derived=True, optional=True)
    return OpConstraint(op, (_ANY, weight, bias), (_ANY,), source=_SOURCE, attributes=attributes or {})


_TIED = Port(same_as="in[0]")
# Ops with data inputs besides the first, such as the padding value: those have a grid of their own.
_MOVERS = sorted(GRID_PRESERVING - {"Dropout"})

GENERIC = (
    _weighted("Conv", 0),
    _weighted("ConvTranspose", 1),
    _weighted("Gemm", 0, {"transB": (1,)}),
    _weighted("Gemm", 1, {"transB": (0,)}),
    OpConstraint(
        "MatMul",
        (_ANY, Port(granularity=_WHOLE, axis=-1, constant=True, dtypes=_WEIGHTS)),
        (_ANY,),
        source=_SOURCE,
    ),
    OpConstraint("MatMul", (_ANY, _ANY), (_ANY,), source=_SOURCE),
    *(OpConstraint(op, (_ANY,), (_TIED,), source=_SOURCE, variadic=True) for op in _MOVERS),
)
