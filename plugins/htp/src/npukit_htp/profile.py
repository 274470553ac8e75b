"""Arithmetic profiles: what differs between the generations of the processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np

from npukit.backend import Call, Kernel, Result, Soc, Value
from npukit.encoding import Array
from npukit_htp.kernels import KERNELS
from npukit_htp.kernels._values import same_grid


@attrs.frozen
class Profile:
    """A numeric family: ``float_dtype`` is the type in which float islands compute."""

    name: str
    float_dtype: str


# The simulator of onnxruntime-qnn 2.7.0 computes float islands in float16 from v73 on and in float32 before (measured: the results
# equal the ones rounded to float16 to 99.7-100 % on v73 and later, the float32 ones on v68 and v69).
_OLD = Profile("v68", "float32")
_NEW = Profile("v73", "float16")


def profile_of(soc: Soc) -> Profile:
    """The numeric family of a chip: v73 and later, or before."""
    return _NEW if soc.generation >= 73 else _OLD


def _always(call: Call) -> bool:
    return True


def _requantizes(call: Call) -> bool:
    """The grid changes on the way, which an op that only moves data cannot do on codes."""
    return not same_grid(call.value(0).encoding, call.outputs[0])


def _has_activation_bias(call: Call) -> bool:
    """The shift is on a grid of 8 or 16 bits instead of int32."""
    bias = call.optional(2)
    return bias is not None and bias.encoding is not None and bias.encoding.bits <= 16


# Ops that the vendor's execution provider takes without their Q/DQ nodes, so that they run in float between a Dequantize and a
# Quantize (form "float" in the log of onnxruntime-qnn 2.7.0), and when they do.
FLOAT_ISLANDS: Mapping[str, Callable[[Call], bool]] = {
    "Flatten": _requantizes,
    "GroupNormalization": _always,
    "LayerNormalization": _has_activation_bias,
    "Reshape": _requantizes,
    "ScatterND": _always,
    "Selu": _always,
    "Squeeze": _requantizes,
    "Tan": _always,
    "ThresholdedRelu": _always,
    "TopK": _always,
    "Unsqueeze": _requantizes,
}


def kernels_of(profile: Profile) -> Mapping[str, Kernel]:
    """All kernels as the profile computes them."""
    if profile.float_dtype == "float32":  # the kernels of these ops compute in float32 by themselves
        return KERNELS
    return {**KERNELS, **{op: _in_float16(KERNELS[op], when) for op, when in FLOAT_ISLANDS.items()}}


def _in_float16(kernel: Kernel, when: Callable[[Call], bool]) -> Kernel:
    """The kernel on inputs rounded to float16, its results rounded to float16 before they meet the output grid."""

    def run(call: Call) -> Sequence[Result]:
        if not any(v is not None and v.is_codes for v in call.inputs) or not when(call):
            return kernel(call)
        # TopK orders the values it was given; rounding keeps their order but makes ties, which would change the indices.
        inputs = call.inputs if call.node.op == "TopK" else tuple(_half(v) for v in call.inputs)
        results = kernel(Call(call.node, inputs, (None,) * len(call.outputs), {}))
        return [_rounded(result) for result in results]

    return run


def _half(value: Value | None) -> Value | None:
    return Value(_to_half(value.real())) if value is not None and value.is_codes else value


def _rounded(result: Result) -> Result:
    data = result.real() if isinstance(result, Value) else result
    return _to_half(data) if isinstance(data, np.ndarray) and data.dtype == np.float32 else result


def _to_half(values: Array) -> Array:
    return values.astype(np.float16).astype(np.float32)
