"""One-op models for every op, type and granularity that the HTP takes or refuses: what verdicts.py and htp_fidelity.py ask about.

A case is an op with its shapes; ``build`` gives it types. Activations get ranges of their own, outputs the range of the float
result, unless the op keeps the grid of its input or always writes the same one.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from npukit.backend.ort import OrtModel
from npukit.encoding import Encoding, encoding_for_range, encoding_for_weights, fake_quantize
from npukit.graph import CANONICAL_OPSET, Graph, Node, make_graph

Array = NDArray[Any]
TYPES = {
    "u8": "uint8", "s8": "int8", "u16": "uint16", "s16": "int16", "s4": "int4", "f16": "float16", "f32": "float32",
}  # fmt: skip
GRANULARITIES = {"pt": "tensor", "pc": "channel", "blk32": "block", "lpbq": "lpbq"}
SHAPE = (1, 16, 16, 16)
# The only grids that these ops write: a power of two, so that the output range fills the type.
UNIT = {"uint8": (2.0**-8, 0), "uint16": (2.0**-16, 0), "int8": (2.0**-8, -128), "int16": (2.0**-15, 0)}
SIGNED_UNIT = {"uint8": (2.0**-7, 128), "uint16": (2.0**-15, 32768), "int8": (2.0**-7, 0), "int16": (2.0**-15, 0)}


@attrs.frozen
class Arg:
    """An input: ``kind`` is "act" (fed), "const" (a constant on a grid), "weight", "bias", "mask" (fed, of bool), "absent", "plain"
    (the constant ``value`` as it is), or "fed" (``value`` as it is, fed)."""

    shape: tuple[int, ...] = SHAPE
    low: float = -1.0
    high: float = 1.0
    kind: str = "act"
    value: Any = None


@attrs.frozen
class Case:
    """An op: ``keeps`` says that outputs are on the grid of input 0, ``fixed`` that they are on the grid of that name.

    ``ties`` says that all activations share one grid. ``axes`` are those of the output channels and of the input channels of the
    weight, ``then`` an op that follows, ``opset`` the first that has the op. ``results`` are the names of the outputs, "" for an
    absent one, where they are not the first ``outputs``.
    """

    op: str
    args: tuple[Arg, ...] = (Arg(),)
    attributes: Mapping[str, Any] = attrs.field(factory=dict)
    outputs: int = 1
    keeps: bool = False
    ties: bool = False
    fixed: Mapping[str, tuple[float, int]] | None = None
    axes: tuple[int, int] = (0, 1)
    then: str = ""
    domain: str = ""
    opset: int = CANONICAL_OPSET
    results: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The op with its domain in front, where that is not the default one."""
        return f"{self.domain}.{self.op}" if self.domain else self.op

    @property
    def weighted(self) -> bool:
        return any(arg.kind == "weight" for arg in self.args)


@attrs.frozen(eq=False)
class Model:
    graph: Graph
    encodings: dict[str, Encoding]
    feeds: dict[str, Array]


def _plain(value: Any) -> Arg:
    return Arg(kind="plain", value=np.asarray(value))


def _conv(
    x: tuple[int, ...], w: tuple[int, ...], *, bias: bool = True, then: str = "", op: str = "Conv", **attributes: Any
) -> Case:
    count = w[0] if op == "Conv" else w[1]
    biases = (Arg((count,), kind="bias"),) if bias else ()
    axes = (0, 1) if op == "Conv" else (1, 0)
    return Case(op, (Arg(x), Arg(w, -0.5, 0.5, "weight"), *biases), attributes, axes=axes, then=then)


def _gemm(*, bias: bool, trans: int, then: str = "") -> Case:
    weight = (32, 64) if trans else (64, 32)
    biases = (Arg((32,), kind="bias"),) if bias else ()
    return Case(
        "Gemm",
        (Arg((16, 64)), Arg(weight, -0.5, 0.5, "weight"), *biases),
        {"transB": trans},
        axes=(0, 1) if trans else (1, 0),
        then=then,
    )


def _unary(op: str, low: float = -3.0, high: float = 3.0, **attributes: Any) -> Case:
    return Case(op, (Arg(SHAPE, low, high),), attributes)


