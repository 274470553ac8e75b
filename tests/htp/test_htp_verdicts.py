"""What `check` says, against what the vendor's validator said: one-op models over ops, types, granularities and six chips."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from npukit.backend import Rules
from npukit.encoding import encoding_for_range
from npukit.graph import CANONICAL_OPSET, Node, make_graph
from npukit_htp.backend import HtpBackend

BENCH = Path(__file__).resolve().parents[2] / "bench"


def _bench(name: str) -> ModuleType:
    """A module of the folder bench, which is no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


grid: Any = _bench("grid")
_bench("inputs")
families: Any = _bench("families")
forms: Any = _bench("forms")
verdicts: Any = _bench("verdicts")


@pytest.fixture(scope="module")
def cells(shared: Path) -> list[Any]:
    found = list(verdicts.recorded(shared / "reference" / "htp" / "verdicts.csv"))
    assert len(found) > 6500
    return found


def test_agreement_is_at_least_99_percent(cells: list[Any]) -> None:
    """On every chip the constraints accept what the validator accepts and refuse what it refuses, on 99 % of the grid."""
    for soc in {cell.soc for cell in cells}:
        mine = [cell for cell in cells if cell.soc == soc]
        assert verdicts.share(mine) >= 0.99, soc


def test_every_disagreement_is_explained(cells: list[Any]) -> None:
    """What is left is listed with its reason, and every explanation is still needed."""
    apart = [cell for cell in cells if not cell.agrees]
    assert [cell for cell in apart if not cell.explanation] == []
    assert {cell.explanation for cell in apart} == {row[-1] for row in verdicts.RECORDED}


def test_the_grid_has_both_answers(cells: list[Any]) -> None:
    """The table has enough of both verdicts to say something, and npukit does not answer all cells alike."""
    for side in ("vendor", "ours"):
        accepted = sum(getattr(cell, side) for cell in cells)
        assert len(cells) * 0.5 < accepted < len(cells) * 0.95


# Attributes with one value: nothing is trained on the chip, and only 8-bit floats saturate.
SINGLE = {("BatchNormalization", "training_mode"), ("Cast", "saturate")}
# Ops of the map that are not drawn: written as other ops once a model is loaded, without a shape, constant, or random.
NOT_DRAWN = {
    "QLinearConv", "QLinearMatMul", "QuantizeLinear", "DequantizeLinear", "Upsample", "Scatter",
    "NonZero", "Shape", "ConstantOfShape", "RandomUniformLike",
}  # fmt: skip


def _attributes(domain: str, op: str) -> list[str]:
    """The attributes of an op at the opset that models are brought to, or at its first; none for what ONNX does not define."""
    if not onnx.defs.has(op, domain):
        return []
    try:
        return list(onnx.defs.get_schema(op, CANONICAL_OPSET, domain).attributes)
    except onnx.defs.SchemaError:
        return list(onnx.defs.get_schema(op, domain).attributes)


def test_forms_vary_every_attribute_of_the_map() -> None:
    """Every op with a row is drawn, with two values or more (one may be the default) of each of its attributes."""
    drawn: dict[tuple[str, str], dict[str, int]] = {}
    for family in (*families.FAMILIES, *families.BETWEEN.values()):
        values = drawn.setdefault((family.domain, family.op), {})
        for name, choices in family.attributes.items():
            values[name] = max(values.get(name, 0), len(choices) + (name not in family.needs))
    for row in HtpBackend().constraints():
        if row.op in NOT_DRAWN:
            continue
        assert (row.domain, row.op) in drawn, row.op
        for attribute in _attributes(row.domain, row.op):
            if (row.op, attribute) not in SINGLE:
                assert drawn[row.domain, row.op].get(attribute, 0) >= 2, f"{row.op} {attribute}"


@pytest.mark.slow
def test_forms_are_distinct_and_repeatable() -> None:
    """A seed gives one list of forms, none of them twice, chains among them."""
    found = list(forms.draw(300, 7))
    assert len(found) == 300
    assert [f.attributes for f in forms.draw(300, 7)] == [f.attributes for f in found]
    assert any("+" in f.op for f in found)
    assert {f.act for f in found} == set(forms.ACTIVATIONS)
    assert {f.weight for f in found} >= {*forms.WEIGHTS, "-"}


ACCEPTED_BUT_WRONG = [
    ("Conv1x1", "u16", "s4", "blk32", "block-conv"),
    ("Conv1x1", "u16", "s8", "blk32", "block-conv"),
    ("Conv3x3_dil2", "u16", "s16", "pc", "dilated-16-bit"),
    ("Gemm", "u16", "s4", "lpbq", "lpbq-gemm"),
    ("Gemm_transB0", "u8", "s4", "lpbq", "lpbq-gemm"),
    ("Sigmoid_auto", "u16", "-", "-", "sigmoid-grid"),
    ("Sigmoid", "s16", "-", "-", "sigmoid-grid"),
    ("Reshape_requant", "u16", "-", "-", "float-island"),
    ("Reshape_requant", "u8", "-", "-", "float-island"),
    ("CumSum", "u8", "-", "-", "cumsum"),
    ("LpPool_padded", "u16", "-", "-", "lp-pool-pads"),
    ("LpPool_padded", "f16", "-", "-", "lp-pool-pads"),
    ("STFT", "f16", "-", "-", "stft-float16"),
    ("RMSNorm", "u8", "-", "-", "rounded-down"),
]


