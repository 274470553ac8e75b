"""ONNX files become graphs and come back."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from npukit.errors import ModelError, UsageError
from npukit.graph import Graph, Node, check_graph, evaluate_node, load, make_graph, save, serialize, source_hash

FLOAT = TensorProto.FLOAT


def proto(
    nodes: list[onnx.NodeProto],
    opset: int = 21,
    shape: tuple[Any, ...] = (2, 4),
    initializers: tuple[onnx.TensorProto, ...] = (),
    outputs: tuple[str, ...] = ("y",),
    **model: Any,
) -> onnx.ModelProto:
    """A model with input x."""
    infos = [[helper.make_tensor_value_info("x", FLOAT, shape)], [helper.make_tensor_value_info(n, FLOAT, None) for n in outputs]]
    graph = helper.make_graph(nodes, "g", *infos, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **model)


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.random.default_rng(0).normal(size=shape).astype(np.float32), name)


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 17, 21, 23, onnx.defs.onnx_opset_version()])
def test_opsets(opset: int) -> None:
    """Every opset from 7 on loads in one form: attributes that became inputs are inputs."""
    clip = (
        helper.make_node("Clip", ["x", "lo", "hi"], ["y"])
        if opset > 10
        else helper.make_node("Clip", ["x"], ["y"], min=0.0, max=6.0)
    )
    limits = (numpy_helper.from_array(np.float32(0), "lo"), numpy_helper.from_array(np.float32(6), "hi")) if opset > 10 else ()
    graph = load(proto([clip], opset, initializers=limits).SerializeToString())
    node = graph.nodes[-1]
    assert graph.opset >= 21
    assert [float(graph.tensor(n).data) for n in node.inputs[1:]] == [0, 6]
    assert graph.tensor("y").shape == (2, 4)


def test_initializers_listed_as_inputs() -> None:
    """An initializer is a constant even when the file lists it as an input (IR version 3 demands that)."""
    model = proto([helper.make_node("MatMul", ["x", "w"], ["y"])], 9, initializers=(weight("w", 4, 3),))
    model.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [4, 3]))
    model.ir_version = 3
    graph = load(model.SerializeToString())
    assert graph.inputs == ("x",)
    assert graph.tensor("w").is_constant


def test_constants_names_and_functions() -> None:
    """Constant nodes become constants, nodes get unique names, functions are inlined."""
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 21)]
    )
    nodes = [
        helper.make_node("Constant", [], ["k"], value_float=2.0),
        helper.make_node("Twice", ["x"], ["t"], domain="mine"),
        helper.make_node("Mul", ["t", "k"], ["m"], name="same"),
        helper.make_node("Relu", ["m"], ["y"], name="same"),
    ]
    model = proto(nodes)
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    graph = load(model.SerializeToString())
    assert [n.op for n in graph.nodes] == ["Add", "Mul", "Relu"]
    assert len({n.name for n in graph.nodes}) == 3
    assert graph.tensor("k").data == 2


def test_symbols_and_batch() -> None:
    """Symbols and the batch are bound everywhere; unknown ones come with the known names."""
    data = proto([helper.make_node("Relu", ["x"], ["y"])], shape=("n", "width")).SerializeToString()
    assert load(data).tensor("y").shape == ("n", "width")
    assert load(data, symbols={"width": 5}).tensor("y").shape == ("n", 5)
    assert load(data, symbols={"width": 5}, batch=3).tensor("y").static_shape == (3, 5)
    with pytest.raises(UsageError, match=r"'widht'.*did you mean 'width'"):
        load(data, symbols={"widht": 5})
    with pytest.raises(UsageError, match="at least 1"):
        load(data, batch=0)


def external(folder: Path, location: str = "weights.bin", size: int = 4 << 20) -> Path:
    """A model whose weight lies in a file beside it."""
    (folder / "weights.bin").write_bytes(np.arange(size // 4, dtype=np.float32).tobytes())
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4, size // 16], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": str(size)}.items():
        tensor.external_data.add(key=key, value=value)
    model = proto([helper.make_node("MatMul", ["x", "w"], ["y"])], 13, initializers=(tensor,))
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def test_external_data_stays_on_disk(tmp_path: Path) -> None:
    """A weight in an external file is a memory map, with the right values, also when the opset is converted."""
    data = load(external(tmp_path)).tensor("w").data
    assert data is not None
    assert isinstance(data.base, np.memmap) or isinstance(data, np.memmap)
    assert data[3, -1] == (1 << 20) - 1


@pytest.mark.parametrize(("location", "words"), [("../weights.bin", "outside"), ("none.bin", "not there")])
def test_external_data_refused(tmp_path: Path, location: str, words: str) -> None:
    """External data outside the model's folder, or missing, is refused by tensor name."""
    with pytest.raises(ModelError, match=f"'w'.*{words}"):
        load(external(tmp_path, location))


