"""Programs that are annotated with quantize and dequantize ops bring their encodings, and a chip judges those."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import npukit as nk
from npukit.errors import ConstraintError, EncodingError
from npukit.quantization import read_source

# The codes that an op names, the type that torch holds them in, the type that is meant.
MEANT = [
    (0, 255, "uint8", "uint8"),
    (-128, 127, "int8", "int8"),
    (-127, 127, "int8", "int8"),
    (0, 65535, "int32", "uint16"),
    (0, 65535, "uint16", "uint16"),
    (-32768, 32767, "int16", "int16"),
    (-32767, 32767, "int32", "int16"),
    (0, 15, "uint8", "uint4"),
    (-8, 7, "int8", "int4"),
    (-(2**31), 2**31 - 1, "int32", "int32"),
]


@pytest.fixture
def annotated(torch: ModuleType) -> Any:
    """Makes a linear layer in a module, whose input, weight and output are annotated."""
    ops = torch.ops.quantized_decomposed

    class Linear(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self, low: int, high: int, dtype: Any, size: int, group: int) -> None:
            super().__init__()
            zero = 0 if low < 0 else (high + 1) // 2
            self.grid = (4 / (high - low), zero, low, high, dtype)
            self.codes = torch.nn.Buffer(torch.randint(-7, 8, (size, size), dtype=torch.int8))
            self.bias = torch.nn.Parameter(torch.randn(size))
            self.group = group
            self.scales = torch.nn.Buffer(torch.rand(size, size // group if group else 1) / size + 0.01)
            self.zeros = torch.nn.Buffer(torch.zeros(size, dtype=torch.int64))

        def weight(self) -> Any:
            if self.group:
                return ops.dequantize_per_channel_group(self.codes, self.scales, None, -8, 7, torch.int8, self.group, torch.float32)
            return ops.dequantize_per_channel(self.codes, self.scales[:, 0], self.zeros, 0, -8, 7, torch.int8)

        def forward(self, x: Any) -> Any:
            x = ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *self.grid), *self.grid)
            y = torch.nn.functional.linear(x, self.weight(), self.bias)
            return ops.dequantize_per_tensor(ops.quantize_per_tensor(y, *self.grid), *self.grid)

    def make(low: int = 0, high: int = 255, dtype: str = "uint8", size: int = 8, group: int = 0) -> Any:
        return torch.nn.ModuleDict({"fc": Linear(low, high, getattr(torch, dtype), size, group)})["fc"]

    return make


def wrapped(torch: ModuleType, module: Any) -> Any:
    return torch.nn.Sequential(torch.nn.Sequential(module))


@pytest.mark.parametrize(("low", "high", "dtype", "meant"), MEANT)
def test_types(torch: ModuleType, annotated: Any, low: int, high: int, dtype: str, meant: str) -> None:
    """The range of codes says which type is meant, not the type that holds them."""
    source = read_source(wrapped(torch, annotated(low, high, dtype)), example=(torch.randn(1, 8),))
    (node,) = source.graph.nodes
    x, weight, _ = (source.encodings.get(name) for name in node.inputs)
    y = source.encodings[node.outputs[0]]
    assert node.name == "0.0/Gemm"
    assert x is not None
    assert weight is not None
    assert (x.dtype, y.dtype, weight.dtype, weight.axis, weight.origin) == (meant, meant, "int4", 0, "override")
    assert float(x.steps) == np.float32(4 / (high - low))
    assert int(x.zeros) == (0 if low < 0 else (high + 1) // 2)


# Not int8: the chip refuses int4 weights under int8 activations with a bias.
@pytest.mark.parametrize("types", [(0, 255, "uint8"), (-32768, 32767, "int16")], ids=lambda t: t[2])
@pytest.mark.parametrize("size", [8, 256])
def test_the_chip_computes_what_was_annotated(torch: ModuleType, annotated: Any, types: tuple[int, int, str], size: int) -> None:
    """Nothing is calibrated, and the emulator gives torch's own result but for a step; large weights are int4 as small ones."""
    module = wrapped(torch, annotated(*types, size)).eval()
    x = torch.randn(1, size)
    made = nk.quantize(module, "htp", example=(x,))
    assert made.report.origins["calibrated"] == 0
    assert sorted(e.dtype for e in made.encodings.values() if e.bits == 4) == ["int4"]
    with nk.Session(made) as session, torch.no_grad():
        (found,) = session.run({made.graph.inputs[0]: x.numpy()}).values()
        assert np.abs(found - module(x).numpy()).max() <= 1.01 * 4 / (types[1] - types[0])