def _moved(op: str, *more: Arg, shape: tuple[int, ...] = SHAPE, outputs: int = 1, **attributes: Any) -> Case:
    return Case(op, (Arg(shape), *more), attributes, outputs, keeps=True)


_SCALE, _SHIFT = Arg((16,), 0.5, 1.5, "const"), Arg((16,), -0.5, 0.5, "const")
_AXES = _plain(np.array([2, 3]))
_ROI = Arg(kind="absent")
_TWICE = _plain(np.array([1, 1, 2, 2], np.float32))
_MICROSOFT = "com.microsoft"
_ROI_ALIGN = {"output_height": 4, "output_width": 4, "sampling_ratio": 2, "coordinate_transformation_mode": "output_half_pixel"}
_REGIONS = np.array([[0, 0, 0, 8, 8], [0, 2, 3, 12, 10], [0, 1, 1, 5, 14]], np.float32)
_PACKED = np.random.default_rng(2).integers(0, 256, (16, 2, 16)).astype(np.uint8)
_BLOCK_SCALES = np.random.default_rng(3).uniform(0.01, 0.1, 32).astype(np.float32)
_PADS = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}


def _recurrent(op: str, gates: int) -> Case:
    weights = [Arg((1, gates * 16, n), -0.5, 0.5, "weight") for n in (8, 16)]
    return Case(op, (Arg((6, 1, 8)), *weights, Arg((1, 2 * gates * 16), -0.1, 0.1, "const")), {"hidden_size": 16}, axes=(1, 2))