def test_external_data_too_short(tmp_path: Path) -> None:
    """A file that is too short is refused."""
    path = external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"abc")
    with pytest.raises(ModelError, match="'w' needs"):
        load(path)


def relu(a: str, b: str, name: str = "") -> onnx.NodeProto:
    return helper.make_node("Relu", [a], [b], name=name)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (b"", "not an ONNX model"),
        (b"hello world", "not an ONNX model"),
        (proto([relu("x", "y")]).SerializeToString()[:-9], "not an ONNX model|damaged|nothing makes|not valid|no node"),
        (proto([helper.make_node("Nope", ["x"], ["y"], name="n7")]).SerializeToString(), "'n7'.*Nope"),
        (proto([relu("b", "a", "one"), relu("a", "b", "two")], outputs=("b",)).SerializeToString(), "cycle.*one.*two"),
        (proto([relu("ghost", "y", "one")]).SerializeToString(), "'one'.*'ghost'"),
        (proto([relu("x", "y"), relu("x", "y")]).SerializeToString(), "'y' is made twice"),
        (proto([relu("x", "a")]).SerializeToString(), "'y' is made by no node"),
        (proto([relu("x", "y")], 5).SerializeToString(), "opset 5"),
    ],
)
def test_bad_models(model: bytes, words: str) -> None:
    """A bad model is one ModelError that says what and where."""
    with pytest.raises(ModelError, match=words) as caught:
        load(model)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is a usage error."""
    with pytest.raises(UsageError, match=r"no\.onnx"):
        load(tmp_path / "no.onnx")


def test_node_order_does_not_matter() -> None:
    """Nodes in any order load in topological order, with the same tensors."""
    nodes = [relu("x", "a"), relu("a", "b"), helper.make_node("Add", ["a", "b"], ["c"]), relu("c", "y")]
    shapes = {n: t.shape for n, t in load(proto(nodes).SerializeToString()).tensors.items()}
    for seed in range(5):
        random.Random(seed).shuffle(nodes)
        graph = load(proto(nodes).SerializeToString())
        check_graph(graph)
        assert {n: t.shape for n, t in graph.tensors.items()} == shapes


def test_subgraphs_load() -> None:
    """An If loads, its branches as graphs, and saves again."""
    branch = helper.make_graph([relu("x", "r")], "b", [], [helper.make_tensor_value_info("r", FLOAT, None)])
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    graph = load(proto(nodes).SerializeToString())
    assert isinstance(graph.nodes[-1].attributes["then_branch"], Graph)
    assert load(serialize(graph)).nodes[-1].op == "If"


def test_save_and_load(tmp_path: Path) -> None:
    """What is saved, with or without external data, loads equal and runs; equal graphs give equal bytes."""
    graph = make_graph(
        [Node("MatMul", "mm", ("x", "w"), ("y",))],
        {"x": ("float32", ("n", 64))},
        ["y"],
        {"w": np.arange(64 * 64, dtype=np.float32).reshape(64, 64)},
    )
    save(graph, tmp_path / "a.onnx")
    save(graph, tmp_path / "b.onnx", external_data="b.bin")
    assert (tmp_path / "b.onnx").stat().st_size < 2000
    for name in ("a.onnx", "b.onnx"):
        again = load(tmp_path / name)
        assert again.tensor("x").shape == ("n", 64)
        assert np.array_equal(again.tensor("w").data, graph.tensor("w").data)
        session = onnxruntime.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"])
        assert session.run(None, {"x": np.ones((2, 64), np.float32)})[0].shape == (2, 64)
    assert serialize(graph) == serialize(load(tmp_path / "a.onnx").evolve(name="graph"))
    assert len(source_hash(tmp_path / "a.onnx")) == 64


def test_unwritable_leaves_nothing(tmp_path: Path) -> None:
    """A target that cannot be written is a usage error, and nothing is left."""
    graph = make_graph([Node("Relu", "r", ("x",), ("y",))], {"x": ("float32", (1,))}, ["y"])
    (tmp_path / "dir").mkdir()
    with pytest.raises(UsageError, match="cannot write"):
        save(graph, tmp_path / "dir")
    assert [p.name for p in tmp_path.iterdir()] == ["dir"]


def test_evaluate_node() -> None:
    """One node computes on arrays; what has no reference says which node."""
    graph = make_graph([Node("Relu", "r", ("x",), ("y",))], {"x": ("float32", (2,))}, ["y"])
    (result,) = evaluate_node(graph.nodes[0], [np.array([-1, 2], np.float32)], graph)
    assert result.tolist() == [0, 2]
    with pytest.raises(ModelError, match=r"'odd' \(Odd\)"):
        evaluate_node(Node("Odd", "odd", ("x",), ("y",), {}, "my.domain"), [np.zeros(1)], graph)


def test_zoo_loads(zoo: Path) -> None:
    """Every pretrained model loads, names kept, and survives a round trip."""
    for path in sorted(zoo.glob("*.onnx")):
        original = onnx.load(path).graph
        graph = load(path)
        assert set(graph.outputs) == {o.name for o in original.output}
        made = {name for node in original.node for name in node.output if name}
        assert made <= set(graph.tensors)
        assert [n.name for n in load(serialize(graph)).nodes] == [n.name for n in graph.nodes]


def test_shapes_behind_a_group_normalization() -> None:
    """ONNX does not infer through GroupNormalization: its output is like its input, and what follows is known too."""
    nodes = [Node("GroupNormalization", "g", ("x", "s", "b"), ("n",), {"num_groups": 2}), Node("Relu", "r", ("n",), ("y",))]
    scale = np.ones(4, np.float32)
    graph = make_graph(nodes, {"x": ("float32", (1, 4, 5))}, ["y"], {"s": scale, "b": scale})
    assert [(graph.tensor(n).dtype, graph.tensor(n).shape) for n in "ny"] == [("float32", (1, 4, 5))] * 2


def test_shapes_behind_ops_of_onnx_runtime() -> None:
    """What ONNX Runtime adds to ONNX has a known type, so that the tensors behind it are planned like others."""
    nodes = [
        Node("SimplifiedLayerNormalization", "s", ("x", "g"), ("a",), {"axis": -1}),
        Node("FusedMatMul", "f", ("a", "w"), ("b",), {"transB": 1}, "com.microsoft"),
        Node("QuickGelu", "q", ("b",), ("c",), {}, "com.microsoft"),
        Node("FusedMatMul", "t", ("c", "a"), ("d",), {"transA": 1}, "com.microsoft"),
        Node("Relu", "r", ("d",), ("y",)),
    ]
    constants = {"g": np.ones(8, np.float32), "w": np.ones((6, 8), np.float32)}
    graph = make_graph(nodes, {"x": ("float32", ("N", 4, 8))}, ["y"], constants)
    shapes = {"a": ("N", 4, 8), "b": ("N", 4, 6), "c": ("N", 4, 6), "d": ("N", 6, 8), "y": ("N", 6, 8)}
    assert {n: graph.tensor(n).shape for n in shapes} == shapes
    assert all(graph.tensor(n).is_float for n in shapes)


def test_shape_behind_weights_of_few_bits() -> None:
    """MatMulNBits gives N columns."""
    node = Node("MatMulNBits", "m", ("x", "w", "s"), ("y",), {"K": 32, "N": 3, "bits": 4, "block_size": 32}, "com.microsoft")
    constants = {"w": np.zeros((3, 1, 16), np.uint8), "s": np.ones(3, np.float32)}
    graph = make_graph([node], {"x": ("float32", (1, 5, 32))}, ["y"], constants)
    assert (graph.tensor("y").dtype, graph.tensor("y").shape) == ("float32", (1, 5, 3))


@pytest.mark.parametrize("opset", [17, 21])
def test_an_op_of_onnx_runtime_in_the_default_domain(opset: int) -> None:
    """SimplifiedLayerNormalization, which ONNX Runtime has in the default domain, loads from old and new models."""
    node = helper.make_node("SimplifiedLayerNormalization", ["x", "g"], ["y"], axis=-1)
    graph = load(proto([node], opset, initializers=(weight("g", 4),)).SerializeToString())
    assert [(n.op, n.domain) for n in graph.nodes] == [("SimplifiedLayerNormalization", "")]
    assert set(graph.domains) == set()
    assert graph.tensor("y").shape == (2, 4)


@pytest.mark.parametrize(("op", "opset"), [("Upsample", 9), ("Resize", 10)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scale", [2.0, 2.5])
def test_old_resizes_keep_their_coordinates(op: str, opset: int, mode: str, scale: float) -> None:
    """Before opset 11 pixels were not at half coordinates; the converted model computes what the old one did."""
    scales = numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "s")
    model = proto([helper.make_node(op, ["x", "s"], ["y"], mode=mode)], opset, (1, 2, 4, 4), (scales,), ir_version=8)
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)}
    before, after = (
        onnxruntime.InferenceSession(form, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for form in (model.SerializeToString(), serialize(load(model.SerializeToString())))
    )
    np.testing.assert_allclose(after, before, rtol=1e-6)