@pytest.mark.parametrize(("case", "act", "weight", "granularity", "rule"), ACCEPTED_BUT_WRONG)
def test_accepted_but_wrong_is_a_warning(case: str, act: str, weight: str, granularity: str, rule: str) -> None:
    """Forms that the validator takes and the simulator computes wrongly are accepted with a warning of their own."""
    model = grid.build(case, act, weight, granularity)
    backend = HtpBackend()
    found = Rules.of(backend, backend.soc("SM8750")).validate(model.graph, model.encodings)
    assert [(p.severity, p.rule) for p in found] == [("warning", rule)]


RIGHT_FORMS = [
    ("Sigmoid", "u16", "-", "-"),
    ("Conv3x3", "u16", "s16", "pc"),
    ("LpPool", "u16", "-", "-"),
    ("STFT", "f32", "-", "-"),
    ("QuickGelu", "s16", "-", "-"),
    ("RMSNorm", "u16", "-", "-"),
]


@pytest.mark.parametrize(("case", "act", "weight", "granularity"), RIGHT_FORMS)
def test_the_right_form_has_no_warning(case: str, act: str, weight: str, granularity: str) -> None:
    """The same op in its right form is accepted without a word."""
    model = grid.build(case, act, weight, granularity)
    backend = HtpBackend()
    assert Rules.of(backend, backend.soc("SM8750")).validate(model.graph, model.encodings) == ()


def test_padding_int8_without_a_value_is_a_warning() -> None:
    """The simulator pads int8 with 127 when no value is given, and rightly when one is."""
    grid8 = encoding_for_range(-1, 1, "int8")
    backend = HtpBackend()
    rules = Rules.of(backend, backend.soc("SM8750"))
    for inputs, expected in ((("x", "p"), ["pad-int8"]), (("x", "p", "v"), [])):
        constants = {"p": np.array([0, 1, 0, 1]), "v": np.float32(0)}
        graph = make_graph(
            [Node("Pad", "pad", inputs, ("y",))],
            {"x": ("float32", (2, 4))},
            ["y"],
            {n: np.asarray(constants[n]) for n in inputs[1:]},
        )
        assert [p.rule for p in rules.validate(graph, {"x": grid8, "y": grid8})] == expected


def test_float_before_v69_is_a_warning() -> None:
    """On v68 the validator takes float: accepted, with a warning that the chip computes integers only."""
    model = grid.build("Add", "f16")
    backend = HtpBackend()
    found = {soc: Rules.of(backend, backend.soc(soc)).validate(model.graph, model.encodings) for soc in ("v68", "v69")}
    assert [(p.severity, p.rule) for p in found["v68"]] == [("warning", "float-before-v69")]
    assert found["v69"] == ()


def test_models_of_the_grid_are_made_alike() -> None:
    """The same cell is the same model every time, so verdicts of two runs can be compared."""
    one, two = grid.build("Gemm", "u8", "s8", "pc"), grid.build("Gemm", "u8", "s8", "pc")
    assert one.encodings.keys() == two.encodings.keys()
    np.testing.assert_array_equal(one.feeds["x0"], two.feeds["x0"])


def test_an_inverse_is_two_by_two() -> None:
    """Larger matrices are refused, and the message says where; a tensor of unknown shape is not judged by its sizes."""
    backend = HtpBackend()
    rules = Rules.of(backend, backend.soc("SM8750"))
    node = Node("Inverse", "inv", ("x",), ("y",), {}, "com.microsoft")
    for size, expected in ((2, []), (3, ["dims", "dims"])):
        graph = make_graph([node], {"x": ("float32", (4, size, size))}, ["y"])
        encodings = dict.fromkeys("xy", encoding_for_range(-1, 1, "uint8"))
        assert [p.rule for p in rules.validate(graph, encodings)] == expected
    graph = make_graph([node], {"x": ("float32", None)}, ["y"])
    assert [p.rule for p in rules.validate(graph, encodings)] == ["dynamic-shape"]


@pytest.mark.parametrize(
    ("case", "granularity", "rules"),
    [
        ("Conv1x1_single", "pc", ["dims"]),
        ("Conv1x1_single", "pt", ["inputs"]),
        ("Conv1x1_single_nobias", "pc", []),
        ("Conv1x1", "pc", []),
        ("ConvTranspose_single", "pc", ["dims"]),
        ("ConvTranspose_nobias", "pt", []),
        ("ConvTranspose", "pc", []),
    ],
)
def test_one_output_channel_of_4_bits_takes_no_bias(case: str, granularity: str, rules: list[str]) -> None:
    """The scale of one channel is a scale per tensor, which 4-bit weights have without a bias only."""
    backend = HtpBackend()
    model = grid.build(case, "u8", "s4", granularity)
    found = Rules.of(backend, backend.soc("SM8750")).validate(model.graph, model.encodings)
    assert [p.rule for p in found] == rules


def test_ops_that_the_provider_lacks_are_refused() -> None:
    """An op in the vendor's own list without a kernel here is refused."""
    backend = HtpBackend()
    assert not backend.supports("Col2Im")
    assert not backend.supports("NonMaxSuppression")
    assert backend.supports("QuickGelu", "com.microsoft")
    assert not backend.supports("QuickGelu")
    assert not backend.supports("Gelu", "com.microsoft")
