"""The data of the HTP plugin: SoCs, op constraints, and what follows from them."""

from __future__ import annotations

from typing import Any

import pytest

from npukit.backend import OpConstraint
from npukit.errors import UsageError
from npukit.graph import Node, make_graph
from npukit_htp import plugin
from npukit_htp.backend import HtpBackend
from npukit_htp.kernels import KERNELS

# The ONNX ops that the vendor's open converters map to an HTP op (aimet-onnx 2.42 and the onnxruntime-qnn op builders).
MAPPED = set(
    "Abs Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast Ceil Clip Col2Im Concat ConstantOfShape Conv "  # noqa: SIM905
    "ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Div Einsum Elu Equal Exp Expand Flatten Floor FusedMatMul GRU "
    "Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample "
    "GroupNormalization HardSigmoid HardSwish InstanceNormalization Inverse IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu "
    "Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul MatMulNBits Max MaxPool MaxRoiPool Mean Min Mod Mul Neg "
    "NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear QuickGelu "
    "RMSNormalization RandomUniformLike Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum ReduceSumSquare Relu "
    "Reshape Resize RoiAlign RotaryEmbedding Round STFT Scatter ScatterElements ScatterND Shape Sigmoid Sign "
    "SimplifiedLayerNormalization Sin Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh "
    "ThresholdedRelu Tile TopK Transpose Unsqueeze Upsample Where Xor".split()
)
# In those maps, but never accepted by the HTP.
ABSENT = {"ReduceProd", "Erf", "Celu"}


@pytest.fixture(scope="module")
def backend() -> HtpBackend:
    return HtpBackend()


@pytest.fixture(scope="module")
def rows(backend: HtpBackend) -> tuple[OpConstraint, ...]:
    return backend.constraints()


def test_every_row_says_where_it_comes_from(rows: tuple[OpConstraint, ...]) -> None:
    """Each row has a source and a known confidence, and each port reference names an existing port."""
    for row in rows:
        assert row.source.strip(), row
        assert row.confidence in ("high", "medium", "low"), row
        for port in (*row.inputs, *row.outputs):
            assert port.same_as in (None, "in[0]"), row


def test_every_caveat_about_ranges_has_a_cure(rows: tuple[OpConstraint, ...]) -> None:
    """Who is warned of a range is told what to do, and its ports are ports of the row."""
    for row, caveat in [(one, caveat) for one in rows for caveat in one.caveat if caveat.fine]:
        assert caveat.hint, row
        for name in {name for span in caveat.fine for name in (span.port, span.over) if name}:
            side, index = name.rstrip("]").split("[")
            assert int(index) < len(row.inputs if side == "in" else row.outputs), (row.op, name)


def test_every_mapped_op_has_a_row(rows: tuple[OpConstraint, ...]) -> None:
    """All ops that the open converters map are covered, and those that the HTP never takes are absent."""
    assert {row.op for row in rows} >= MAPPED
    assert not {row.op for row in rows} & ABSENT


def test_every_kernel_has_a_row(rows: tuple[OpConstraint, ...]) -> None:
    """A kernel that no row accepts could never run."""
    assert set(KERNELS) <= {f"{row.domain}.{row.op}".removeprefix(".") for row in rows}


def test_a_float_form_exists_for_what_runs_in_float(rows: tuple[OpConstraint, ...]) -> None:
    """Float rows need v69 or later, or say that chips before compute integers only, whatever the validator takes."""
    floats = [row for row in rows if row.inputs and row.inputs[0].dtypes and row.inputs[0].dtypes <= {"float32", "float16"}]
    assert floats
    early = [row for row in floats if row.min_arch not in ("v69", "v73")]
    assert early
    assert all("float-before-v69" in [caveat.rule for caveat in row.caveat] for row in early)


def test_native_names(rows: tuple[OpConstraint, ...]) -> None:
    """Rows carry the name of the vendor's op."""
    names = {row.op: row.native for row in rows}
    assert names["Conv"] == "Conv2d or Conv3d or DepthWiseConv2d"
    assert names["Sub"] == "ElementWiseSubtract"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("SM8650", "v75"), ("sm8650", "v75"), ("V79", "v79"), ("", "v79"), ("sc8380xp", "v73"), ("v66", "v66")],
)
def test_soc_names(backend: HtpBackend, name: str, expected: str) -> None:
    """A SoC is found by name in any case, or by architecture."""
    assert backend.soc(name).arch == expected


def test_architecture_names_its_flagship(backend: HtpBackend) -> None:
    """An architecture stands for the phone chip that has it."""
    assert [backend.soc(arch).name for arch in ("v81", "v79", "v75", "v73", "v69", "v68")] == [
        "SM8850", "SM8750", "SM8650", "SM8550", "SM8450", "SM8350"
    ]  # fmt: skip


def test_unknown_soc(backend: HtpBackend) -> None:
    """An unknown SoC is a usage error with a suggestion."""
    with pytest.raises(UsageError, match="did you mean 'SM8650'"):
        backend.soc("SM8655")


