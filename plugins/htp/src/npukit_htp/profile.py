"""Arithmetic profiles: what differs between the generations of the processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import attrs

from npukit.backend import Soc
from npukit.backend.kernels import same_grid
from npukit.backend.library import Requantizer, wide
from npukit.encoding import Encoding
from npukit.graph import Graph, Node
from npukit_htp.requantize import narrow


@attrs.frozen
class Profile:
    """A numeric family, named after its first architecture.

    ``float_dtype`` is the type in which float islands compute, ``requantize`` what makes codes of exact sums. ``of_sums`` are the
    ops that compute on the real values of the sum before them, not on its codes.
    """

    name: str
    float_dtype: str
    requantize: Requantizer
    of_sums: frozenset[str] = frozenset()


# Measured on the simulator of onnxruntime-qnn 2.7.0. Float islands equal results rounded to float16 to 99.7-100 % on v69 and later,
# the float32 ones on v68. Sums of 16-bit activations and 8-bit weights equal those of a multiplier of 11 bits to 80 % on v68 and
# v69, all within one step, and those of a float32 multiplier to 80 % from v73 on. There is no simulator of v66.
#
# Activations that no grid separates from their Conv are the super groups of aimet-onnx 2.42 (BSD-3-Clause), file
# htp_quantsim_config_v73.json and later. It has PRelu too, which the provider keeps apart. Behind these two 97 to 99 % of 8-bit
# codes are those of the simulator, with a grid in between 75 %.
_FAMILIES = (
    (73, Profile("v73", "float16", wide, frozenset({"HardSwish", "LeakyRelu"}))),
    (69, Profile("v69", "float16", narrow)),
    (68, Profile("v68", "float32", narrow)),
    (0, Profile("v66", "float32", wide)),
)


def profile_of(soc: Soc) -> Profile:
    """The numeric family of a chip: the newest that is not newer than the chip."""
    return next(profile for first, profile in _FAMILIES if soc.generation >= first)


_Condition: TypeAlias = Callable[[Node, Mapping[str, Encoding]], bool]


def _always(node: Node, encodings: Mapping[str, Encoding]) -> bool:
    return True


def _requantizes(node: Node, encodings: Mapping[str, Encoding]) -> bool:
    """The grid changes on the way, which an op that only moves data cannot do on codes."""
    return not same_grid(encodings.get(node.inputs[0]), encodings.get(node.outputs[0]))


def _has_activation_bias(node: Node, encodings: Mapping[str, Encoding]) -> bool:
    """The shift is on a grid of 8 or 16 bits instead of int32."""
    bias = encodings.get(node.input(2))
    return bias is not None and bias.bits <= 16


def _of_many(node: Node, encodings: Mapping[str, Encoding]) -> bool:
    return len(node.inputs) > 2


# Ops that the vendor's execution provider takes without their Q/DQ nodes, so that they run in float between a Dequantize and a
# Quantize (form "float" in the log of onnxruntime-qnn 2.7.0), and when they do.
FLOAT_ISLANDS: Mapping[str, _Condition] = {
    "Flatten": _requantizes,
    "GroupNormalization": _always,
    "LayerNormalization": _has_activation_bias,
    "LpPool": _always,
    "Max": _of_many,
    "MaxRoiPool": _always,
    "Mean": _always,
    "Min": _of_many,
    "Reshape": _requantizes,
    "RoiAlign": _always,
    "RotaryEmbedding": _always,
    "STFT": _always,
    "ScatterND": _always,
    "Selu": _always,
    "Squeeze": _requantizes,
    "Sum": _always,
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
ROUNDED_INPUTS: Mapping[str, int] = {"MaxRoiPool": 1, "RoiAlign": 1, "STFT": 1, "TopK": 0}


def islands_of(profile: Profile, graph: Graph, encodings: Mapping[str, Encoding]) -> dict[str, str]:
    """The nodes that read codes and compute in float, by name, with the type they compute in.

    There are none where float is float32: the kernels of these ops compute in float32 between their grids by themselves.
    """
    if profile.float_dtype == "float32":
        return {}
    grids = {name for name, encoding in encodings.items() if not encoding.is_float}
    conditions = [(node, FLOAT_ISLANDS[node.key]) for node in graph.nodes if node.key in FLOAT_ISLANDS]
    return {n.name: profile.float_dtype for n, when in conditions if not grids.isdisjoint(n.inputs) and when(n, encodings)}


def unrounded(graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> frozenset[str]:
    """The tensors that never exist in codes on a chip: sums that only one of the profile's ``of_sums`` reads.

    A sum is a Conv without dilations over one or two axes, a Gemm, or a MatMul with a constant on the right, with weights of at
    most 8 bits, not in blocks. AIMET names Conv, the others are measured (onnxruntime-qnn 2.7.0, SM8550 and SM8750), and so is
    what is none.
    """
    of_sums = profile_of(soc).of_sums
    names = (
        node.inputs[0] for node in graph.nodes if node.op in of_sums and not node.domain and _is_code(encodings, node.outputs[0])
    )
    read_once = (name for name in names if len(graph.consumers[name]) == 1 and name not in graph.outputs)
    return frozenset(name for name in read_once if _is_sum(graph, encodings, graph.producers.get(name)))


_WIDEST_WEIGHT = 8


def _is_code(encodings: Mapping[str, Encoding], name: str) -> bool:
    encoding = encodings.get(name)
    return encoding is not None and not encoding.is_float


def _is_sum(graph: Graph, encodings: Mapping[str, Encoding], node: Node | None) -> bool:
    if node is None or node.domain or node.op not in ("Conv", "Gemm", "MatMul") or not graph.is_constant(node.inputs[1]):
        return False
    weight = encodings.get(node.inputs[1])
    if weight is None or weight.bits > _WIDEST_WEIGHT or weight.granularity == "block":
        return False
    if not all(_is_code(encodings, name) for name in (node.inputs[0], node.outputs[0])):
        return False
    return node.op != "Conv" or (len(graph.tensor(node.inputs[1]).shape or ()) <= 4 and set(node.get("dilations", (1,))) == {1})