CASES: dict[str, Case] = {
    "Conv3x3": _conv((1, 16, 14, 14), (24, 16, 3, 3), pads=(1, 1, 1, 1)),
    "Conv3x3_nobias": _conv((1, 16, 14, 14), (24, 16, 3, 3), bias=False, pads=(1, 1, 1, 1)),
    "Conv1x1": _conv((1, 32, 14, 14), (24, 32, 1, 1)),
    "Conv1x1_k512": _conv((1, 512, 7, 7), (16, 512, 1, 1)),
    "Conv3x3_s2": _conv((1, 16, 14, 14), (16, 16, 3, 3), pads=(1, 1, 1, 1), strides=(2, 2)),
    "Conv3x3_dil2": _conv((1, 16, 14, 14), (16, 16, 3, 3), pads=(2, 2, 2, 2), dilations=(2, 2)),
    "ConvDW3x3": _conv((1, 16, 14, 14), (16, 1, 3, 3), pads=(1, 1, 1, 1), group=16),
    "ConvGroup4": _conv((1, 16, 14, 14), (16, 4, 3, 3), pads=(1, 1, 1, 1), group=4),
    "Conv+Relu": _conv((1, 16, 14, 14), (16, 16, 3, 3), pads=(1, 1, 1, 1), then="Relu"),
    **{
        f"Conv+{op}": _conv((1, 16, 14, 14), (16, 16, 3, 3), pads=(1, 1, 1, 1), then=op) for op in ("LeakyRelu", "HardSwish")
    },
    "Conv1x1_single": _conv((1, 16, 8, 8), (1, 16, 1, 1)),
    "Conv1x1_single_nobias": _conv((1, 16, 8, 8), (1, 16, 1, 1), bias=False),
    "Conv1D": _conv((1, 16, 64), (24, 16, 3), pads=(1, 1)),
    "Conv3D": _conv((1, 8, 6, 8, 8), (8, 8, 3, 3, 3), pads=(1,) * 6),
    "ConvTranspose": _conv((1, 16, 8, 8), (16, 12, 3, 3), op="ConvTranspose", strides=(2, 2), pads=(1, 1, 1, 1)),
    "ConvTranspose_single": _conv((1, 16, 8, 8), (16, 1, 3, 3), op="ConvTranspose"),
    "ConvTranspose_nobias": _conv((1, 16, 8, 8), (16, 4, 3, 3), bias=False, op="ConvTranspose"),
    "Gemm": _gemm(bias=True, trans=1),
    "Gemm_transB0": _gemm(bias=True, trans=0),
    **{f"Gemm+{op}": _gemm(bias=True, trans=1, then=op) for op in ("LeakyRelu", "HardSwish", "Relu")},
    "Gemm_nobias": _gemm(bias=False, trans=1),
    "MatMul_w": Case("MatMul", (Arg((1, 16, 64)), Arg((64, 32), -0.5, 0.5, "weight")), axes=(1, 0)),
    "MatMul_aa": Case("MatMul", (Arg((1, 4, 16, 32)), Arg((1, 4, 32, 16), -2, 2))),
    **{
        f"MatMul+{op}": Case("MatMul", (Arg((1, 16, 64)), Arg((64, 32), -0.5, 0.5, "weight")), axes=(1, 0), then=op)
        for op in ("LeakyRelu", "HardSwish", "Relu")
    },
    "Add": Case("Add", (Arg(), Arg(SHAPE, -2, 2))),
    **{f"{op}+Relu": Case(op, (Arg(), Arg(SHAPE, -2, 2)), then="Relu") for op in ("Sub", "Mul")},
    **{f"{op}3": Case(op, (Arg(), Arg(SHAPE, -2, 2), Arg(SHAPE, -1, 3))) for op in ("Sum", "Mean", "Max", "Min")},
    "Add_samescale": Case("Add", (Arg(), Arg()), ties=True),
    "Add_const": Case("Add", (Arg(), Arg((1, 16, 1, 1), -2, 2, "const"))),
    "Sub": Case("Sub", (Arg(), Arg(SHAPE, -2, 2))),
    "Mul": Case("Mul", (Arg(), Arg(SHAPE, -2, 2))),
    "Mul_const": Case("Mul", (Arg(), Arg((1, 16, 1, 1), -2, 2, "const"))),
    "Div": Case("Div", (Arg(), Arg(SHAPE, 0.5, 2))),
    "Div_const": Case("Div", (Arg(), Arg((1, 16, 1, 1), 0.5, 2, "const"))),
    "Min": Case("Min", (Arg(), Arg(SHAPE, -2, 2))),
    "Max": Case("Max", (Arg(), Arg(SHAPE, -2, 2))),
    "Pow2": Case("Pow", (Arg(), Arg((), 0, 2, "const", 2.0))),
    "Pow3": Case("Pow", (Arg(), Arg((), 0, 3, "const", 3.0))),
    "PRelu": Case("PRelu", (Arg(), Arg((16, 1, 1), 0.1, 0.5, "const"))),
    "Relu": _unary("Relu"),
    "Clip06": Case("Clip", (Arg(SHAPE, -3, 9), _plain(np.float32(0)), _plain(np.float32(6)))),
    "LeakyRelu": _unary("LeakyRelu", alpha=0.1),
    "Sigmoid": Case("Sigmoid", (Arg(SHAPE, -6, 6),), fixed=UNIT),
    "Sigmoid_auto": _unary("Sigmoid"),
    "Tanh": Case("Tanh", (Arg(SHAPE, -3, 3),), fixed=SIGNED_UNIT),
    "HardSwish": _unary("HardSwish", -5, 5),
    "HardSigmoid": _unary("HardSigmoid", -5, 5),
    "Gelu": _unary("Gelu"),
    "Gelu_tanh": _unary("Gelu", approximate="tanh"),
    "Elu": _unary("Elu"),
    "Softplus": _unary("Softplus"),
    "Mish": _unary("Mish"),
    "Selu": _unary("Selu"),
    "Celu": _unary("Celu"),
    "ThresholdedRelu": _unary("ThresholdedRelu"),
    "Softmax": Case("Softmax", (Arg((1, 8, 12, 32), -4, 4),), {"axis": -1}, fixed=UNIT),
    "Softmax_ax1": Case("Softmax", (Arg(SHAPE, -4, 4),), {"axis": 1}, fixed=UNIT),
    "LogSoftmax": Case("LogSoftmax", (Arg((1, 8, 12, 32), -4, 4),), {"axis": -1}),
    "Sqrt": _unary("Sqrt", 0, 4),
    "Exp": _unary("Exp", -3, 2),
    "Log": _unary("Log", 0.1, 4),
    "Abs": _unary("Abs"),
    "Neg": _unary("Neg"),
    "Sin": _unary("Sin"),
    "Cos": _unary("Cos"),
    "Tan": _unary("Tan", -1, 1),
    "Atan": _unary("Atan"),
    "Erf": _unary("Erf"),
    "Floor": _unary("Floor", -8, 8),
    "Ceil": _unary("Ceil", -8, 8),
    "Round": _unary("Round", -8, 8),
    "Sign": _unary("Sign"),
    "Reciprocal": _unary("Reciprocal", 0.5, 4),
    "LayerNorm": Case("LayerNormalization", (Arg((1, 32, 16)), _SCALE, Arg((16,), kind="bias"))),
    "LayerNorm_actbias": Case("LayerNormalization", (Arg((1, 32, 16)), _SCALE, _SHIFT)),
    "LayerNorm_nobias": Case("LayerNormalization", (Arg((1, 32, 16)), _SCALE)),
    "InstanceNorm": Case("InstanceNormalization", (Arg(), _SCALE, _SHIFT)),
    "BatchNorm": Case("BatchNormalization", (Arg(), _SCALE, _SHIFT, _SHIFT, _SCALE)),
    "GroupNorm": Case("GroupNormalization", (Arg(), _SCALE, _SHIFT), {"num_groups": 4}),
    "LpNorm": Case("LpNormalization", (Arg(),), {"axis": 1, "p": 2}),
    "LRN": Case("LRN", (Arg(),), {"size": 5}),
    "MaxPool": _moved("MaxPool", kernel_shape=(2, 2), strides=(2, 2)),
    "MaxPool3s2p1": _moved("MaxPool", **_PADS),
    "AveragePool2": _moved("AveragePool", kernel_shape=(2, 2), strides=(2, 2)),
    "AveragePool3": _moved("AveragePool", kernel_shape=(3, 3), strides=(1, 1)),
    "GlobalAveragePool": Case("GlobalAveragePool", (Arg((1, 64, 7, 7)),)),
    "GlobalMaxPool": _moved("GlobalMaxPool", shape=(1, 64, 7, 7)),
    "ReduceMean": Case("ReduceMean", (Arg((1, 64, 7, 7)), _AXES), {"keepdims": 1}),
    "ReduceSum": Case("ReduceSum", (Arg((1, 64, 7, 7)), _AXES), {"keepdims": 1}),
    "ReduceMax": Case("ReduceMax", (Arg((1, 64, 7, 7)), _AXES), {"keepdims": 1}),
    "ReduceMin": Case("ReduceMin", (Arg((1, 64, 7, 7)), _AXES), {"keepdims": 1}),
    "ReduceProd": Case("ReduceProd", (Arg((1, 64, 7, 7), 0.8, 1.2), _AXES), {"keepdims": 1}),
    "ReduceL2": Case("ReduceL2", (Arg((1, 64, 7, 7)), _AXES), {"keepdims": 1}),
    "Concat_same": Case("Concat", (Arg(), Arg()), {"axis": 1}, keeps=True, ties=True),
    "Concat_diff": Case("Concat", (Arg(), Arg(SHAPE, -2, 2)), {"axis": 1}),
    "Split": _moved("Split", outputs=2, axis=1, num_outputs=2),
    "Slice": _moved("Slice", _plain(np.array([2, 3])), _plain(np.array([14, 15])), _plain(np.array([2, 3])),
        _plain(np.array([2, 1]))),
    "Pad_const": _moved("Pad", _plain(np.array([0, 0, 1, 2, 0, 0, 2, 1])), _plain(np.float32(0))),
    "Pad_reflect": _moved("Pad", _plain(np.array([0, 0, 1, 2, 0, 0, 2, 1])), mode="reflect"),
    "Transpose": _moved("Transpose", perm=(0, 2, 3, 1)),
    "Reshape": _moved("Reshape", _plain(np.array([1, 64, 64]))),
    "Reshape_requant": Case("Reshape", (Arg(), _plain(np.array([1, 64, 64]))), fixed={"uint8": (0.011, 100), "int8": (0.011, 10),
        "uint16": (0.000041, 30000), "int16": (0.000041, 100)}),
    "Flatten": _moved("Flatten"),
    "Squeeze": _moved("Squeeze", _plain(np.array([2])), shape=(1, 64, 1, 64)),
    "Unsqueeze": _moved("Unsqueeze", _plain(np.array([1])), shape=(1, 64, 64)),
    "Expand": _moved("Expand", _plain(np.array([1, 16, 8, 16])), shape=(1, 16, 1, 16)),
    "Tile": _moved("Tile", _plain(np.array([1, 1, 2, 2])), shape=(1, 16, 8, 8)),
    "Resize_nearest": _moved("Resize", _ROI, _TWICE, shape=(1, 16, 8, 8), mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric"),
    "Resize_linear_hp": _moved("Resize", _ROI, _TWICE, shape=(1, 16, 8, 8), mode="linear"),
    "Resize_linear_ac": _moved("Resize", _ROI, _TWICE, shape=(1, 16, 8, 8), mode="linear",
        coordinate_transformation_mode="align_corners"),
    "Resize_cubic": _moved("Resize", _ROI, _TWICE, shape=(1, 16, 8, 8), mode="cubic"),
    "DepthToSpace": _moved("DepthToSpace", blocksize=2),
    "SpaceToDepth": _moved("SpaceToDepth", blocksize=2),
    "Gather": _moved("Gather", _plain(np.array([3, 1, 0, 7])), axis=1),
    "GatherElements": _moved("GatherElements", _plain(np.random.default_rng(1).integers(0, 16, (1, 8, 16, 16))), axis=1),
    "GatherND": _moved("GatherND", _plain(np.array([[0, 3], [0, 7], [0, 1]]))),
    "ScatterND": Case("ScatterND", (Arg(), _plain(np.array([[0, 3], [0, 7]])), Arg((2, 16, 16))), keeps=True, ties=True),
    "Equal": Case("Equal", (Arg(), Arg()), ties=True),
    "Greater": Case("Greater", (Arg(), Arg()), ties=True),
    "Less": Case("Less", (Arg(), Arg()), ties=True),
    "Where": Case("Where", (Arg(kind="mask"), Arg(), Arg()), keeps=True, ties=True),
    "Where_diff": Case("Where", (Arg(kind="mask"), Arg(), Arg(SHAPE, -2, 2))),
    "TopK": _moved("TopK", _plain(np.array([5])), shape=(8, 64), outputs=2),
    "ArgMax": Case("ArgMax", (Arg(),), {"axis": 1}),
    "ArgMin": Case("ArgMin", (Arg(),), {"axis": 1}),
    "CumSum": Case("CumSum", (Arg((1, 32, 16)), _plain(np.array(1)))),
    "GridSample": Case("GridSample", (Arg(), Arg((1, 12, 12, 2), -1, 1)), keeps=True),
    "Einsum": Case("Einsum", (Arg((1, 4, 16, 32)), Arg((1, 4, 32, 16), -2, 2)), {"equation": "bhij,bhjk->bhik"}),
    "LpPool": Case("LpPool", (Arg(),), {"kernel_shape": (2, 2), "strides": (2, 2), "p": 2}),
    "LpPool3": Case("LpPool", (Arg(),), {"kernel_shape": (3, 3), "strides": (1, 1), "p": 2}),
    "LpPool_padded": Case("LpPool", (Arg(),), {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (1, 1, 1, 1), "p": 2}),
    "LpPool_p1": Case("LpPool", (Arg(),), {"kernel_shape": (2, 2), "strides": (2, 2), "p": 1}),
    "RoiAlign": _moved("RoiAlign", Arg((4, 4), 0, 15), _plain(np.zeros(4, np.int64)), **_ROI_ALIGN),
    "RoiAlign_const": _moved("RoiAlign", _plain(_REGIONS[:, 1:]), _plain(np.zeros(3, np.int64)), **_ROI_ALIGN),
    "RoiAlign_half": _moved("RoiAlign", _plain(_REGIONS[:, 1:]), _plain(np.zeros(3, np.int64)),
        **{**_ROI_ALIGN, "coordinate_transformation_mode": "half_pixel"}),
    "MaxRoiPool": _moved("MaxRoiPool", _plain(_REGIONS), pooled_shape=(4, 4)),
    "QuickGelu": Case("QuickGelu", (Arg(SHAPE, -3, 3),), domain=_MICROSOFT),
    "Inverse": Case("Inverse", (Arg((16, 2, 2), 0.1, 2),), domain=_MICROSOFT),
    "RMSNorm": Case("RMSNormalization", (Arg((1, 32, 16)), _SCALE), opset=23),
    "SimplifiedLayerNorm": Case("SimplifiedLayerNormalization", (Arg((1, 32, 16)), _SCALE), {"axis": -1}),
    "FusedMatMul": Case("FusedMatMul", (Arg((1, 4, 16, 32)), Arg((1, 4, 16, 32), -2, 2)), {"transB": 1, "alpha": 0.125},
        domain=_MICROSOFT),
    "RotaryEmbedding": Case("RotaryEmbedding", (Arg((1, 4, 8, 16)), Arg((8, 8), -1, 1, "const"), Arg((8, 8), -1, 1, "const"),
        _plain(np.arange(8)[None])), opset=23),
    "STFT": Case("STFT", (Arg((1, 128, 1)), _plain(np.array(16)), _plain(np.hanning(32).astype(np.float32)), _plain(np.array(32))),
        {"onesided": 1}),
    "MatMulNBits": Case("MatMulNBits", (Arg((1, 8, 64)), _plain(_PACKED), _plain(_BLOCK_SCALES)),
        {"K": 64, "N": 16, "bits": 4, "block_size": 32}, domain=_MICROSOFT),
    "ScatterElements": Case("ScatterElements", (Arg((4, 8)), _plain(np.array([[0, 1, 3, 2], [2, 0, 1, 3]])), Arg((2, 4))),
        {"axis": 0}, keeps=True, ties=True),
    "Col2Im": Case("Col2Im", (Arg((1, 144, 196)), _plain(np.array([16, 16])), _plain(np.array([3, 3])))),
    "NonMaxSuppression": Case("NonMaxSuppression", (Arg((1, 20, 4), 0, 1), Arg((1, 2, 20), 0, 1), _plain(np.array([5])),
        _plain(np.array([0.5], np.float32)), _plain(np.array([0.3], np.float32)))),
    "LSTM": _recurrent("LSTM", 4),
    "GRU": _recurrent("GRU", 3),
}  # fmt: skip


def configurations(case: Case) -> list[tuple[str, str, str]]:
    """(activation, weight, granularity) of all cells of the grid for a case, "-" where it has no weight."""
    floats = [(kind, "-", "-") for kind in ("f16", "f32")]
    if not case.weighted:
        return [(kind, "-", "-") for kind in ("u8", "s8", "u16", "s16")] + floats
    weights = (
        "u8:s8:pt u8:s8:pc u8:u8:pt u8:s4:pt u8:s4:pc s8:s8:pt s8:s8:pc u16:s8:pt u16:s8:pc u16:u8:pt u16:s4:pt u16:s4:pc "
        "u16:s16:pt u16:s16:pc u16:u16:pt s16:s8:pt s16:s8:pc u8:s4:blk32 u16:s4:blk32 u16:s4:lpbq u16:s8:blk32 u8:s4:lpbq"
    )
    return [tuple(word.split(":")) for word in weights.split()] + floats  # type: ignore[misc]


def build(name: str, act: str, weight: str = "-", granularity: str = "-", case: Case | None = None) -> Model:
    """The one-op model of a cell: graph, encodings, and one set of inputs. ``case`` stands for the case of that name."""
    return build_case(case or CASES[name], act, weight, granularity, seed=f"{name} {act} {weight} {granularity}")


def build_case(case: Case, act: str, weight: str = "-", granularity: str = "-", *, seed: str = "") -> Model:
    """The one-op model of a case, with random values that follow from ``seed``."""
    dtype = TYPES[act]
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    graph, values = _graph(case, rng)
    encodings: dict[str, Encoding] = {}
    for index, arg in enumerate(case.args):
        tensor = f"x{index}"
        if arg.kind in ("act", "const"):
            encodings[tensor] = encoding_for_range(arg.low, arg.high, dtype)
        elif arg.kind == "weight":
            encodings[tensor] = _weight(values[tensor], "float" if dtype.startswith("float") else weight, granularity, case, dtype)
    for index, arg in enumerate(case.args):
        if arg.kind == "bias":
            encodings[f"x{index}"] = _bias(encodings["x0"], encodings["x1"], dtype, case.axes[0])
    rounded = {n: fake_quantize(v, encodings[n]) if n in encodings else v for n, v in values.items()}
    # Codes cover the whole input range, so nothing is lost by feeding values on the grid.
    graph = graph.with_tensors([attrs.evolve(t, data=rounded[n]) for n, t in graph.tensors.items() if t.data is not None])
    feeds = {n: np.asarray(rounded[n], values[n].dtype) for n in graph.inputs}
    encodings |= _outputs(case, graph, feeds, dtype, encodings)
    return Model(graph, {n: e for n, e in encodings.items() if e.dtype != "float32"}, feeds)


def _graph(case: Case, rng: np.random.Generator) -> tuple[Graph, dict[str, Array]]:
    values: dict[str, Array] = {}
    for index, arg in enumerate(case.args):
        if arg.kind == "plain" or arg.value is not None:
            values[f"x{index}"] = np.asarray(arg.value, np.float32 if arg.kind == "const" else None)
        elif arg.kind == "mask":
            values[f"x{index}"] = rng.random(arg.shape) < 0.5
        elif arg.kind != "absent":
            values[f"x{index}"] = rng.uniform(arg.low, arg.high, arg.shape).astype(np.float32)
    names = tuple("" if arg.kind == "absent" else f"x{index}" for index, arg in enumerate(case.args))
    results = case.results or (tuple(f"y{index}" for index in range(case.outputs)) if case.outputs > 1 else ("y",))
    nodes = [Node(case.op, "the_node", names, results if not case.then else ("inner",), dict(case.attributes), case.domain)]
    if case.then:
        nodes.append(Node(case.then, "next", ("inner",), results))
    outputs = tuple(name for name in results if name)
    fed = {n: v for n, v in values.items() if case.args[int(n[1:])].kind in ("act", "mask", "fed")}
    constants = {n: v for n, v in values.items() if n not in fed}
    return make_graph(nodes, {n: (str(v.dtype), v.shape) for n, v in fed.items()}, outputs, constants, opset=case.opset), values


def _weight(data: Array, weight: str, granularity: str, case: Case, act: str) -> Encoding:
    if weight == "float":
        return Encoding(act)
    kind, dtype = GRANULARITIES[granularity], TYPES[weight]
    signed = not dtype.startswith("u")
    if kind == "tensor":
        return encoding_for_weights(data, dtype, symmetric=signed)
    if kind == "channel":
        return encoding_for_weights(data, dtype, granularity=kind, axis=case.axes[0], symmetric=signed)
    size = min(32 if kind == "block" else 16, data.shape[case.axes[1]])
    return encoding_for_weights(data, dtype, granularity=kind, axis=case.axes[1], block_size=size)


def _bias(x: Encoding, w: Encoding, dtype: str, channels: int) -> Encoding:
    if dtype.startswith("float"):
        return Encoding(dtype)
    scale = float(x.steps) * w.steps.astype(np.float64)
    if w.granularity == "channel":
        return Encoding("int32", scale.reshape(-1), axis=0, symmetric=True)
    if w.granularity == "tensor":
        return Encoding("int32", np.asarray(scale), symmetric=True)
    # A block-quantized weight has no single scale per channel: the bias takes the largest.
    others = tuple(axis for axis in range(scale.ndim) if axis != channels)
    return Encoding("int32", scale.max(axis=others), axis=0, symmetric=True)


def _outputs(
    case: Case, graph: Graph, feeds: Mapping[str, Array], dtype: str, known: Mapping[str, Encoding]
) -> dict[str, Encoding]:
    names = [n for n in graph.float_activations() if n not in graph.inputs]
    if not names:
        return {}
    if case.keeps:
        return dict.fromkeys(names, known["x1" if case.op == "Where" else "x0"])
    if case.fixed and dtype in case.fixed:
        scale, zero = case.fixed[dtype]
        return dict.fromkeys(names, Encoding(dtype, np.float32(scale), np.int64(zero)))
    with OrtModel(graph, graph.outputs, optimize=False) as model:
        found = model.run(feeds)
    ends = {n: v for n, v in found.items() if v.dtype.kind == "f"}
    grid = encoding_for_range(min(v.min() for v in ends.values()), max(v.max() for v in ends.values()), dtype)
    return dict.fromkeys([*names, *ends], grid)