def test_socs_are_complete(backend: HtpBackend) -> None:
    """Names are unique, each SoC has an architecture, an id and a source; known figures are right."""
    socs = backend.socs()
    assert len({soc.name for soc in socs}) == len(socs) == 54
    assert all(soc.source and soc.arch and soc.id is not None for soc in socs)
    assert (backend.soc("SM8750").id, backend.soc("SM8750").memory_mb) == (69, 8)
    assert backend.soc("QCM6490").memory_mb == 2


def test_precision(backend: HtpBackend) -> None:
    """The default is 8 bits, per channel except on the v66 DSP."""
    assert backend.precision(backend.soc()).per_channel
    assert not backend.precision(backend.soc("SM8250")).per_channel


def _fitting(rows: tuple[OpConstraint, ...], op: str, arch: int, types: tuple[str, ...], out: str, **form: Any) -> bool:
    """Whether a row of ``op`` exists on ``arch`` that takes these input types, by types and granularity of the weight alone."""
    for row in rows:
        ports = row.inputs[: len(types)]
        if row.op != op or int(row.min_arch[1:] or 0) > arch or len(ports) < len(types):
            continue
        granularity = form.get("granularity", "tensor")
        if (
            all(t in p.dtypes for t, p in zip(types, ports, strict=True))
            and out in row.outputs[0].dtypes
            and (len(ports) < 2 or granularity in ports[1].granularity)
        ):
            return True
    return False


@pytest.mark.parametrize(
    ("op", "types", "granularity", "since"),
    [
        ("Conv", ("uint8", "int8"), "channel", 68),
        ("Conv", ("uint16", "int8"), "channel", 68),
        ("Conv", ("uint8", "int4"), "channel", 68),
        ("Conv", ("uint16", "int16"), "channel", 73),
        ("Conv", ("uint16", "uint16"), "tensor", 73),
        ("Conv", ("uint8", "int4"), "lpbq", 69),
        ("Conv", ("float16", "float16"), "tensor", 68),
        ("Conv", ("float16", "int8"), "channel", 69),
        ("Conv", ("float16", "int16"), "channel", 999),
        ("Conv", ("uint8", "int8"), "tensor", 0),
        ("Conv", ("uint8", "int16"), "tensor", 999),
        ("ConvTranspose", ("uint16", "int16"), "channel", 73),
        ("Gemm", ("uint16", "int4"), "lpbq", 68),
        ("MatMul", ("uint16", "int16"), "channel", 73),
        ("MatMul", ("uint8", "uint8"), "tensor", 0),
        ("MatMul", ("uint8", "uint16"), "tensor", 68),
        ("MatMul", ("float16", "uint8"), "tensor", 999),
    ],
)
def test_weights_by_architecture(
    rows: tuple[OpConstraint, ...], op: str, types: tuple[str, ...], granularity: str, since: int
) -> None:
    """Weight types arrive with the architecture that brought them."""
    out = "float16" if types[0] == "float16" else types[0]
    accepted = [arch for arch in (66, 68, 69, 73, 75, 79, 81) if _fitting(rows, op, arch, types, out, granularity=granularity)]
    assert accepted == [arch for arch in (66, 68, 69, 73, 75, 79, 81) if arch >= since]


@pytest.mark.parametrize(
    ("op", "types"),
    [
        ("Add", "uint8 uint16 int8 int16"),
        ("Min", "uint8 uint16 int8"),
        ("LeakyRelu", "uint8 uint16"),
        ("BatchNormalization", "uint8 uint16 int8"),
        ("LRN", "uint8"),
        ("Mish", ""),
        ("Einsum", "uint8 int8 uint16"),
        ("Selu", "uint8 uint16 int8 int16"),
        ("CumSum", "uint8 uint16"),
    ],
)
def test_activation_types(rows: tuple[OpConstraint, ...], op: str, types: str) -> None:
    """Integer activation types on v73 and later are those the vendor's tools accept."""
    found = {t for row in rows if row.op == op for t in row.inputs[0].dtypes if t.startswith(("int", "uint"))}
    assert found - {"int32", "int64", "uint32"} == set(types.split())


def test_fixed_grids(rows: tuple[OpConstraint, ...]) -> None:
    """Sigmoid and 16-bit Tanh have their documented output grids."""
    ports = {row.op: row.outputs[0] for row in rows if row.variant == "quantized"}
    assert ports["Sigmoid"].fixed == {"uint8": (1 / 256, 0), "uint16": (1 / 65536, 0)}
    assert ports["Tanh"].fixed == {"uint16": (1 / 32768, 32768), "int16": (1 / 32768, 0)}


def test_prepare_folds_batch_norm(backend: HtpBackend) -> None:
    """A Conv with a BatchNormalization after it becomes one Conv."""
    import numpy as np

    ones = np.ones(3, np.float32)
    graph = make_graph(
        [Node("Conv", "c", ("x", "w"), ("m",)), Node("BatchNormalization", "b", ("m", "s", "o", "e", "v"), ("y",))],
        {"x": ("float32", (1, 2, 4, 4))},
        ["y"],
        {"w": np.ones((3, 2, 1, 1), np.float32), "s": ones, "o": ones, "e": ones, "v": ones},
    )
    assert [node.op for node in backend.prepare(graph).nodes] == ["Conv"]


def test_plugin_registers_the_backend() -> None:
    """The entry point gives one backend, called htp."""
    assert plugin.register_backends().name == "htp"
