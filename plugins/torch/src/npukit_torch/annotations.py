"""The quantization that an exported program is annotated with, as Q/DQ nodes of ONNX.

torch.onnx knows these ops, but takes the type from the integers that hold the codes. PT2E means the type by ``quant_min`` and
``quant_max``: uint16 in int32, int4 in int8. Definition of the ops: torch/ao/quantization/fx/_decomposed.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import onnx_ir
import torch
import torch.ao.quantization.fx._decomposed  # registers the ops, which a program from a file may call
from onnxscript import opset21 as op

from npukit.errors import EncodingError
from npukit_torch.names import module_of

Translations: TypeAlias = Mapping[Callable[..., Any], Callable[..., Any]]

_NAMESPACE = "quantized_decomposed"
# The integer types of Q/DQ nodes in opset 21, by their least and greatest code. A signed type may leave its least code out, as
# symmetric grids do.
_TYPES = {(0, 2**bits - 1): f"uint{bits}" for bits in (4, 8, 16)}
_TYPES |= {(narrow - 2 ** (bits - 1), 2 ** (bits - 1) - 1): f"int{bits}" for bits in (4, 8, 16, 32) for narrow in (0, 1)}


def check_annotations(program: Any) -> None:
    """Raise EncodingError, with the module, for an op that stands for no grid of an integer type."""
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.name.startswith(f"{_NAMESPACE}::"):
            continue
        path = module_of(node)
        where = f"{f'module {path!r}' if path else 'the module'}, op '{node.name}'"
        if node.target not in TRANSLATIONS:
            known = ", ".join(sorted({str(target).split(".")[1] for target in TRANSLATIONS}))
            raise EncodingError(f"{where}: {node.target} stands for no fixed grid", hint=f"these do: {known}")
        given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
        low, high = given["quant_min"], given["quant_max"]
        if (low, high) not in _TYPES:
            types = ", ".join(dict.fromkeys(_TYPES.values()))
            raise EncodingError(
                f"{where}: no type has the codes {low} to {high}", hint=f"quant_min and quant_max are those of {types}"
            )


def _constant(value: Any, dtype: str) -> Any:
    """A scale, a zero point or codes in the type that ONNX wants, given as a number or as a tensor of the program."""
    kind = onnx_ir.DataType[dtype.upper()]
    if isinstance(value, (int, float)):
        return op.Constant(value=onnx_ir.tensor(value, dtype=kind))
    return value if value.dtype == kind else op.Cast(value, to=int(kind))


def _quantize(x: Any, scale: Any, zero: Any, low: int, high: int, **attributes: int) -> Any:
    return op.QuantizeLinear(x, _constant(scale, "float"), _constant(zero, _TYPES[low, high]), **attributes)


def _dequantize(codes: Any, scale: Any, zero: Any, low: int, high: int, **attributes: int) -> Any:
    dtype, maker = _TYPES[low, high], codes.producer()
    if maker is None or maker.op_type != "QuantizeLinear":  # a parameter: its codes are in a type that torch has
        codes = _constant(codes, dtype)
    zeros = () if zero is None or dtype == "int32" else (_constant(zero, dtype),)  # ONNX takes none for int32
    return op.DequantizeLinear(codes, _constant(scale, "float"), *zeros, **attributes)


# The signatures are those of the ops.


def _quantize_per_tensor(x: Any, scale: Any, zero: Any, low: int, high: int, dtype: Any) -> Any:
    return _quantize(x, scale, zero, low, high)


def _dequantize_per_tensor(x: Any, scale: Any, zero: Any, low: int, high: int, dtype: Any, out_dtype: Any = None) -> Any:
    return _dequantize(x, scale, zero, low, high)


def _quantize_per_channel(x: Any, scales: Any, zeros: Any, axis: int, low: int, high: int, dtype: Any) -> Any:
    return _quantize(x, scales, zeros, low, high, axis=axis)


def _dequantize_per_channel(
    x: Any, scales: Any, zeros: Any, axis: int, low: int, high: int, dtype: Any, out_dtype: Any = None
) -> Any:
    return _dequantize(x, scales, zeros, low, high, axis=axis)


def _quantize_per_group(x: Any, scales: Any, zeros: Any, low: int, high: int, dtype: Any, size: int) -> Any:
    return _quantize(x, scales, zeros, low, high, axis=1, block_size=size)


def _dequantize_per_group(
    x: Any, scales: Any, zeros: Any, low: int, high: int, dtype: Any, size: int, out_dtype: Any = None
) -> Any:
    return _dequantize(x, scales, zeros, low, high, axis=1, block_size=size)


_OPS = getattr(torch.ops, _NAMESPACE)
TRANSLATIONS: Translations = {
    _OPS.quantize_per_tensor.default: _quantize_per_tensor,
    _OPS.quantize_per_tensor.tensor: _quantize_per_tensor,
    _OPS.dequantize_per_tensor.default: _dequantize_per_tensor,
    _OPS.dequantize_per_tensor.tensor: _dequantize_per_tensor,
    _OPS.quantize_per_channel.default: _quantize_per_channel,
    _OPS.dequantize_per_channel.default: _dequantize_per_channel,
    _OPS.quantize_per_channel_group.default: _quantize_per_group,
    _OPS.dequantize_per_channel_group.default: _dequantize_per_group,
}
"""How torch.onnx translates the ops, for its ``custom_translation_table``."""


def store_codes(model: Any) -> None:
    """Let the codes of parameters of an ``onnx_ir.Model`` be constants where a Cast brings them to the type of their DQ.

    The exporter does so itself, but not with large ones.
    """
    for cast in [node for node in model.graph if node.op_type == "Cast"]:
        (codes,), (made,) = cast.inputs, cast.outputs
        uses = tuple(made.uses())
        if codes.const_value is None or not all(use.node.op_type == "DequantizeLinear" for use in uses):
            continue
        kind = onnx_ir.DataType(cast.attributes["to"].as_int())
        data = codes.const_value.numpy().astype(kind.numpy())
        constant = onnx_ir.Value(name=made.name, const_value=onnx_ir.tensor(data, dtype=kind, name=made.name))
        constant.shape, constant.dtype = codes.shape, kind
        for use in uses:
            use.node.replace_input_with(use.idx, constant)
        model.graph.remove(cast, safe=True)
        model.graph.register_initializer(constant)
