"""Functions are recognised in every spelling, and only then."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npukit.graph import PATTERNS, Graph, Node, fold_constants, fuse, make_graph, serialize

OPS = {p.op for p in PATTERNS}
RNG = np.random.default_rng(0)
WIDTH = 8
GAIN = np.linspace(0.5, 2, WIDTH, dtype=np.float32)
SHIFT = np.linspace(-1, 1, WIDTH, dtype=np.float32)
_BINARY = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul", ast.Div: "Div", ast.Pow: "Pow"}


class Builder(ast.NodeVisitor):
    """Nodes from a formula: operators and names of ops in lower case; equal parts are one node, as exporters write them."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.constants: dict[str, np.ndarray] = {"gain": GAIN, "shift": SHIFT, "axes": np.array([-1]), "two_axes": np.array([1, 2])}

    def build(self, formula: str) -> Graph:
        self.visit(ast.parse(formula, mode="eval").body)
        *inner, last = self.nodes.values()
        nodes = [*inner, Node(last.op, last.name, last.inputs, ("y",), last.attributes)]
        used = {name for node in nodes for name in node.inputs}
        constants = {n: v for n, v in self.constants.items() if n in used}
        return make_graph(nodes, {"x": ("float32", (2, 3, WIDTH))}, ["y"], constants, opset=23)

    def visit_Name(self, node: ast.Name) -> str:
        return node.id

    def visit_Constant(self, node: ast.Constant) -> str:
        name = f"c{node.value}"
        self.constants[name] = np.array(node.value, np.float32)
        return name

    def visit_UnaryOp(self, node: ast.UnaryOp) -> str:
        if isinstance(node.operand, ast.Constant):
            return self.visit_Constant(ast.Constant(-node.operand.value))  # type: ignore[operator]
        return self.add("Neg", self.visit(node.operand))

    def visit_BinOp(self, node: ast.BinOp) -> str:
        return self.add(_BINARY[type(node.op)], self.visit(node.left), self.visit(node.right))

    def visit_Call(self, node: ast.Call) -> str:
        assert isinstance(node.func, ast.Name)
        op = {
            "mean": "ReduceMean", "total": "ReduceSum", "largest": "ReduceMax", "norm": "ReduceL2",
            "hard_sigmoid": "HardSigmoid", "cast": "Cast",
        }.get(node.func.id, node.func.id.capitalize())  # fmt: skip
        inputs = [self.visit(a) for a in node.args]
        if op.startswith("Reduce") and len(inputs) == 1:
            inputs.append("axes")
        attributes: dict[str, Any] = {"HardSigmoid": {"alpha": 1 / 6, "beta": 0.5}, "Cast": {"to": 1}}.get(op, {})
        return self.add(op, *inputs, **attributes)

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        key = f"{op}({', '.join(inputs)})"
        self.nodes.setdefault(key, Node(op, f"n{len(self.nodes)}", inputs, (key,), attributes))
        return key


def build(formula: str) -> Graph:
    return Builder().build(formula)


