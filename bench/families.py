"""The ops that ``forms`` draws: the shapes of their data, the values of each attribute, and their other inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import inputs
import numpy as np
from grid import Arg

_DATA = Arg(low=-1.0, high=1.2)


def _ranks(*ranks: int) -> tuple[inputs.Shape, ...]:
    return tuple(((2, 4) if rank < 3 else (1, 8, 6, 6, 6))[:rank] for rank in ranks)


@attrs.frozen
class Family:
    """An op with the shapes of its data and the values of each attribute; ``more`` makes the other inputs.

    ``needs`` names the attributes that a node must have. ``first`` is input 0 but for its shape.
    """

    op: str
    shapes: tuple[inputs.Shape, ...] = _ranks(2, 3, 4)
    attributes: Mapping[str, tuple[Any, ...]] = attrs.field(factory=dict)
    more: inputs.Inputs = lambda shape, rng, given: []
    needs: tuple[str, ...] = ()
    first: Arg = _DATA
    keeps: bool = False
    outputs: int = 1
    domain: str = ""
    opset: int = 21
    axes: tuple[int, int] = (0, 1)


_ANY = _ranks(1, 2, 3, 4, 5)
_SPATIAL = _ranks(3, 4, 5)
_SIDES = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
_STEPS = {"strides": (1, 2), "dilations": (1, 2), "pads": (0, 1), "auto_pad": _SIDES, "kernel_shape": (2, 3)}
_WINDOW = {**_STEPS, "ceil_mode": (0, 1)}
_REDUCE = {"keepdims": (0, 1), "noop_with_empty_axes": (0, 1)}
_ARG = {"axis": (0, 1, -1), "keepdims": (0, 1), "select_last_index": (0, 1)}
_EPSILON = {"epsilon": (1e-5, 1e-3)}
_STASH = {"stash_type": (0, 1)}
_LAST = {"axis": (-1, 1), **_EPSILON, **_STASH}
_MASK = Arg(kind="mask")
_CELL = {"clip": (1.0, 3.0), "activation_alpha": ((0.1,), (0.3,)), "activation_beta": ((0.4,), (0.6,)), "hidden_size": (8, 16),
         "direction": ("forward", "reverse", "bidirectional"), "layout": (0, 1)}  # fmt: skip
_PRODUCT = {"transA": (0, 1), "transB": (0, 1), "alpha": (1.0, 0.5)}
_MICROSOFT = "com.microsoft"

FAMILIES = (
    *(Family(op, _ANY) for op in ("Relu", "Sigmoid", "HardSwish", "Abs", "Neg", "Exp", "Floor", "Round", "Sin", "Ceil", "Cos",
        "Tan",
      "Atan", "Sign", "Tanh", "Softplus", "Mish", "Identity")),
    *(Family(op, _ANY, first=Arg(low=0.1, high=0.9)) for op in ("Sqrt", "Log", "Reciprocal", "Asin")),
    *(Family(op, _ANY, more=inputs.same) for op in ("Add", "Sub", "Mul", "Div")),
    *(Family(op, _ANY, more=inputs.same, first=Arg(low=0.1, high=1.2)) for op in ("Pow",)),
    *(Family(op, more=inputs.same) for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    *(Family(op, more=inputs.masks, first=_MASK) for op in ("And", "Or", "Xor")),
    Family("Not", first=_MASK),
    Family("Where", more=inputs.chosen, first=_MASK),
    *(Family(op, _ranks(2, 4), more=inputs.several) for op in ("Max", "Min", "Sum", "Mean")),
    *(Family(op, _ranks(2, 3, 4, 5), {"axis": (-1, 0, 1)}) for op in ("Softmax", "LogSoftmax")),
    *(Family(op, _ranks(2, 3, 4, 5), _REDUCE, inputs.axes) for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin",
        "ReduceL2")),
    *(Family(op, _ranks(2, 4), _REDUCE, inputs.axes, first=Arg(low=0.2, high=1.2)) for op in ("ReduceSumSquare", "ReduceL1",
        "ReduceProd", "ReduceLogSumExp")),
    *(Family(op, attributes=_ARG) for op in ("ArgMax", "ArgMin")),
    Family("Elu", _ANY, {"alpha": (0.5, 1.0)}),
    Family("LeakyRelu", _ANY, {"alpha": (0.01, 0.3)}),
    Family("ThresholdedRelu", attributes={"alpha": (0.5, 1.0)}),
    Family("Selu", attributes={"alpha": (1.6732632, 1.0), "gamma": (1.0507, 1.2)}),
    Family("Gelu", _ANY, {"approximate": ("none", "tanh")}),
    Family("QuickGelu", attributes={"alpha": (1.702, 1.0)}, domain=_MICROSOFT),
    Family("HardSigmoid", _ANY, {"alpha": (0.2, 1 / 6), "beta": (0.5, 0.4)}),
    Family("Clip", _ANY, more=inputs.limits),
    Family("PRelu", more=inputs.slope),
    Family("IsNaN"),
    Family("IsInf", attributes={"detect_negative": (0, 1), "detect_positive": (0, 1)}),
    Family("Cast", attributes={"to": (1, 6, 7, 9)}, needs=("to",)),
    Family("Mod", _ranks(2, 4), {"fmod": (0, 1)}, inputs.same, ("fmod",)),
    *(Family("Conv", _SPATIAL, {**_STEPS, "group": (1, 2, 8)}, inputs.kernel) for _ in range(3)),
    *(Family("ConvTranspose", _ranks(3, 4), {**_STEPS, "group": (1, 2), "output_padding": (0, 1), "output_shape": (7, 8)},
        inputs.turned_kernel, axes=(1, 0)) for _ in range(2)),
    Family("MaxPool", _SPATIAL, {**_WINDOW, "storage_order": (0, 1)}, needs=("kernel_shape",), keeps=True),
    Family("AveragePool", _SPATIAL, {**_WINDOW, "count_include_pad": (0, 1)}, needs=("kernel_shape",), keeps=True),
    Family("LpPool", _ranks(4), {**_WINDOW, "p": (1, 2)}, needs=("kernel_shape",)),
    *(Family(op, _SPATIAL, keeps=op == "GlobalMaxPool") for op in ("GlobalMaxPool", "GlobalAveragePool")),
    Family("MaxRoiPool", _ranks(4), {"spatial_scale": (1.0, 0.5), "pooled_shape": ((2, 2), (3, 3))},
        lambda shape, rng, given: [Arg(kind="plain", value=np.array([[0, 0, 0, 4, 4], [0, 1, 1, 5, 5]], np.float32))],
        ("pooled_shape",), keeps=True),
    Family("RoiAlign", _ranks(4), {"mode": ("avg", "max"), "output_height": (2, 3), "output_width": (2, 3), "sampling_ratio": (1,
        2),
        "spatial_scale": (1.0, 0.5), "coordinate_transformation_mode": ("half_pixel", "output_half_pixel")}, inputs.regions,
        keeps=True),
    Family("GridSample", _ranks(4, 5), {"mode": ("linear", "nearest", "cubic"), "align_corners": (0, 1),
        "padding_mode": ("zeros", "border", "reflection")}, inputs.grid, keeps=True),
    *(Family("Gemm", ((4, 6), (16, 8)), {**_PRODUCT, "beta": (1.0, 0.5)}, inputs.gemm, axes=(1, 0)) for _ in range(2)),
    *(Family("MatMul", _ranks(2, 3, 4, 5), more=inputs.matrix, axes=(1, 0)) for _ in range(3)),
    Family("FusedMatMul", _ranks(2, 3, 4), {**_PRODUCT, "transBatchA": (0, 1), "transBatchB": (0, 1)}, inputs.fused,
        domain=_MICROSOFT),
    Family("MatMulNBits", ((1, 8, 64), (8, 64)), {"bits": (2, 4, 8), "block_size": (16, 32, 64), "K": (64,), "N": (16, 24)},
        inputs.blocks,
        ("bits", "block_size", "K", "N"), domain=_MICROSOFT),
    Family("Einsum", _ranks(2), {"equation": ("ij,jk->ik", "ij,kj->ik", "ij,j->i", "ij,ij->ij", "ij->ji")}, inputs.einsum,
        ("equation",)),
    Family("Einsum", _ranks(3), {"equation": ("bij,bjk->bik", "bij,jk->bik", "bij,bkj->bik", "bij,bj->bi")}, inputs.einsum,
        ("equation",)),
    Family("Einsum", _ranks(4), {"equation": ("bhij,bhjk->bhik", "bhij,bhkj->bhik", "bchw,bkhw->bckhw", "bhwc,hkc->bhwk")},
        inputs.einsum,
        ("equation",)),
    *(Family("Resize", _SPATIAL, {"mode": ("nearest", "linear", "cubic"), "antialias": (0, 1), "exclude_outside": (0, 1),
        "nearest_mode": ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"), "cubic_coeff_a": (-0.5, -0.75),
        "keep_aspect_ratio_policy": ("stretch", "not_larger"), "axes": ("spatial",), "extrapolation_value": (0.0, 0.5),
        "coordinate_transformation_mode": ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel",
        "half_pixel_symmetric",
        "tf_crop_and_resize")}, inputs.scales, keeps=True) for _ in range(3)),
    *(Family("Pad", _ranks(2, 3, 4, 5), {"mode": ("constant", "reflect", "edge", "wrap")}, inputs.pads,
        keeps=True) for _ in range(2)),
    Family("LayerNormalization", attributes=_LAST, more=inputs.norm),
    Family("SimplifiedLayerNormalization", attributes={**_LAST, "axis": (-1, 1)}, more=inputs.rms, needs=("axis",)),
    Family("RMSNormalization", attributes=_LAST, more=inputs.rms, opset=23),
    Family("InstanceNormalization", _SPATIAL, _EPSILON, inputs.per_channel),
    Family("GroupNormalization", _SPATIAL, {**_EPSILON, **_STASH, "num_groups": (2, 4)}, inputs.groups, ("num_groups",)),
    Family("BatchNormalization", _ranks(2, 3, 4, 5), {**_EPSILON, "momentum": (0.9, 0.5)}, inputs.batch),
    Family("LpNormalization", _ranks(2, 3, 4), {"axis": (-1, 1, 0), "p": (1, 2)}),
    Family("LRN", _ranks(3, 4), {"size": (3, 5), "alpha": (1e-4, 1e-2), "beta": (0.75, 0.5), "bias": (1.0, 2.0)}, needs=("size",)),
    Family("Flatten", _ranks(2, 3, 4), {"axis": (0, 1, 2)}, keeps=True),
    Family("Reshape", _ranks(2, 3, 4, 5), {"allowzero": (0, 1)}, inputs.target, keeps=True),
    Family("Squeeze", ((1, 4, 6), (1, 8, 1, 6)), more=inputs.ones, keeps=True),
    Family("Unsqueeze", _ranks(1, 2, 3, 4), more=inputs.new_axes, keeps=True),
    Family("Expand", ((1, 4), (1, 4, 6), (1, 6)), more=inputs.wider, keeps=True),
    Family("Tile", _ranks(2, 3, 4, 5), more=inputs.repeats, keeps=True),
    Family("Slice", _ranks(2, 3, 4, 5), more=inputs.slices, keeps=True),
    Family("Split", _ranks(2, 3, 4, 5), {"axis": (1, -1), "num_outputs": (2,)}, inputs.parts, ("axis",), keeps=True, outputs=2),
    Family("DepthToSpace", ((1, 16, 4, 4), (1, 32, 6, 6)), {"blocksize": (2, 4), "mode": ("DCR", "CRD")}, needs=("blocksize",),
        keeps=True),
    Family("SpaceToDepth", _ranks(4), {"blocksize": (2, 3)}, needs=("blocksize",), keeps=True),
    Family("Gather", _ranks(1, 2, 3, 4), {"axis": (0, 1, -1)}, inputs.indices, keeps=True),
    Family("GatherElements", attributes={"axis": (0, -2)}, more=inputs.elements, keeps=True),
    Family("GatherND", _ranks(2, 3, 4), {"batch_dims": (0, 1)}, inputs.tuples, keeps=True),
    Family("ScatterElements", attributes={"axis": (0, 1), "reduction": ("none", "add", "mul", "max", "min")},
        more=inputs.scattered, keeps=True),
    Family("ScatterND", attributes={"reduction": ("none", "add", "mul", "max", "min")}, more=inputs.scattered_rows, keeps=True),
    Family("Concat", _ranks(2, 3, 4, 5), {"axis": (0, 1, -1)}, inputs.several, ("axis",)),
    Family("TopK", _ranks(1, 2, 3, 4), {"axis": (-1, 0), "largest": (0, 1), "sorted": (0, 1)},
        lambda shape, rng, given: [inputs.plain(inputs.one(rng, 1, 2))], keeps=True, outputs=2),
    Family("CumSum", attributes={"exclusive": (0, 1), "reverse": (0, 1)},
        more=lambda shape, rng, given: [inputs.scalar(inputs.one(rng, 0, 1, -1))]),
    Family("OneHot", ((4,), (2, 4)), {"axis": (-1, 0)},
        lambda shape, rng, given: [inputs.scalar(5), inputs.plain(0, 1, dtype=np.float32)], first=Arg(kind="fed", value=np.zeros(4,
        np.int64))),
    Family("Col2Im", ((1, 72, 16), (1, 72, 36), (1, 72, 4)), {"strides": (1, 2), "dilations": (1, 2), "pads": (0, 1)},
        lambda shape, rng, given: [inputs.plain(6, 6), inputs.plain(3, 3)]),
    Family("NonMaxSuppression", ((1, 20, 4),), {"center_point_box": (0, 1)},
        lambda shape, rng, given: [Arg((1, 2, 20), 0, 1), inputs.plain(5), inputs.plain(0.5, dtype=np.float32), inputs.plain(0.3,
        dtype=np.float32)]),
    Family("GRU", ((6, 1, 8), (3, 2, 8)), {**_CELL, "linear_before_reset": (0, 1), "activations": (("Sigmoid", "Tanh"),
        ("HardSigmoid", "Tanh"))}, inputs.gates(3), ("hidden_size",), axes=(1, 2)),
    Family("LSTM", ((6, 1, 8), (3, 2, 8)), {**_CELL, "input_forget": (0, 1), "activations": (("Sigmoid", "Tanh", "Tanh"),
        ("HardSigmoid", "Tanh", "Tanh"))}, inputs.gates(4), ("hidden_size",), axes=(1, 2)),
    Family("RotaryEmbedding", ((1, 4, 8, 16), (1, 8, 64)), {"interleaved": (0, 1), "rotary_embedding_dim": (0, 8), "num_heads": (4,
        2)},
        inputs.rotation, ("num_heads",), opset=23),
    Family("STFT", ((1, 128, 1), (1, 64, 1)), {"onesided": (0, 1)}, inputs.frames),
    Family("Inverse", ((16, 2, 2), (4, 3, 3), (2, 2)), first=Arg(low=0.1, high=2), domain=_MICROSOFT),
)  # fmt: skip
BY_OP = {family.op: family for family in FAMILIES}
# Ops that the vendor's runtime takes away when they are alone, so that nothing is left to accept: drawn in chains only.
BETWEEN = {
    "Transpose": Family("Transpose", _ranks(2, 3, 4, 5), {"perm": ("last", "swap", "reverse")}, needs=("perm",), keeps=True),
    "Dropout": Family("Dropout", attributes={"seed": (1, 2)}, keeps=True),
}
# Ops that are drawn one behind the other.
CHAINS = tuple(tuple(name.split("+")) for name in (
    "Conv+PRelu", "Conv+Relu", "Conv+Clip", "Conv+HardSwish", "Conv+LeakyRelu", "Conv+Sigmoid", "Conv+BatchNormalization",
    "Conv+Add+Relu", "Conv+MaxPool", "Conv+Resize", "Conv+Conv", "Conv+Tanh", "Conv+Elu", "Conv+Mul", "ConvTranspose+Relu",
    "Gemm+Relu", "Gemm+Sigmoid", "MatMul+Add", "MatMul+Softmax", "MatMul+Gelu", "MatMul+Mul+Softmax", "MatMul+MatMul",
        "Mul+Sigmoid",
    "Sigmoid+Mul", "HardSigmoid+Mul", "Add+Relu", "Add+Add", "Add+Softmax", "Softmax+MatMul", "Softmax+Mul+ReduceSum",
        "Sub+Softmax",
    "Relu+Transpose+Relu", "Transpose+MatMul", "Transpose+Softmax+Transpose", "Reshape+Softmax", "Reshape+Relu+Transpose",
    "Relu+Reshape+Relu", "MaxPool+Flatten+Gemm", "LayerNormalization+MatMul", "ReduceMean+Sub", "Concat+Conv", "Slice+Add",
        "Pad+Conv",
    "Split+Relu", "Div+Exp", "Clip+Mul", "Gather+LayerNormalization", "Unsqueeze+Add", "GlobalAveragePool+Flatten+Gemm",
        "Log+Softmax",
    "Relu+Dropout+Relu",
))  # fmt: skip
