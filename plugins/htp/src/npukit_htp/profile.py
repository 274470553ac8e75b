"""Arithmetic profiles: what differs between the generations of the processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import attrs
import numpy as np

from npukit.backend import Call, Kernel, Result, Soc, Value
from npukit.encoding import Array
from npukit_htp.kernels import KERNELS
from npukit_htp.kernels._values import same_grid
from npukit_htp.kernels.transform import stft
from npukit_htp.requantize import Scheme, narrow, wide


@attrs.frozen
class Profile:
    """A numeric family, named after its first architecture.

    ``float_dtype`` is the type in which float islands compute, ``requantize`` what makes codes of exact sums.
    """

    name: str
    float_dtype: str
    requantize: Scheme


# Measured on the simulator of onnxruntime-qnn 2.7.0. Float islands equal results rounded to float16 to 99.7-100 % on v69 and later,
# the float32 ones on v68. Sums of 16-bit activations and 8-bit weights equal those of a multiplier of 11 bits to 80 % on v68 and
# v69, all within one step, and those of a float32 multiplier to 80 % from v73 on. There is no simulator of v66.
_FAMILIES = (
    (73, Profile("v73", "float16", wide)),
    (69, Profile("v69", "float16", narrow)),
    (68, Profile("v68", "float32", narrow)),
    (0, Profile("v66", "float32", wide)),
)


def profile_of(soc: Soc) -> Profile:
    """The numeric family of a chip: the newest that is not newer than the chip."""
    return next(profile for first, profile in _FAMILIES if soc.generation >= first)


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
    "LpPool": _always,
    "MaxRoiPool": _always,
    "Reshape": _requantizes,
    "RoiAlign": _always,
    "RotaryEmbedding": _always,
    "STFT": _always,
    "ScatterND": _always,
    "Selu": _always,
    "Squeeze": _requantizes,
    "Tan": _always,
    "ThresholdedRelu": _always,
    "TopK": _always,
    "Unsqueeze": _requantizes,
    "com.microsoft.FusedMatMul": _always,
    "com.microsoft.Inverse": _always,
    "com.microsoft.MatMulNBits": _always,
    "com.microsoft.QuickGelu": _always,
}


# How many inputs are rounded, where it is not all of them. Regions are positions, which stay float32; the window of STFT is part of
# its basis. TopK orders the values it was given: rounding keeps their order but makes ties, which would change the indices.
_DATA_INPUTS: Mapping[str, int] = {"MaxRoiPool": 1, "RoiAlign": 1, "STFT": 1, "TopK": 0}


def kernels_of(profile: Profile) -> Mapping[str, Kernel]:
    """All kernels as the profile computes them."""
    if profile.float_dtype == "float32":  # the kernels of these ops compute in float32 by themselves
        return KERNELS
    return {**KERNELS, **{op: _in_float16(op, when) for op, when in FLOAT_ISLANDS.items()}}


# Kernels that have constants of their own to round.
_HALF_KERNELS: Mapping[str, Kernel] = {"STFT": partial(stft, dtype=np.float16)}


def _in_float16(op: str, when: Callable[[Call], bool]) -> Kernel:
    """The kernel on inputs rounded to float16, its results rounded to float16 before they meet the output grid."""
    kernel, island = KERNELS[op], _HALF_KERNELS.get(op, KERNELS[op])

    def run(call: Call) -> Sequence[Result]:
        if not any(v is not None and v.is_codes for v in call.inputs) or not when(call):
            return kernel(call)
        data = _DATA_INPUTS.get(call.node.op, len(call.inputs))
        inputs = tuple(_half(v) if index < data else v for index, v in enumerate(call.inputs))
        results = island(Call(call.node, inputs, (None,) * len(call.outputs), {}))
        return [_rounded(result) for result in results]

    return run


def _half(value: Value | None) -> Value | None:
    if value is None or not (value.is_codes or value.data.dtype == np.float32):
        return value
    return Value(_to_half(value.real()))


def _rounded(result: Result) -> Result:
    data = result.real() if isinstance(result, Value) else result
    return _to_half(data) if isinstance(data, np.ndarray) and data.dtype == np.float32 else result


def _to_half(values: Array) -> Array:
    return values.astype(np.float16).astype(np.float32)