def run(graph: Graph, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(serialize(graph), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


SPELLINGS = {
    "Gelu": (
        "x * (1 + erf(x / 1.4142135)) * 0.5",
        "x * (0.5 * (erf(x * 0.70710677) + 1))",
        "(erf(x / 1.4142135) + 1) * x / 2",
        "0.5 * x + 0.5 * (x * erf(x / 1.4142135))",
        "x - 0.5 * x * (1 - erf(x / 1.4142135))",
        "0.5 * x * (1 + tanh(0.7978845 * (x + 0.044715 * x ** 3)))",
        "x * (0.5 * (tanh((x * x * x * 0.044715 + x) * 0.7978845) + 1))",
        "x * sigmoid(1.5957691 * x * (1 + 0.044715 * (x * x)))",
    ),
    "HardSwish": (
        "x * clip(x + 3, 0, 6) / 6",
        "x * (0.16666667 * min(max(x + 3, 0), 6))",
        "x * hard_sigmoid(x)",
        "x * clip(x / 6 + 0.5, 0, 1)",
        "(relu(x + 3) - relu(x - 3)) * x / 6",
    ),
    "HardSigmoid": ("clip(x + 3, 0, 6) / 6", "clip(x * 0.16666667 + 0.5, 0, 1)", "min(relu(x + 3), 6) * 0.16666667"),
    "Softplus": ("log(1 + exp(x))", "relu(x) + log(1 + exp(-abs(x)))"),
    "Softmax": (
        "exp(x - largest(x)) / total(exp(x - largest(x)))",
        "exp(x) * reciprocal(total(exp(x)))",
        "softmax(x - largest(x))",
    ),
    "RMSNormalization": (
        "x * reciprocal(sqrt(mean(x ** 2) + 0.001)) * gain",
        "gain * (x / sqrt(mean(x * x) + 0.001))",
        "gain * cast(cast(x) * (mean(cast(x) ** 2) + 0.001) ** -0.5)",
        "x / sqrt(0.001 + total(x * x) / 8) * gain",
        "x / (norm(x) * 0.35355338)",
        "x / max(norm(x), 0.000000000001)",
        "x / sqrt(total(x * x))",
    ),
    "LayerNormalization": (
        "(x - mean(x)) / sqrt(mean((x - mean(x)) ** 2) + 0.00001) * gain + shift",
        "shift + gain * ((x - mean(x)) * reciprocal(sqrt(0.00001 + mean((x - mean(x)) * (x - mean(x))))))",
        "(x - mean(x)) * (mean(x * x) - mean(x) * mean(x) + 0.00001) ** -0.5",
        "(x - mean(x)) / sqrt(mean((mean(x) - x) ** 2) + 0.000000000001) * gain + shift",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("op", "formula"), [(op, f) for op, formulas in SPELLINGS.items() for f in formulas])
def test_spellings(op: str, formula: str) -> None:
    """Each becomes one node with the same values at every magnitude; the output keeps its name and the origins are listed."""
    graph = build(formula)
    fused = fuse(graph, OPS)
    assert [(n.op, n.outputs) for n in fused.nodes] == [(op, ("y",))]
    assert set(fused.origin_names[fused.nodes[0].name]) <= {n.name for n in graph.nodes}
    for scale in (0.01, 1, 30) if op not in ("Softplus", "Softmax") else (0.01, 1):
        x = (scale * RNG.normal(size=(2, 3, WIDTH))).astype(np.float32)
        expected = run(graph, x)
        np.testing.assert_allclose(run(fused, x), expected, atol=2e-5 * np.abs(expected).max())


OTHERS = (
    "x * (1 + erf(x / 1.4142135)) * 0.333",  # another factor
    "x * (1 + erf(x / 1.5)) * 0.5",
    "x * sigmoid(1.702 * x)",
    "x * tanh(log(1 + exp(x * 0.5)))",
    "x * clip(x + 3, 0, 5) / 6",
    "exp(x - largest(x)) / total(exp(x))",
    "softmax(x * 2)",
    "x / sqrt(mean(x ** 2, two_axes) + 0.001) * 3 + gain",  # not the last axes alone
    "x / (sqrt(mean(x ** 2)) + 0.01)",  # epsilon outside of the root
    "x / sqrt(mean((x - mean(x)) ** 2) + 0.001)",  # divided by the deviation, not centred
    "(x - mean(x)) / sqrt(mean(x ** 2) + 0.001)",
    "x / sqrt(mean(x ** 2) + 0.001) + shift",  # an RMSNormalization has no shift
)  # fmt: skip


@pytest.mark.parametrize("formula", OTHERS)
def test_other_functions_stay(formula: str) -> None:
    """What is nearly a pattern is none; a part of it may be one, and the whole computes the same."""
    graph = build(formula)
    fused = fuse(graph, OPS)
    assert len(fused.nodes) > 1
    x = RNG.normal(size=(2, 3, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(run(fused, x), run(graph, x), atol=1e-5)


@st.composite
def products(draw: st.DrawFn, factors: tuple[str, ...]) -> str:
    """The factors in a random order and grouping."""
    parts = list(draw(st.permutations(factors)))
    while len(parts) > 1:
        at = draw(st.integers(0, len(parts) - 2))
        parts[at : at + 2] = [f"({parts[at]} * {parts[at + 1]})"]
    return parts[0]


@settings(max_examples=60, deadline=None)
@given(products(("x", "0.25", "2", "(1 + erf(x * 0.70710677))")))
def test_any_order_and_grouping_is_one_gelu(formula: str) -> None:
    """Commutation and association make no difference."""
    assert [n.op for n in fuse(fold_constants(build(formula)), OPS).nodes] == ["Gelu"]


@settings(max_examples=40, deadline=None)
@given(products(("x", "gain", "reciprocal(sqrt(mean(x * x) + 0.001))")))
def test_any_order_and_grouping_is_one_norm(formula: str) -> None:
    """The gain may be anywhere in the product."""
    graph = fuse(build(formula), OPS)
    assert [n.op for n in graph.nodes] == ["RMSNormalization"]
    assert graph.nodes[0].inputs == ("x", "gain"), "the constant keeps its name"


def test_inner_tensors_that_others_read_stay() -> None:
    """What another node reads is still computed."""
    graph = build("x * (1 + erf(x / 1.4142135)) * 0.5 - erf(x / 1.4142135)")
    assert [n.op for n in fuse(graph, OPS).nodes] == ["Div", "Erf", "Gelu", "Sub"]


def test_only_the_ops_that_are_asked_for() -> None:
    """A backend names its ops, and may turn a node down."""
    graph = build(SPELLINGS["Gelu"][0])
    assert fuse(graph, {"Softmax"}) is graph
    assert fuse(graph, OPS, lambda graph, node: False) is graph


def test_open_dimensions() -> None:
    """Sizes that are not known do not matter outside of the axes of a norm."""
    nodes = build(SPELLINGS["RMSNormalization"][0]).nodes
    constants = {"gain": GAIN, "axes": np.array([-1]), "c2": np.float32(2), "c0.001": np.float32(0.001)}
    graph = make_graph(nodes, {"x": ("float32", ("batch", "tokens", WIDTH))}, ["y"], constants)
    assert [n.op for n in fuse(graph, OPS).nodes] == ["RMSNormalization"]


@pytest.mark.parametrize(
    ("end", "ops"), [("float32", ["Cast", "RMSNormalization", "Relu"]), ("float16", ["RMSNormalization", "Relu"])]
)
def test_casts_around_a_norm(end: str, ops: list[str]) -> None:
    """A norm of float16 in float32 is one norm when it ends in float16, and one behind the cast when it does not."""
    nodes = [
        Node("Cast", "up", ("x",), ("a",), {"to": 1}),
        Node("Mul", "square", ("a", "a"), ("b",)),
        Node("ReduceMean", "mean", ("b", "axes"), ("c",)),
        Node("Sqrt", "root", ("c",), ("d",)),
        Node("Div", "divide", ("a", "d"), ("e",)),
        *([Node("Cast", "down", ("e",), ("f",), {"to": 10})] if end == "float16" else []),
        Node("Relu", "relu", ("f" if end == "float16" else "e",), ("y",)),
    ]
    graph = make_graph(nodes, {"x": ("float16", (2, 3, WIDTH))}, ["y"], {"axes": np.array([-1])}, opset=23)
    fused = fuse(graph, OPS)
    assert [n.op for n in fused.nodes] == ops
    x = RNG.normal(size=(2, 3, WIDTH)).astype(np.float16)
    np.testing.assert_allclose(run(fused, x), run(graph, x), atol=2e-3)
