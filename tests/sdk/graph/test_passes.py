"""Passes change the graph, not what it computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npukit.backend.ort import OrtModel
from npukit.graph import Graph, Node, Tensor, check_graph, fold_affine, fold_constants, load, make_graph, remove_dead_nodes

RNG = np.random.default_rng(0)


def arrays(**shapes: tuple[int, ...]) -> dict[str, Any]:
    return {name: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def norm_parameters(channels: int) -> dict[str, Any]:
    found = arrays(scale=(channels,), shift=(channels,), mean=(channels,))
    return found | {"var": np.abs(RNG.normal(size=channels)).astype(np.float32) + 0.1}


def outputs(graph: Graph, seed: int = 0) -> list[Any]:
    """What ONNX Runtime computes on seeded inputs."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for name in graph.inputs:
        tensor = graph.tensor(name)
        shape = [d if isinstance(d, int) else 1 for d in tensor.shape or ()]
        feeds[name] = (rng.normal(size=shape) if tensor.is_float else rng.integers(0, 2, shape)).astype(tensor.dtype)
    with OrtModel(graph) as model:
        return list(model.run(feeds).values())


def assert_same(a: Graph, b: Graph) -> None:
    for x, y in zip(outputs(a), outputs(b), strict=True):
        assert np.max(np.abs(x - y)) <= 1e-5 * max(1e-3, float(np.max(np.abs(x))))


NORM = ("scale", "shift", "mean", "var")


@pytest.mark.parametrize(
    ("node", "weights", "shape", "channels"),
    [
        (Node("Conv", "n", ("x", "w", "b"), ("c",)), arrays(w=(6, 4, 3, 3), b=(6,)), (1, 4, 8, 8), 6),
        (Node("Conv", "n", ("x", "w"), ("c",), {"group": 4}), arrays(w=(8, 1, 3, 3)), (1, 4, 8, 8), 8),
        (Node("ConvTranspose", "n", ("x", "w", "b"), ("c",)), arrays(w=(4, 6, 3, 3), b=(6,)), (1, 4, 5, 5), 6),
        (Node("ConvTranspose", "n", ("x", "w"), ("c",), {"group": 2}), arrays(w=(4, 3, 3, 3)), (1, 4, 5, 5), 6),
        (Node("Gemm", "n", ("x", "w", "b"), ("c",), {"transB": 1}), arrays(w=(6, 4), b=(6,)), (3, 4), 6),
        (Node("Gemm", "n", ("x", "w", "b"), ("c",), {"alpha": 0.5, "beta": 2.0}), arrays(w=(4, 6), b=(6,)), (3, 4), 6),
    ],
    ids=["conv", "depthwise", "transposed", "transposed-group", "gemm", "gemm-alpha"],
)
def test_fold_affine(node: Node, weights: dict[str, Any], shape: tuple[int, ...], channels: int) -> None:
    """A batch norm disappears into the op before it; the output keeps its name and, to 1e-5, its values."""
    norm = Node("BatchNormalization", "bn", ("c", *NORM), ("y",), {"epsilon": 1e-3})
    graph = make_graph([node, norm], {"x": ("float32", shape)}, ["y"], weights | norm_parameters(channels))
    folded = fold_affine(graph)
    check_graph(folded)
    assert [n.op for n in folded.nodes] == [node.op]
    assert folded.origin_names["y"] == ("c", "y")
    assert_same(graph, folded)


@pytest.mark.parametrize(
    ("node", "weights", "shape", "per_channel"),
    [
        (Node("Conv", "n", ("x", "w"), ("c",)), arrays(w=(6, 4, 3, 3)), (1, 4, 8, 8), (6, 1, 1)),
        (Node("Conv", "n", ("x", "w", "b"), ("c",), {"group": 2}), arrays(w=(6, 2, 3), b=(6,)), (1, 4, 8), (1, 6, 1)),
        (Node("ConvTranspose", "n", ("x", "w"), ("c",), {"group": 2}), arrays(w=(4, 3, 3, 3)), (1, 4, 5, 5), (6, 1, 1)),
        (Node("Gemm", "n", ("x", "w"), ("c",), {"transB": 1}), arrays(w=(6, 4)), (3, 4), (6,)),
        (Node("MatMul", "n", ("x", "w"), ("c",)), arrays(w=(4, 6)), (3, 4), (1, 6)),
    ],
    ids=["conv", "group of one axis", "transposed", "gemm", "matmul"],
)
def test_fold_scales_and_shifts(node: Node, weights: dict[str, Any], shape: tuple[int, ...], per_channel: tuple[int, ...]) -> None:
    """Mul, Div, Add and Sub with constants per channel, on either side, disappear as a batch norm does."""
    steps = [
        ("Mul", ("c", "g")),
        ("Add", ("h", "t0")),
        ("Div", ("t1", "g")),
        ("Sub", ("h", "t2")),
        ("Sub", ("t3", "one")),
        ("Mul", ("one", "t4")),
    ]
    chain = [Node(op, f"s{i}", inputs, (f"t{i}" if i < len(steps) - 1 else "y",)) for i, (op, inputs) in enumerate(steps)]
    constants = weights | {"g": arrays(g=per_channel)["g"] + 3, "h": arrays(h=per_channel)["h"], "one": np.float32(1.5)}
    graph = make_graph([node, *chain], {"x": ("float32", shape)}, ["y"], constants)
    folded = fold_affine(graph)
    check_graph(folded)
    assert [n.op for n in folded.nodes] == ["Gemm" if node.op == "MatMul" else node.op]
    assert folded.origin_names["y"] == ("c", "t0", "t1", "t2", "t3", "t4", "y")
    assert_same(graph, folded)


