"""Encodings as Q/DQ nodes: what is written is read back, and what is impossible is named."""

from __future__ import annotations

import attrs
import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npukit.encoding import Array, Encoding, encoding_for_range, encoding_for_weights, fake_quantize
from npukit.encoding.formats import extract_qdq, insert_qdq
from npukit.errors import EncodingError
from npukit.graph import Graph, Node, load, make_graph, serialize

RNG = np.random.default_rng(5)
WEIGHT = RNG.normal(size=(4, 8, 3, 3)).astype(np.float32)
X = RNG.normal(size=(1, 8, 6, 6)).astype(np.float32)


def conv() -> Graph:
    nodes = [Node("Conv", "conv", ("x", "w"), ("c",)), Node("Relu", "relu", ("c",), ("y",))]
    return make_graph(nodes, {"x": ("float32", (1, 8, 6, 6))}, ["y"], {"w": WEIGHT})


def run(graph: Graph, **feeds: Array) -> Array:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(serialize(graph), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def weights(dtype: str, granularity: str) -> Encoding:
    axis = {"tensor": None, "channel": 0}.get(granularity, 1)
    size = 4 if granularity in ("block", "lpbq") else None
    symmetric = not dtype.startswith("u")
    return encoding_for_weights(WEIGHT, dtype, granularity=granularity, axis=axis, block_size=size, symmetric=symmetric)


SIGNED, UNSIGNED = ("int4", "int8", "int16"), ("uint4", "uint8")
# LPBQ weights are signed and symmetric.
FORMS = [(d, g) for g in ("tensor", "channel", "block", "lpbq") for d in (*SIGNED, *UNSIGNED) if g != "lpbq" or d in SIGNED]


@pytest.mark.parametrize(("dtype", "granularity"), FORMS)
@pytest.mark.parametrize("activation", ["uint8", "int8", "uint16", "int16"])
def test_round_trip(activation: str, dtype: str, granularity: str) -> None:
    """Every type and granularity comes back through a file with the same grids and the same real weights."""
    if granularity == "lpbq" and dtype.startswith("u"):
        pytest.skip("LPBQ weights are symmetric and signed")
    given = {
        "x": encoding_for_range(-2, 2, activation),
        "w": weights(dtype, granularity),
        "y": encoding_for_range(0, 3, activation),
    }
    graph, found = extract_qdq(load(serialize(insert_qdq(conv(), given))))
    assert found.keys() == given.keys()
    assert [n.op for n in graph.nodes] == ["Conv", "Relu"]
    for name in ("x", "y"):
        assert found[name].same_grid(given[name])
    np.testing.assert_array_equal(graph.tensor("w").data, fake_quantize(WEIGHT, given["w"]))
    np.testing.assert_array_equal(fake_quantize(WEIGHT, found["w"]), fake_quantize(WEIGHT, given["w"]))


@pytest.mark.parametrize("shape", [(8, 16), (8, 16, 1, 1)])
def test_lpbq_has_two_levels(shape: tuple[int, ...]) -> None:
    """Block scales are integers times one float per channel, also in the model, and come back as such; the values are the same."""
    data = RNG.normal(size=shape).astype(np.float32)
    op = "MatMul" if len(shape) == 2 else "Conv"
    graph = make_graph([Node(op, "n", ("x", "w"), ("y",))], {"x": ("float32", (1, 16, *shape[2:]) if len(shape) > 2 else (1, 8))},
        ["y"], {"w": data})  # fmt: skip
    grid = encoding_for_weights(data, "int4", granularity="lpbq", axis=1 if len(shape) > 2 else 0, block_size=4)
    made = insert_qdq(graph, {"w": grid})
    (factor,) = [t for n, t in made.tensors.items() if n.endswith(".factor")]
    assert factor.data is not None
    assert factor.data.size == (8 if len(shape) > 2 else 16)
    again, found = extract_qdq(load(serialize(made)))
    assert found["w"].granularity == "lpbq"
    np.testing.assert_array_equal(found["w"].block_scale, grid.block_scale)
    np.testing.assert_array_equal(again.tensor("w").data, fake_quantize(data, grid))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_float_types_round_trip(dtype: str) -> None:
    """16-bit floats become pairs of Cast and come back."""
    given = dict.fromkeys("xwy", Encoding(dtype))
    graph, found = extract_qdq(insert_qdq(conv(), given))
    assert {n: e.dtype for n, e in found.items()} == dict.fromkeys("xwy", dtype)
    assert [n.op for n in graph.nodes] == ["Conv", "Relu"]


def test_the_model_computes_on_the_grids() -> None:
    """ONNX Runtime gives what the definition gives: rounded input and weight, float32 sums, rounded output.

    Sums may be added up in another order, which moves one that lies on the edge between two codes.
    """
    given = {"x": encoding_for_range(-2, 2, "uint8"), "w": weights("int8", "channel"), "y": encoding_for_range(0, 3, "uint8")}
    got = run(insert_qdq(conv(), given), x=X)
    graph = conv()
    rounded = graph.with_tensors([graph.tensor("w").constant("w", fake_quantize(WEIGHT, given["w"]))])
    wanted = fake_quantize(run(rounded, x=fake_quantize(X, given["x"])), given["y"])
    apart = np.rint(np.abs(got - wanted) / float(given["y"].steps))
    assert apart.max() <= 1
    assert (apart == 0).mean() > 0.9


@pytest.mark.parametrize("bits", [2, 3])
def test_very_narrow_activations_are_refused(bits: int) -> None:
    """ONNX has no activations of 2 or 3 bits at that opset: the tensor is named."""
    with pytest.raises(EncodingError, match=f"tensor 'x': ONNX has no {bits}-bit activations"):
        insert_qdq(conv(), {"x": encoding_for_range(-1, 1, f"uint{bits}")})


@pytest.mark.parametrize("dtype", ["int3", "uint3"])
def test_three_bit_weights_are_stored_in_four(dtype: str) -> None:
    """ONNX's 4-bit type holds the eight codes and no other, though half of the weights lie beyond; the model computes with them."""
    whole = encoding_for_weights(WEIGHT, dtype, granularity="channel", axis=0, symmetric=dtype == "int3")
    grid = attrs.evolve(whole, scale=whole.steps / 2)
    lowered = insert_qdq(conv(), {"w": grid})
    stored = lowered.tensor("w.q")
    assert stored.dtype == dtype.replace("3", "4")
    assert stored.data is not None
    codes = stored.data.astype(np.int32)
    assert (codes.min(), codes.max()) == ((-4, 3) if dtype == "int3" else (0, 7))
    rounded = conv().with_tensors([conv().tensor("w").constant("w", fake_quantize(WEIGHT, grid))])
    np.testing.assert_allclose(run(lowered, x=X), run(rounded, x=X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_an_impossible_scale_names_its_node(scale: float) -> None:
    """A scale that is not above zero and finite is refused with the name of the node that has it."""
    constants = {"s": np.float32(scale), "z": np.uint8(3)}
    nodes = [Node("QuantizeLinear", "the_q", ("x", "s", "z"), ("q",)), Node("DequantizeLinear", "the_dq", ("q", "s", "z"), ("y",))]
    graph = make_graph(nodes, {"x": ("float32", (4,))}, ["y"], {n: np.asarray(v) for n, v in constants.items()})
    with pytest.raises(EncodingError, match="node 'the_q' \\(QuantizeLinear\\): a scale must be finite and above 0"):
        extract_qdq(graph)


def test_a_scale_that_is_computed_is_refused() -> None:
    """Scales must be constants."""
    nodes = [
        Node("Abs", "a", ("s",), ("t",)),
        Node("QuantizeLinear", "the_q", ("x", "t"), ("q",)),
        Node("DequantizeLinear", "the_dq", ("q", "t"), ("y",)),
    ]
    graph = make_graph(nodes, {"x": ("float32", (4,)), "s": ("float32", ())}, ["y"])
    with pytest.raises(EncodingError, match=r"node 'the_q' .*must be constants"):
        extract_qdq(graph)


@settings(max_examples=40)
@given(low=st.floats(-100, 0), width=st.floats(0.01, 100), dtype=st.sampled_from(["uint8", "int8", "uint16", "int16"]))
def test_any_range_round_trips(low: float, width: float, dtype: str) -> None:
    """The grid of any range is the same after a trip through a model."""
    grid = encoding_for_range(low, low + width, dtype)
    _, found = extract_qdq(insert_qdq(conv(), {"x": grid}))
    assert found["x"].same_grid(grid)
