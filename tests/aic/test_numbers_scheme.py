"""The compiler's grids: schemas for activations and constants, and the rule for biases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import npukit as nk
from npukit.backend import Precision, Scheme, Soc
from npukit.encoding import Array, Encoding, fake_quantize
from npukit.errors import UsageError
from npukit.graph import Node, Tensor, make_graph
from npukit_aic.scheme import GlowScheme, glow_precision, glow_scheme

X = Encoding("int8", 0.02, -128)
W = Encoding("int8", 0.01)
LIMIT = (1 << 29) - 1


def bias(*values: float) -> Tensor:
    return make_graph([], {}, [], {"b": np.array(values, np.float32)}).tensor("b")


def grid(encoding: Encoding | None) -> tuple[Any, Any]:
    assert encoding is not None
    return encoding.steps.tolist(), encoding.zeros.tolist()


def test_activations_have_glows_offsets() -> None:
    """An offset is the zero point of the signed type: real = scale * (q - offset)."""
    found = glow_scheme({}).activation(0, 6, "int8")
    assert grid(found) == pytest.approx((6 / 255, -128))
    assert float(found.min) == 0
    assert float(found.max) == pytest.approx(6)
    assert grid(glow_scheme({}).activation(-2, 5, "int8")) == pytest.approx((5 / 127, 0))
    asymmetric = glow_scheme({"quantization_schema_activations": "asymmetric"})
    assert grid(asymmetric.activation(-2, 5, "int8")) == pytest.approx((7 / 255, -55))
    assert asymmetric.activation(-2, 5, "int8", symmetric=True).zeros == 0
    assert glow_scheme({}).activation(-2, 5, "int8", symmetric=False).zeros == -55
    assert grid(glow_scheme({}).activation(0, 0, "int8")) == pytest.approx((0.1, 0))  # a tensor of zeros has a scale
    power = glow_scheme({"quantization_schema_activations": "symmetric_with_power2_scale"})
    assert grid(power.activation(-3, 6, "int8", symmetric=True)) == (2**-4, 0)
    assert glow_scheme({}).activation(0, 1, "float16").is_float


@given(st.floats(-100, 0), st.floats(0.01, 100), st.sampled_from(["asymmetric", "symmetric_with_uint8"]))
def test_unsigned_types_have_the_same_real_values(low: float, high: float, schema: str) -> None:
    scheme = GlowScheme(activations=schema)
    signed, unsigned = (scheme.activation(low, high, dtype) for dtype in ("int8", "uint8"))
    assert (float(signed.min), float(signed.max)) == (float(unsigned.min), float(unsigned.max))


def test_weights_per_tensor_and_per_channel() -> None:
    data = np.array([[-1.0, 2.0], [0.5, 4.0]], np.float32)
    constants = {name: glow_scheme({"quantization_schema_constants": name}) for name in ("asymmetric", "symmetric_with_uint8")}
    assert grid(constants["asymmetric"].weight(data, "int8")) == pytest.approx((5 / 255, -77))
    by_channel = constants["asymmetric"].weight(data, "int8", granularity="channel", axis=-2)
    assert (by_channel.axis, by_channel.symmetric) == (0, True)
    assert by_channel.steps == pytest.approx([2 / 127, 4 / 127])
    assert not by_channel.zeros.any()
    mixed = constants["symmetric_with_uint8"].weight(data, "int8", granularity="channel", axis=0)
    assert mixed.zeros.tolist() == [0, -128]
    assert mixed.steps == pytest.approx([2 / 127, 4 / 255])
    assert not constants["symmetric_with_uint8"].weight(data, "int8", granularity="channel", axis=0, symmetric=True).zeros.any()
    blocks = constants["asymmetric"].weight(data, "int8", granularity="block", axis=1, block_size=1)
    assert blocks.granularity == "block"


def test_biases_have_the_product_of_scales() -> None:
    scheme = glow_scheme({})
    assert grid(scheme.bias(X, W, bias(1.0, -3.0))) == pytest.approx((0.0002, 0))
    assert grid(scheme.bias(X, W, bias(0.0, 0.0))) == pytest.approx((0.0002, 0))
    channels = Encoding("int8", [0.01, 0.02], axis=0)
    found = scheme.bias(X, channels, bias(1.0, 0.0))
    assert found is not None
    assert (found.dtype, found.axis, found.symmetric, found.origin) == ("int32", 0, True, "derived")
    assert found.steps == pytest.approx([0.0002, 0.0004])
    assert scheme.bias(None, W, bias(1.0)) is None
    assert scheme.bias(Encoding("float16"), W, bias(1.0)) is None
    assert scheme.bias(X, channels, bias(1.0, 2.0, 3.0)) is None


def test_a_bias_beyond_int32_keeps_its_own_scale_per_tensor() -> None:
    """0.0002 x 2^29 is 107,374: more than that does not fit the product of scales."""
    scheme = glow_scheme({})
    assert grid(scheme.bias(X, W, bias(107_000.0)))[0] == pytest.approx(0.0002)
    assert grid(scheme.bias(X, W, bias(200_000.0, -1.0)))[0] == pytest.approx(200_000 / LIMIT)
    assert scheme.with_room_for_bias(X, W, bias(200_000.0)) is W
    power = glow_scheme({"quantization_schema_constants": "symmetric_with_power2_scale"})
    assert grid(power.bias(X, W, bias(200_000.0)))[0] == 2**-11


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5), st.floats(1e-6, 0.1))
def test_per_channel_the_weights_make_room(values: list[float], step: float) -> None:
    """Afterwards the product rule holds in every channel, and no code of the bias saturates."""
    scheme, tensor = glow_scheme({}), bias(*values)
    w = Encoding("int8", np.full(len(values), step), axis=0)
    roomy = scheme.with_room_for_bias(X, w, tensor)
    assert np.all(roomy.steps >= w.steps)
    found = scheme.bias(X, roomy, tensor)
    assert found is not None
    product = X.steps.astype(np.float64) * roomy.steps
    assert np.array_equal(found.steps, product.astype(np.float32))
    assert np.all(np.abs(np.array(values) / product) <= (LIMIT + 1) * (1 + 1e-6))
    small = np.abs(values) < float(X.steps) * step * LIMIT * 0.99
    assert np.array_equal(roomy.steps[small], w.steps[small])


def test_int8_biases_have_a_range_of_their_own() -> None:
    assert grid(glow_scheme({}).bias(X, W, bias(1.0, 6.0), "int8")) == pytest.approx((6 / 255, -128))
    assert grid(glow_scheme({}).bias(X, W, bias(-6.0, 1.0), "int8")) == pytest.approx((6 / 128, 0))
    channels = Encoding("int8", [0.01], axis=0)
    assert glow_scheme({"quantization_precision_bias": "Int8"}).with_room_for_bias(X, channels, bias(1e6)) is channels


def test_settings_become_types_and_schemas() -> None:
    assert glow_precision({}) == Precision("int8", "int8", "int32", ())
    asked = {"quantization_precision_bias": "Int8", "enable_channelwise": True, "enable_rowwise": True}
    assert glow_precision(asked) == Precision("int8", "int8", "int8", ("Conv", "ConvTranspose", "Gemm", "MatMul"))
    with pytest.raises(UsageError, match="did you mean 'symmetric_with_uint8'"):
        glow_scheme({"quantization_schema_constants": "symmetric_with_int8"})
    power = glow_scheme({"quantization_schema_constants": "symmetric_with_power2_scale"})
    assert power.rounded(np.array([0.3, 0.5])).tolist() == [0.5, 0.5]
    assert glow_scheme({}).rounded(np.array([0.3])).tolist() == [0.3]


@pytest.mark.parametrize("channelwise", [False, True])
def test_the_pipeline_makes_glows_grids(channelwise: bool) -> None:
    """A convolution with a Relu, planned with Glow's types and schemas; the quantized model stays close to the float one."""
    settings = {"enable_channelwise": channelwise}

    class Glow(type(nk.target("cpu").backend)):  # type: ignore[misc]
        name = "glow"

        def precision(self, soc: Soc) -> Precision:
            return glow_precision(settings)

        def scheme(self, soc: Soc) -> Scheme:
            return glow_scheme(settings)

    rng = np.random.default_rng(0)
    weights: dict[str, Array] = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32) * np.array([1, 2, 3, 4], np.float32)[:, None, None, None],
        "b": rng.standard_normal(4).astype(np.float32),
    }
    nodes = [Node("Conv", "conv", ("x", "w", "b"), ("h",), {}), Node("Relu", "relu", ("h",), ("y",), {})]
    graph = make_graph(nodes, {"x": ("float32", (1, 3, 8, 8))}, ["y"], weights)
    data = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
    found = nk.quantize(graph, Glow(), data=data).encodings
    assert found["y"].zeros == -128
    assert found["x"].zeros == 0
    assert found["w"].steps.shape == ((4,) if channelwise else ())
    assert found["b"].steps == pytest.approx(found["x"].steps * found["w"].steps)
    assert {found[name].dtype for name in ("x", "w", "y")} == {"int8"}
    assert np.abs(fake_quantize(weights["w"], found["w"]) - weights["w"]).max() <= found["w"].steps.max() * 0.51