@pytest.mark.parametrize("why", ["not per channel", "one over the product", "matrices in a batch", "its own square"])
def test_other_followers_stay(why: str) -> None:
    """What is not gain * x + shift for each channel is left alone."""
    product = Node("MatMul", "n", ("x", "w"), ("c",))
    follower = {"one over the product": ("Div", ("g", "c")), "its own square": ("Mul", ("c", "c"))}.get(why, ("Mul", ("c", "g")))
    shape = (2, 3, 4) if why == "matrices in a batch" else (3, 4)
    constants = arrays(w=(4, 6), g=(3, 6) if why == "not per channel" else (6,))
    nodes = [product, Node(follower[0], "f", follower[1], ("y",))]
    used = {n: v for n, v in constants.items() if n in (*nodes[0].inputs, *nodes[1].inputs)}
    graph = make_graph(nodes, {"x": ("float32", shape)}, ["y"], used)
    assert fold_affine(graph) is graph


@pytest.mark.parametrize("why", ["second reader", "graph output", "no conv"])
def test_batch_norm_stays(why: str) -> None:
    """A batch norm stays where folding it would change another tensor."""
    nodes = [
        Node("Conv", "n", ("x", "w"), ("c",)) if why != "no conv" else Node("Relu", "n", ("x",), ("c",)),
        Node("BatchNormalization", "bn", ("c", *NORM), ("y",)),
        *([Node("Relu", "r", ("c",), ("z",))] if why == "second reader" else []),
    ]
    ends = {"second reader": ["y", "z"], "graph output": ["y", "c"], "no conv": ["y"]}[why]
    graph = make_graph(nodes, {"x": ("float32", (1, 4, 8, 8))}, ends, arrays(w=(4, 4, 3, 3)) | norm_parameters(4))
    assert len(fold_affine(graph).nodes) == len(nodes)


@pytest.mark.parametrize("broken", ["three parameters", "wrong size"])
def test_malformed_batch_norm_stays(broken: str) -> None:
    """A batch norm with a parameter too few, or of the wrong size, is left for shape checks to refuse; nothing crashes."""
    good = Node("BatchNormalization", "bn", ("c", *NORM), ("y",))
    conv = Node("Conv", "n", ("x", "w"), ("c",))
    graph = make_graph([conv, good], {"x": ("float32", (1, 4, 8, 8))}, ["y"], arrays(w=(4, 4, 3, 3)) | norm_parameters(4))
    if broken == "wrong size":
        graph = graph.with_tensors([Tensor.constant("mean", np.zeros(3, np.float32))])
    else:
        graph = graph.evolve(nodes=(conv, Node("BatchNormalization", "bn", ("c", *NORM[:3]), ("y",))))
    assert [n.op for n in fold_affine(graph).nodes] == ["Conv", "BatchNormalization"]


def test_shared_weight_keeps_its_values() -> None:
    """A weight that two convolutions share is not changed for the one without a batch norm."""
    nodes = [
        Node("Conv", "a", ("x", "w"), ("c",)),
        Node("BatchNormalization", "bn", ("c", *NORM), ("y",)),
        Node("Conv", "b", ("x", "w"), ("z",)),
    ]
    graph = make_graph(nodes, {"x": ("float32", (1, 4, 8, 8))}, ["y", "z"], arrays(w=(4, 4, 3, 3)) | norm_parameters(4))
    assert_same(graph, fold_affine(graph))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3, 1), (6,), (1, 6), (3, 6)])