def test_blocks(torch: ModuleType, annotated: Any) -> None:
    """Groups of a row are blocks of an axis."""
    module = wrapped(torch, annotated(group=4)).eval()
    x = torch.randn(1, 8)
    source = read_source(module, example=(x,))
    (weight,) = [e for n, e in source.encodings.items() if source.graph.tensor(n).is_constant]
    assert (weight.dtype, weight.axis, weight.block_size) == ("int4", 1, 4)
    np.testing.assert_array_equal(weight.steps, module[0][0].scales.numpy())


def test_a_chip_without_the_type(torch: ModuleType, annotated: Any, save: Any) -> None:
    """Errors name the module; quantize writes nothing, unless it is told not to be strict."""
    path = save(wrapped(torch, annotated(-8, 7, "int8")), torch.randn(1, 8))
    result = nk.check(path, "htp")
    assert result.verdict == "refused"
    assert {(p.node, p.rule) for p in result.problems} == {("0.0/Gemm", "dtype")}
    with pytest.raises(ConstraintError, match=r"'0\.0/Gemm'.*int4"):
        nk.quantize(path, "htp")
    assert nk.quantize(path, "htp", options=nk.Options(strict=False)).report.problems
    assert nk.check(path, "cpu").verdict == "accepted"


def test_no_type_has_the_range(torch: ModuleType, annotated: Any) -> None:
    """A range that is no type's is refused, with the module: it would clip elsewhere."""
    with pytest.raises(EncodingError, match=r"^module '0\.0', op 'quantize_per_tensor': no type has the codes 0 to 127"):
        nk.check(wrapped(torch, annotated(0, 127, "uint8")), example=(torch.randn(1, 8),))


def test_grids_that_are_chosen_at_run_time(torch: ModuleType) -> None:
    """Dynamic quantization has no grid to judge."""
    ops = torch.ops.quantized_decomposed

    class Dynamic(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, x: Any) -> Any:
            scale, zero = ops.choose_qparams.tensor(x, 0, 255, 1e-6, torch.uint8)
            return ops.quantize_per_tensor.tensor(x, scale, zero, 0, 255, torch.uint8)

    with pytest.raises(EncodingError, match=r"module '0\.0', op .*choose_qparams\.tensor stands for no fixed grid"):
        nk.check(wrapped(torch, Dynamic()), example=(torch.randn(1, 8),))


def test_pt2e(torch: ModuleType, network: Any) -> None:
    """A program that torchao has prepared and converted: every encoding that it chose arrives."""
    pytest.importorskip("torchao", reason="torchao is not installed")
    from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

    act = QuantizationSpec(torch.int32, MinMaxObserver.with_args(eps=2**-20), 0, 65535, torch.per_tensor_affine)
    weight = QuantizationSpec(torch.int8, PerChannelMinMaxObserver, -7, 7, torch.per_channel_symmetric, ch_axis=0)

    class A16W4(Quantizer):  # type: ignore[misc]
        def annotate(self, model: Any) -> Any:
            for node in model.graph.nodes:
                if node.target in (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default):
                    specs = {node.args[0]: act, node.args[1]: weight}
                    note = QuantizationAnnotation(input_qspec_map=specs, output_qspec=act, _annotated=True)
                    node.meta["quantization_annotation"] = note
            return model

        def validate(self, model: Any) -> None:
            """Anything goes."""

    inputs = (torch.randn(1, 4, 8, 8), torch.rand(1, 4, 1, 1))
    prepared = prepare_pt2e(torch.export.export(network.eval(), inputs).module(), A16W4())
    prepared(*inputs)
    program = torch.export.export(convert_pt2e(prepared), inputs)
    source = read_source(program)
    found = {node.name: source.encodings[node.outputs[0]].dtype for node in source.graph.nodes if node.op in ("Conv", "Gemm")}
    assert found == dict.fromkeys(("blocks.0.conv/Conv", "blocks.1.conv/Conv", "head/Gemm"), "uint16")
    weights = [e for n, e in source.encodings.items() if source.graph.tensor(n).is_constant]
    assert {(e.dtype, e.axis) for e in weights} == {("int4", 0)}
    assert len(weights) == 3
    assert nk.check(program, "htp").verdict == "accepted"
