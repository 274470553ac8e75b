"""A layer seen as matrix times columns gives what ONNX Runtime gives."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

from npukit.backend.ort import OrtModel
from npukit.encoding import encoding_for_weights, fake_quantize
from npukit.graph import Graph, Node, make_graph
from npukit_aimet.linear import Picks, linear_view

RANDOM = np.random.default_rng(0)


def layer(op: str, weight: tuple[int, ...], x: tuple[int, ...], bias: int = 0, **attributes: Any) -> tuple[Graph, Node]:
    constants = {"w": RANDOM.standard_normal(weight).astype(np.float32)}
    if bias:
        constants["b"] = RANDOM.standard_normal(bias).astype(np.float32)
    node = Node(op, "", ("x", "w", "b") if bias else ("x", "w"), ("y",), attributes)
    graph = make_graph([node], inputs={"x": ("float32", x)}, outputs=["y"], constants=constants)
    return graph, graph.nodes[0]


CASES = {
    "conv": ("Conv", (6, 4, 3, 3), (2, 4, 9, 8), {"pads": (1, 0, 2, 1), "strides": (2, 1)}),
    "dilated": ("Conv", (6, 4, 3, 2), (1, 4, 9, 8), {"dilations": (2, 3)}),
    "groups": ("Conv", (6, 2, 3, 3), (2, 4, 7, 7), {"group": 2}),
    "depthwise": ("Conv", (8, 1, 3, 3), (1, 4, 7, 7), {"group": 4, "pads": (1, 1, 1, 1)}),
    "same_upper": ("Conv", (3, 2, 4, 3), (1, 2, 7, 8), {"auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    "same_lower": ("Conv", (3, 2, 4, 3), (1, 2, 7, 8), {"auto_pad": "SAME_LOWER", "strides": (2, 2)}),
    "valid": ("Conv", (3, 2, 2, 2), (1, 2, 5, 5), {"auto_pad": "VALID"}),
    "conv1d": ("Conv", (3, 2, 3), (2, 2, 9), {"pads": (1, 1)}),
    "conv3d": ("Conv", (3, 2, 2, 2, 2), (1, 2, 4, 4, 5), {}),
    "transpose": ("ConvTranspose", (4, 3, 3, 3), (2, 4, 5, 6), {"strides": (2, 2), "pads": (1, 0, 0, 1)}),
    "transpose_groups": ("ConvTranspose", (4, 3, 2, 2), (1, 4, 5, 6), {"strides": (2, 3), "group": 2, "dilations": (1, 2)}),
    "output_padding": ("ConvTranspose", (4, 3, 3, 3), (1, 4, 5, 6), {"strides": (2, 2), "output_padding": (1, 1)}),
    "transpose_same": ("ConvTranspose", (2, 3, 3, 3), (1, 2, 4, 5), {"strides": (2, 2), "auto_pad": "SAME_UPPER"}),
    "output_shape": ("ConvTranspose", (2, 3, 3, 3), (1, 2, 4, 5), {"strides": (2, 2), "output_shape": (10, 11)}),
    "gemm": ("Gemm", (5, 7), (3, 5), {}),
    "gemm_alpha": ("Gemm", (7, 5), (3, 5), {"transB": 1, "alpha": 2.5, "beta": 0.5}),
    "gemm_trans_a": ("Gemm", (5, 7), (5, 3), {"transA": 1}),
    "matmul": ("MatMul", (5, 7), (2, 3, 5), {}),
    "matmul_batched": ("MatMul", (4, 5, 7), (2, 4, 3, 5), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_matrix_times_columns_is_the_op(name: str) -> None:
    """For every op and attribute: alpha x matrix x columns has the values of the op, and restore undoes matrix."""
    op, weight, shape, attributes = CASES[name]
    graph, node = layer(op, weight, shape, **attributes)
    view = linear_view(graph, node)
    assert view is not None
    w, x = graph.constant("w"), RANDOM.standard_normal(shape).astype(np.float32)
    assert w is not None
    matrix = view.matrix(w)
    assert np.array_equal(view.restore(matrix), w)
    found = np.matmul(matrix, view.columns(x, Picks(10**9, [0]))) * float(attributes.get("alpha", 1.0))
    with OrtModel(graph) as model:
        wanted = model.run({"x": x})["y"]
    # (G, R, n) against the op's layout: channels second for convolutions, last for products.
    if op.startswith("Conv"):
        wanted = np.moveaxis(wanted, 1, 0).reshape(found.shape[0] * found.shape[1], -1)
        found = found.reshape(found.shape[0] * found.shape[1], -1)
    elif view.groups > 1:
        wanted = wanted.swapaxes(0, 1).reshape(4, -1, 7).swapaxes(1, 2)
    else:
        wanted = wanted.reshape(-1, 7).T[None]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_constant_first_operand() -> None:
    """MatMul with the constant on the left is a layer as well."""
    w = RANDOM.standard_normal((6, 5)).astype(np.float32)
    node = Node("MatMul", "", ("w", "x"), ("y",))
    graph = make_graph([node], inputs={"x": ("float32", (2, 5, 3))}, outputs=["y"], constants={"w": w})
    view = linear_view(graph, graph.nodes[0])
    assert view is not None
    x = RANDOM.standard_normal((2, 5, 3)).astype(np.float32)
    found = view.matrix(w)[0] @ view.columns(x, Picks(100, [0]))[0]
    np.testing.assert_allclose(found, np.moveaxis(w @ x, 1, 0).reshape(6, -1), rtol=1e-4, atol=1e-5)


def test_what_is_no_layer() -> None:
    """Ops without a constant operand, of other kinds, and products of constants are none."""
    node = Node("MatMul", "", ("x", "x"), ("y",))
    graph = make_graph([node], inputs={"x": ("float32", (3, 3))}, outputs=["y"])
    assert linear_view(graph, graph.nodes[0]) is None
    graph = make_graph([Node("Relu", "", ("x",), ("y",))], inputs={"x": ("float32", (3, 3))}, outputs=["y"])
    assert linear_view(graph, graph.nodes[0]) is None


def test_the_gain_of_a_bias() -> None:
    """A Gemm's bias acts with beta / alpha; with beta 0 there is no bias to change."""
    graph, node = layer("Gemm", (5, 7), (3, 5), bias=7, alpha=2.0, beta=0.5)
    view = linear_view(graph, node)
    assert view is not None
    assert (view.bias, view.gain) == ("b", 0.25)
    graph, node = layer("Gemm", (5, 7), (3, 5), bias=7, beta=0.0)
    assert attrs.asdict(linear_view(graph, node), recurse=False)["bias"] == ""  # type: ignore[arg-type]


