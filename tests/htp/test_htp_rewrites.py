"""Rewrites of the HTP keep what the model computes and the names of its tensors."""

from __future__ import annotations

import numpy as np
import pytest

from npukit.backend.ort import OrtModel
from npukit.graph import Graph, Node, make_graph
from npukit_htp.backend import HtpBackend

SHAPE = (1, 3, 5, 8)
CONSTANTS = {
    "two": np.float32(2),
    "eps": np.float32(1e-6),
    "root": np.float32(2**0.5),
    "one": np.float32(1),
    "half": np.float32(0.5),
}


def build(*rows: tuple[str, str, str, str], shape: tuple[int, ...] = SHAPE, axes: tuple[int, ...] = (-1,)) -> Graph:
    """Nodes as (op, first input, second input or "", output); x in, y out."""
    nodes = [Node(op, f"n{i}", (a, b) if b else (a,), (out,)) for i, (op, a, b, out) in enumerate(rows)]
    used = {name for node in nodes for name in node.inputs}
    constants = {**CONSTANTS, "axes": np.array(axes)}
    return make_graph(nodes, {"x": ("float32", shape)}, ["y"], {n: v for n, v in constants.items() if n in used})


def values(graph: Graph) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=graph.tensor("x").shape).astype(np.float32)
    with OrtModel(graph) as model:
        return np.asarray(model.run({"x": x})["y"])


def rms_norm(**form: tuple[int, ...]) -> Graph:
    return build(
        ("Pow", "x", "two", "p"),
        ("ReduceMean", "p", "axes", "m"),
        ("Add", "m", "eps", "a"),
        ("Sqrt", "a", "", "s"),
        ("Reciprocal", "s", "", "r"),
        ("Mul", "r", "x", "y"),
        **form,
    )


@pytest.mark.parametrize(
    ("graph", "ops"),
    [
        (
            build(
                ("Div", "x", "root", "d"),
                ("Erf", "d", "", "e"),
                ("Add", "e", "one", "a"),
                ("Mul", "x", "a", "m"),
                ("Mul", "m", "half", "y"),
            ),
            ["Gelu"],
        ),
        (rms_norm(shape=(1, 3, 8)), ["RMSNormalization"]),
        (rms_norm(), ["Reshape", "RMSNormalization", "Reshape"]),
        (rms_norm(axes=(1,)), ["Pow", "ReduceMean", "Add", "Sqrt", "Div"]),
        (rms_norm(shape=(1, 2, 3, 5, 8)), ["Reshape", "RMSNormalization", "Reshape"]),
    ],
    ids=["gelu", "norm", "norm of four dimensions", "norm over channels", "norm of five dimensions"],
)
def test_ops_of_the_chip(graph: Graph, ops: list[str]) -> None:
    """What the HTP has as one op is one, on three dimensions; other norms stay in pieces, without a Reciprocal."""
    prepared = HtpBackend().prepare(graph)
    assert [node.op for node in prepared.nodes] == ops
    assert prepared.nodes[-1].outputs == ("y",)
    np.testing.assert_allclose(values(prepared), values(graph), atol=1e-5)


@pytest.mark.parametrize("op", ["RMSNormalization", "SimplifiedLayerNormalization"])
@pytest.mark.parametrize("rank", [3, 4])
def test_a_norm_that_is_one_already(op: str, rank: int) -> None:
    """Its last axis is written from the end, and four dimensions become three."""
    shape = SHAPE[-rank:]
    node = Node(op, "n", ("x", "gain"), ("y",), {"axis": rank - 1})
    graph = make_graph([node], {"x": ("float32", shape)}, ["y"], {"gain": np.linspace(1, 2, 8, dtype=np.float32)}, opset=23)
    prepared = HtpBackend().prepare(graph)
    assert [n.op for n in prepared.nodes] == ([op] if rank == 3 else ["Reshape", op, "Reshape"])
    assert next(n for n in prepared.nodes if n.op == op).get("axis") == -1
    np.testing.assert_allclose(values(prepared), values(graph), atol=1e-6)


def test_a_reciprocal_that_others_read_stays() -> None:
    """Only the products become quotients."""
    graph = build(("Abs", "x", "", "a"), ("Reciprocal", "a", "", "r"), ("Mul", "x", "r", "m"), ("Add", "m", "r", "y"))
    assert [node.op for node in HtpBackend().prepare(graph).nodes] == ["Abs", "Reciprocal", "Div", "Add"]


@pytest.mark.parametrize(("op", "pair"), [("Sum", "Add"), ("Max", "Max")])
def test_nodes_of_many_tensors_become_pairs(op: str, pair: str) -> None:
    """What would compute in float16 is written as nodes of two tensors; the result keeps its name and its values."""
    constants = {"k": np.linspace(-1, 1, 120, dtype=np.float32).reshape(SHAPE), "row": np.ones(8, np.float32)}
    nodes = [Node("Abs", "b", ("x",), ("b",)), Node(op, "n", ("x", "k", "b"), ("y",))]
    graph = make_graph(nodes, {"x": ("float32", SHAPE)}, ["y"], {"k": constants["k"]})
    made = HtpBackend().prepare(graph)
    assert [(n.op, len(n.inputs)) for n in made.nodes] == [("Abs", 1), (pair, 2), (pair, 2)]
    np.testing.assert_allclose(values(made), values(graph), rtol=1e-6)
    broadcast = make_graph([nodes[0], Node(op, "n", ("row", "row", "x"), ("y",))], {"x": ("float32", SHAPE)}, ["y"], constants)
    assert [n.op for n in HtpBackend().prepare(broadcast).nodes][-1] == op