@pytest.mark.parametrize("turned", [0, 1])
def test_a_bias_has_a_value_per_channel(shape: tuple[int, ...], turned: int) -> None:
    """A C that the channels of a Gemm share is spread over them; another reader of it keeps what it had."""
    weight = arrays(w=(6, 4) if turned else (4, 6))
    nodes = [Node("Gemm", "g", ("x", "w", "c"), ("y",), {"transB": turned}), Node("Mul", "m", ("y", "c"), ("z",))]
    for count, ends in ((1, ["y"]), (2, ["y", "z"])):
        graph = make_graph(nodes[:count], {"x": ("float32", (3, 4))}, ends, {**weight, **arrays(c=shape)})
        folded = fold_affine(graph)
        bias = folded.tensor(folded.nodes[0].inputs[2]).data
        assert bias is not None
        assert bias.shape[-1] == 6
        assert_same(graph, folded)


def test_casts_are_plain() -> None:
    """A CastLike is a Cast to the type of the other tensor, a constant one is folded, and a Cast to the same type goes."""
    nodes = [
        Node("Cast", "same", ("x",), ("a",), {"to": 1}),
        Node("CastLike", "number", ("two", "a"), ("b",)),
        Node("Mul", "mul", ("a", "b"), ("c",)),
        Node("CastLike", "half", ("c", "h"), ("y",)),
    ]
    inputs = {"x": ("float32", (2, 3)), "h": ("float16", (1,))}
    graph = make_graph(nodes, inputs, ["y"], {"two": np.int64(2)})
    folded = fold_constants(graph)
    assert [(n.op, n.inputs) for n in folded.nodes] == [("Mul", ("x", "b")), ("Cast", ("c",))]
    assert folded.nodes[1].attributes == {"to": 10}
    assert_same(graph, folded)


def test_fold_constants() -> None:
    """A Shape-Gather-Concat chain in front of a Reshape becomes a constant, and Identity goes; outputs keep their names."""
    nodes = [
        Node("Shape", "s", ("x",), ("shape",)),
        Node("Gather", "g", ("shape", "zero"), ("first",)),
        Node("Unsqueeze", "u", ("first", "axes"), ("one",)),
        Node("Concat", "cat", ("one", "rest"), ("target",), {"axis": 0}),
        Node("Identity", "id", ("x",), ("same",)),
        Node("Reshape", "r", ("same", "target"), ("flat",)),
        Node("Identity", "out", ("flat",), ("y",)),
    ]
    constants = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    graph = make_graph(nodes, {"x": ("float32", (2, 3, 4))}, ["y"], constants)
    folded = fold_constants(graph)
    assert [n.op for n in folded.nodes] == ["Reshape", "Identity"]
    assert folded.tensor("target").data is not None
    assert folded.tensor("y").shape == (2, 12)
    assert_same(graph, folded)


@pytest.mark.slow
def test_fold_constants_keeps_random_and_huge() -> None:
    """A random node is no constant, and a scalar is not blown up to a gigabyte."""
    nodes = [
        Node("RandomNormal", "rand", (), ("noise",), {"shape": (2,)}),
        Node("Expand", "big", ("scalar", "size"), ("huge",)),
        Node("Add", "add", ("x", "noise"), ("y",)),
        Node("ReduceSum", "sum", ("huge",), ("z",)),
    ]
    constants = {"scalar": np.float32(1), "size": np.array([1 << 14, 1 << 14])}
    graph = make_graph(nodes, {"x": ("float32", (2,))}, ["y", "z"], constants)
    assert {"RandomNormal", "Expand"} <= {n.op for n in fold_constants(graph).nodes}


def test_remove_dead_nodes() -> None:
    """What no output needs goes, with its constants; unused inputs stay."""
    nodes = [Node("Relu", "r", ("x",), ("y",)), Node("Add", "dead", ("x", "w"), ("z",))]
    graph = make_graph(nodes, {"x": ("float32", (2,)), "unused": ("float32", (2,))}, ["y"], arrays(w=(2,)))
    cleaned = remove_dead_nodes(graph)
    assert [n.name for n in cleaned.nodes] == ["r"]
    assert set(cleaned.tensors) == {"x", "y", "unused"}


@pytest.mark.parametrize(
    "name", ["ultraface_rfb_320", "resnet20_cifar10", "mobilenetv2s_cifar10", "mlperf_tiny_kws_dscnn", "mnist", "convvit_cifar10"]
)
def test_zoo(zoo: Path, name: str) -> None:
    """All passes together leave the outputs of pretrained models, and no batch norm."""
    graph = load(zoo / f"{name}.onnx", batch=1)
    steps: list[Callable[[Graph], Graph]] = [fold_constants, fold_affine, remove_dead_nodes]
    changed = graph
    for step in steps:
        changed = step(changed)
        check_graph(changed)
    assert "BatchNormalization" not in {n.op for n in changed.nodes}
    assert_same(graph, changed)