@pytest.mark.parametrize("granularity", ["tensor", "channel", "block", "lpbq"])
@pytest.mark.parametrize("dtype", ["int2", "int3", "int4", "int8"])
def test_grids_of_every_granularity(granularity: str, dtype: str) -> None:
    """Scale and zero point per weight reproduce the encoding's own rounding."""
    graph, node = layer("Conv", (6, 8, 3, 3), (1, 8, 9, 9))
    view, w = linear_view(graph, node), graph.constant("w")
    assert view is not None
    assert w is not None
    axis = {"tensor": None, "channel": 0}.get(granularity, 1)
    size = None if granularity in ("tensor", "channel") else 4
    encoding = encoding_for_weights(w, dtype, granularity=granularity, axis=axis, block_size=size)
    scale, zero = view.grid(encoding)
    codes = np.clip(np.rint(view.matrix(w) / scale + zero), encoding.qmin, encoding.qmax)
    np.testing.assert_allclose(view.restore((codes - zero) * scale), fake_quantize(w, encoding), rtol=1e-6, atol=1e-6)


def test_picks_are_reproducible_and_bounded() -> None:
    """The same seed picks the same positions, never more than the limit, and all of them when they are few."""
    assert np.array_equal(Picks(5, [1, 2]).of(100), Picks(5, [1, 2]).of(100))
    assert not np.array_equal(Picks(5, [1, 2]).of(100), Picks(5, [1, 3]).of(100))
    assert len(np.unique(Picks(5, [1]).of(100))) == 5
    assert np.array_equal(Picks(5, [1]).of(4), np.arange(4))
