"""Op constraints: every rule fires on what it is meant for, and only there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from npukit.backend import Call, Kernel, KernelBackend, OpConstraint, Port, Result, Rules, Soc, load_constraints, load_socs
from npukit.encoding import Encoding, encoding_for_range, encoding_for_weights
from npukit.errors import DataError, PluginError, UsageError
from npukit.graph import Graph, Node, make_graph

ACT = {"dtypes": ("uint8", "uint16")}


def relu(call: Call) -> list[Result]:
    return [np.maximum(call.value(0).real(), 0)]


class Toy(KernelBackend):
    """A chip with one row per rule."""

    name = "toy"
    static_shapes = True

    def socs(self) -> tuple[Soc, ...]:
        return (Soc("T1", "v1"), Soc("T2", "v2"))

    def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
        return dict.fromkeys(("Relu", "Conv", "Sigmoid", "Reshape", "Softmax", "Add", "Gelu"), relu)

    def constraints(self) -> tuple[OpConstraint, ...]:
        weight = Port(dtypes=("int8",), granularity=("tensor", "channel"), axis=0, symmetric="channel", constant=True)
        wide = Port(dtypes=("int16",), granularity=("tensor", "channel"), axis=0, constant=True)
        bias = Port(dtypes=("int32",), granularity=("tensor", "channel"), derived=True, optional=True)
        rows: list[dict[str, Any]] = [
            {"op": "Relu", "inputs": [ACT], "outputs": [ACT]},
            {"op": "Conv", "inputs": [ACT, weight, bias], "outputs": [ACT], "max_rank": 4},
            {"op": "Conv", "inputs": [ACT, wide, bias], "outputs": [ACT], "min_arch": "v2"},
            {"op": "Sigmoid", "inputs": [ACT], "outputs": [{**ACT, "fixed": {"uint8": (1 / 256, 0)}}]},
            {"op": "Reshape", "inputs": [ACT, {"dtypes": ("int64",)}], "outputs": [{**ACT, "same_as": "in[0]"}]},
            {"op": "Softmax", "inputs": [ACT], "outputs": [ACT], "attributes": {"axis": [-1]}},
            {"op": "Add", "inputs": [ACT, ACT], "outputs": [ACT]},
            {"op": "Erf", "inputs": [{"dtypes": ("uint8", "float16")}], "outputs": [{"dtypes": ("uint8", "float16")}]},
        ]
        return tuple(OpConstraint(source="a test", **row) for row in rows)


RULES = Rules.of(Toy(), Toy().soc("T1"))
U8 = encoding_for_range(-1, 1, "uint8")


def one(op: str, shape: tuple[Any, ...] = (1, 4), attributes: dict[str, Any] | None = None, **constants: Any) -> Graph:
    """A graph of one node with input x and output y."""
    inputs = ("x", *constants)
    return make_graph([Node(op, "n", inputs, ("y",), attributes or {})], {"x": ("float32", shape)}, ["y"], constants)


def found(graph: Graph, rules: Rules = RULES, **encodings: Encoding) -> set[tuple[str, str, str]]:
    """(severity, rule, tensor) of all problems."""
    return {(p.severity, p.rule, p.tensor) for p in rules.validate(graph, encodings)}


def conv(weight: Encoding, bias: Encoding | None = None, rules: Rules = RULES, shape: tuple[int, ...] = (1, 2, 5, 5)) -> Any:
    """Problems of a convolution with a weight encoding and a bias that fits it."""
    graph = one("Conv", shape, w=np.ones((3, 2, *(1,) * (len(shape) - 2)), np.float32), b=np.ones(3, np.float32))
    product = U8.steps * weight.steps.reshape(-1)
    right = Encoding("int32", product if product.size > 1 else product[0], axis=0 if product.size > 1 else None)
    return found(graph, rules, x=U8, y=U8, w=weight, b=bias or right)


PER_CHANNEL = Encoding("int8", [0.1, 0.2, 0.3], axis=0, symmetric=True)


def test_legal() -> None:
    """A legal graph has no problem."""
    assert found(one("Relu"), x=U8, y=U8) == set()
    assert conv(PER_CHANNEL) == set()
    assert conv(Encoding("int8", 0.1)) == set()


def test_dtype() -> None:
    """A type that a port does not list is an error, a float one too; the message says both sides."""
    assert found(one("Relu"), x=U8, y=Encoding("int8", 1.0)) == {("error", "dtype", "y")}
    assert found(one("Relu")) == {("error", "dtype", "x"), ("error", "dtype", "y")}
    (problem,) = RULES.validate(one("Relu"), {"x": U8, "y": Encoding("int8", 1.0)})
    assert "int8" in problem.message
    assert "uint16, uint8" in problem.message
    assert problem.source == "a test"


def test_weights() -> None:
    """Granularity, axis and symmetry of weights."""
    blocks = encoding_for_weights(np.ones((3, 2, 1, 1), np.float32), "int8", granularity="block", axis=1, block_size=1)
    assert ("error", "granularity", "w") in conv(blocks)
    assert ("error", "axis", "w") in conv(Encoding("int8", [0.1, 0.2], axis=1), Encoding("int32", 1.0))
    assert ("error", "symmetric", "w") in conv(Encoding("int8", [0.1, 0.2, 0.3], [1, 0, 0], axis=0))


def test_arch() -> None:
    """A form that a later architecture has is refused with that architecture, and accepted there."""
    wide = Encoding("int16", [0.1, 0.2, 0.3], axis=0)
    assert conv(wide) == {("error", "arch", "")}
    assert conv(wide, rules=Rules.of(Toy(), Toy().soc("v2"))) == set()


def test_bias_is_derived() -> None:
    """A bias whose scale is not the product is refused."""
    assert conv(PER_CHANNEL, Encoding("int32", 0.5)) == {("error", "derived", "b")}


def test_fixed_and_same_grid() -> None:
    """A fixed grid must be met, and a mover must keep the grid."""
    assert found(one("Sigmoid"), x=U8, y=U8) == {("error", "fixed-grid", "y")}
    assert found(one("Sigmoid"), x=U8, y=Encoding("uint8", 1 / 256)) == set()
    graph = one("Reshape", shape=(1, 4), s=np.array([2, 2]))
    assert found(graph, x=U8, y=U8) == set()
    assert found(graph, x=U8, y=Encoding("uint8", 1 / 256)) == {("error", "same-grid", "y")}


def test_structure() -> None:
    """Attributes, ranks, number of inputs, constants."""
    assert found(one("Softmax"), x=U8, y=U8) == set()  # the default of ONNX counts
    assert found(one("Softmax", attributes={"axis": 0}), x=U8, y=U8) == {("error", "attribute", "")}
    assert ("error", "rank", "x") in conv(PER_CHANNEL, shape=(1, 2, 5, 5, 5))
    graph = make_graph(
        [Node("Conv", "n", ("x", "w"), ("y",))], {"x": ("float32", (1, 2, 5, 5)), "w": ("float32", (3, 2, 1, 1))}, ["y"]
    )
    assert found(graph, x=U8, y=U8, w=PER_CHANNEL) == {("error", "constant", "w")}
    three = Graph("g", (Node("Add", "n", ("x", "x", "x"), ("y",)),), one("Relu").tensors, ("x",), ("y",), 21)
    assert ("error", "inputs", "") in found(three, x=U8, y=U8)


def test_unknown_is_not_valid() -> None:
    """A rank that nobody knows is neither legal nor refused."""
    graph = make_graph(
        [Node("Custom", "c", ("x",), ("h",), {}, "my.ops"), Node("Conv", "n", ("h", "w", "b"), ("y",))],
        {"x": ("float32", (1, 2, 5, 5))},
        ["y"],
        {"w": np.ones((3, 2, 1, 1), np.float32), "b": np.ones(3, np.float32)},
    )
    bias = Encoding("int32", U8.steps * PER_CHANNEL.steps, axis=0)
    problems = found(graph, x=U8, h=U8, y=U8, w=PER_CHANNEL, b=bias)
    assert ("unknown", "rank", "h") in problems
    assert ("error", "unsupported-op", "") in problems


def test_ops() -> None:
    """An op without a row, an op without a kernel, one that may fall back to float, and one with a subgraph."""
    assert found(one("Celu"), x=U8, y=U8) == {("error", "unsupported-op", "")}
    assert found(one("Erf"), x=U8, y=U8) == {("error", "no-kernel", "")}
    (problem,) = RULES.validate(one("Erf"), {"x": U8, "y": U8}, float_fallback=True)
    assert (problem.severity, problem.rule) == ("warning", "float-fallback")
    inner = one("Relu")
    looped = one("Relu").evolve(nodes=(Node("If", "n", ("x",), ("y",), {"then_branch": inner}),))
    assert found(looped, x=U8, y=U8) == {("error", "subgraph", "")}


def test_dynamic_shape() -> None:
    """A chip with static shapes warns about an open dimension."""
    assert found(one("Relu", shape=("n", 4)), x=U8, y=U8) == {("warning", "dynamic-shape", "x")}


def test_all_problems_at_once() -> None:
    """Every node is judged, whatever the others did."""
    nodes = [Node("Celu", "a", ("x",), ("h",)), Node("Erf", "b", ("h",), ("y",))]
    graph = make_graph(nodes, {"x": ("float32", (1, 4))}, ["y"])
    assert {p.node for p in RULES.validate(graph, {"x": U8, "h": U8, "y": U8})} == {"a", "b"}


def test_yaml(tmp_path: Path) -> None:
    """Rows and SoCs come from YAML; a wrong field names the row and the file."""
    (tmp_path / "ops.yaml").write_text("- {op: [Relu, Abs], inputs: [{dtypes: [uint8]}], outputs: [{}], source: here}\n")
    assert [row.op for row in load_constraints(tmp_path / "ops.yaml")] == ["Relu", "Abs"]
    (tmp_path / "ops.yaml").write_text("- {op: Relu, inputs: [], outputs: [], source: here, colour: blue}\n")
    with pytest.raises(PluginError, match=r"Relu.*colour"):
        load_constraints(tmp_path / "ops.yaml")
    (tmp_path / "socs.yaml").write_text("- {arch: v1}\n")
    with pytest.raises(PluginError, match="name"):
        load_socs(tmp_path / "socs.yaml")


def test_soc_lookup() -> None:
    """SoCs are found by name in any case and by architecture; others come with a did-you-mean."""
    assert Toy().soc("t2").name == "T2"
    assert Toy().soc("v2").name == "T2"
    assert Toy().soc().name == "T1"
    with pytest.raises(UsageError, match="did you mean 'T2'"):
        Toy().soc("TT2")


def test_interpreter() -> None:
    """A session gives outputs and intermediate tensors on their grids, frees the rest, and checks what it is fed."""
    nodes = [Node("Relu", "a", ("x",), ("h",)), Node("Erf", "b", ("h",), ("y",))]
    graph = make_graph(nodes, {"x": ("float32", (1, 4))}, ["y"])
    backend = Toy()
    program = backend.compile(graph, {"x": U8, "h": U8, "y": U8}, backend.soc())
    with backend.open(attrs.evolve(program, types={"b": "float32"})) as session:  # Erf has no kernel
        feeds = {"x": np.array([[-1, -0.25, 0.25, 1]], np.float32)}
        result = session.run(feeds, ["y", "h", "x"])
        assert list(result) == ["y", "h", "x"]
        assert np.allclose(result["h"], np.maximum(feeds["x"], 0), atol=float(U8.steps))
        assert np.array_equal(result["y"], session.run(feeds)["y"])
        for bad, words in (
            ({}, "'x' is missing"),
            ({"z": feeds["x"]}, "'z' is not an input"),
            ({"x": feeds["x"].astype(np.float64)}, "float64"),
            ({"x": np.zeros((2, 4), np.float32)}, r"\[2, 4\]"),
            ({"x": np.full((1, 4), np.inf, np.float32)}, "infinite"),
        ):
            with pytest.raises(DataError, match=words):
                session.run(bad)
        with pytest.raises(DataError, match=r"'hh'.*did you mean 'h'"):
            session.run(feeds, ["hh"])


def only(row: OpConstraint) -> Rules:
    """The rules of a chip that has one row."""

    class One(Toy):
        def constraints(self) -> tuple[OpConstraint, ...]:
            return (row,)

    return Rules.of(One(), One().soc("T1"))


def test_a_missing_input_is_found() -> None:
    """A port that is not optional must be there."""
    rules = only(OpConstraint("Relu", [ACT, ACT], [ACT], "a test"))
    assert found(one("Relu"), rules, x=U8, y=U8) == {("error", "inputs", "")}
    assert found(one("Relu"), only(OpConstraint("Relu", [ACT, {**ACT, "optional": True}], [ACT], "a test")), x=U8, y=U8) == set()


def test_caveats() -> None:
    """A form that is accepted with a caveat gives its finding under its own rule, on the chips that it is about."""
    caveat = {"rule": "odd", "message": "the result is odd"}
    for extra, severity in (({}, "warning"), ({"severity": "unknown"}, "unknown"), ({"below": "v2"}, "warning")):
        rules = only(OpConstraint("Relu", [ACT], [ACT], "a test", caveat={**caveat, **extra}))
        assert found(one("Relu"), rules, x=U8, y=U8) == {(severity, "odd", "")}
    later = only(OpConstraint("Relu", [ACT], [ACT], "a test", caveat={**caveat, "below": "v1"}))
    assert found(one("Relu"), later, x=U8, y=U8) == set()


def test_the_form_without_a_caveat_is_preferred() -> None:
    """Of two rows that fit, the one that warns of nothing decides."""

    class Two(Toy):
        def constraints(self) -> tuple[OpConstraint, ...]:
            odd = OpConstraint("Relu", [ACT], [ACT], "a test", caveat={"rule": "odd", "message": "odd"})
            return (odd, OpConstraint("Relu", [{"dtypes": ["uint8"]}], [ACT], "a test"))

    rules = Rules.of(Two(), Two().soc("T1"))
    assert found(one("Relu"), rules, x=U8, y=U8) == set()
    wide = encoding_for_range(-1, 1, "uint16")
    assert found(one("Relu"), rules, x=wide, y=U8) == {("warning", "odd", "")}


def wide(low: float, high: float, dtype: str = "uint8", origin: str = "calibrated") -> Encoding:
    return encoding_for_range(low, high, dtype).with_origin(origin)


@pytest.mark.parametrize(
    ("fine", "fits", "misses"),
    [
        ({"least": 1}, (wide(-2, 1), wide(0, 1)), (wide(-0.5, 0.9), wide(0, 0.02))),
        ({"most": 4}, (wide(0, 4), wide(-3, 1)), (wide(-5, 1),)),
        ({"measure": "low", "least": 0}, (wide(0, 4),), (wide(-1, 1),)),
        ({"measure": "high", "most": 2}, (wide(-8, 1),), (wide(0, 3),)),
        ({"measure": "balance", "least": 0.95}, (wide(-1, 1), wide(-1, 8)), (wide(-2, 1), wide(-1, 0))),
        ({"measure": "step", "least": 0.01}, (wide(0, 4),), (wide(0, 1), wide(0, 4, "uint16"))),
        ([{"least": 9}, {"most": 1}], (wide(0, 1), wide(0, 10)), (wide(0, 5),)),
    ],
)
def test_caveats_about_ranges(fine: Any, fits: tuple[Encoding, ...], misses: tuple[Encoding, ...]) -> None:
    """A caveat with spans is about tensors outside of all of them; ranges that are not known say nothing."""
    rules = only(OpConstraint("Relu", [ACT], [ACT], "a test", caveat={"rule": "odd", "message": "odd", "fine": fine}))
    for encoding in fits:
        assert found(one("Relu"), rules, x=encoding, y=U8) == set()
    for encoding in misses:
        assert found(one("Relu"), rules, x=encoding, y=U8) == {("warning", "odd", "x")}
        assert found(one("Relu"), rules, x=encoding.with_origin("placeholder"), y=U8) == set()
    assert found(one("Relu"), rules, y=U8) == {("error", "dtype", "x")}


def test_caveats_about_ratios_ranks_and_types() -> None:
    """A span may divide by another port or read a rank; a caveat may be about some types of in[0] only."""

    def rules(**caveat: Any) -> Rules:
        text = {"rule": "odd", "message": "it is odd", "hint": "do otherwise"}
        return only(OpConstraint("Relu", [ACT], [ACT], "a test", caveat={**text, **caveat}))

    ratio = rules(fine={"over": "out[0]", "most": 60})
    assert found(one("Relu"), ratio, x=wide(-100, 1), y=wide(0, 2)) == set()
    (problem,) = ratio.validate(one("Relu"), {"x": wide(-240, 1), "y": wide(0, 2)})
    expected = "the largest magnitude of 'x' over that of 'y' is 120, fine is at most 60: it is odd"
    assert (problem.tensor, problem.message, problem.hint) == ("x", expected, "do otherwise")
    flat = rules(fine={"measure": "rank", "least": 2})
    assert found(one("Relu"), flat, x=U8, y=U8) == set()
    assert found(one("Relu", (4,)), flat, x=U8, y=U8) == {("warning", "odd", "x")}
    narrow = rules(dtypes=["uint16"])
    assert found(one("Relu"), narrow, x=U8, y=U8) == set()
    assert found(one("Relu"), narrow, x=wide(-1, 1, "uint16"), y=U8) == {("warning", "odd", "")}


def test_caveats_about_neighbours() -> None:
    """A caveat may be about what makes in[0], and about an op that joins it with out[0]."""
    caveat = {"rule": "odd", "message": "odd", "behind": ["Conv"], "joined": ["Mul"]}
    rules = only(OpConstraint("Sigmoid", [ACT], [ACT], "a test", caveat=caveat))

    def rules_found(first: str, second: str, other: str) -> bool:
        nodes = [Node(first, "a", ("x",), ("h",)), Node("Sigmoid", "s", ("h",), ("t",)), Node(second, "m", (other, "t"), ("y",))]
        graph = make_graph(nodes, {"x": ("float32", (1, 4))}, ["y"])
        return any(p.rule == "odd" for p in rules.validate(graph, dict.fromkeys("xhty", U8)))

    assert rules_found("Conv", "Mul", "h")
    assert not rules_found("Relu", "Mul", "h")
    assert not rules_found("Conv", "Add", "h")
    assert not rules_found("Conv", "Mul", "x")


def test_a_span_names_a_known_measure() -> None:
    """A typo in a row is found when the row is read."""
    with pytest.raises(TypeError, match="measure 'widest' is none of"):
        OpConstraint("Relu", [ACT], [ACT], "a test", caveat={"rule": "odd", "message": "odd", "fine": {"measure": "widest"}})


def test_sizes_and_dynamic_inputs() -> None:
    """A port may limit sizes along axes, and may want a tensor that is not constant."""
    narrow = only(OpConstraint("Relu", [{**ACT, "dims": {1: [2, 3]}}], [ACT], "a test"))
    assert found(one("Relu", (1, 3)), narrow, x=U8, y=U8) == set()
    assert found(one("Relu", (1, 4)), narrow, x=U8, y=U8) == {("error", "dims", "x")}
    flat = only(OpConstraint("Relu", [{**ACT, "max_rank": 2}], [ACT], "a test"))
    assert found(one("Relu", (1, 4)), flat, x=U8, y=U8) == set()
    assert found(one("Relu", (1, 4, 1)), flat, x=U8, y=U8) == {("error", "rank", "x")}
    dynamic = only(OpConstraint("Add", [ACT, {**ACT, "dynamic": True}], [ACT], "a test"))
    assert found(one("Add", c=np.ones(4, np.float32)), dynamic, x=U8, y=U8, c=U8) == {("error", "dynamic", "c")}


def test_list_attributes_compare_as_tuples() -> None:
    """A row from YAML gives lists where a node has tuples; null stands for an attribute that is absent."""
    rules = only(OpConstraint("Relu", [ACT], [ACT], "a test", attributes={"dilations": [None, [1, 1]]}))
    assert found(one("Relu"), rules, x=U8, y=U8) == set()
    assert found(one("Relu", attributes={"dilations": (1, 1)}), rules, x=U8, y=U8) == set()
    assert found(one("Relu", attributes={"dilations": (2, 2)}), rules, x=U8, y=U8) == {("error", "attribute", "")}


def test_rows_for_plain_integers_say_nothing_of_encoded_tensors() -> None:
    """A row that lists int64 beside uint8 is for tensors without encodings: an encoded one needs a row of its own."""
    plain = {"dtypes": ["uint8", "int64"]}
    rules = only(OpConstraint("Relu", [plain], [plain], "a test"))
    assert found(one("Relu"), rules, x=U8, y=U8) == {("error", "dtype", "x"), ("error", "dtype", "y")}
