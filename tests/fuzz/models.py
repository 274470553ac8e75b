"""The models of the corpus: what ONNX files are made of, in graphs of a few nodes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from npukit.encoding import encoding_for_range, encoding_for_weights
from npukit.encoding.formats import insert_qdq
from npukit.graph import Graph, Node, make_graph, serialize
from npukit.testing import SAMPLES

SHAPES = {"w": (4, 2, 3, 3), "t": (4, 3, 2, 2), "g": (48, 4), "m": (4, 2)}
_EVERY = 6  # samples of the conformance kit, of which there are many


def network(batch: str | int = 1) -> Graph:
    """One op of every kind that has weights, on ``x`` (batch, 2, 6, 6)."""
    rng = np.random.default_rng(0)
    nodes = [
        Node("Conv", "conv", ("x", "w"), ("c",)),
        Node("ConvTranspose", "up", ("c", "t"), ("u",), {"strides": (2, 2)}),
        Node("MaxPool", "pool", ("u",), ("p",), {"kernel_shape": (2, 2), "strides": (2, 2)}),
        Node("Flatten", "flat", ("p",), ("f",)),
        Node("Gemm", "gemm", ("f", "g"), ("h",)),
        Node("MatMul", "mm", ("h", "m"), ("y",)),
    ]
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    return make_graph(nodes, {"x": ("float32", (batch, 2, 6, 6))}, ["y"], constants)


def encodings(graph: Graph) -> dict[str, object]:
    """Encodings of the network, of every form: per tensor, per channel, per block, LPBQ."""

    def weight(name: str) -> np.ndarray:
        values = graph.tensor(name).data
        assert values is not None
        return values

    return {
        "x": encoding_for_range(-1, 2, "uint8"),
        "w": encoding_for_weights(weight("w"), "int8", granularity="channel", axis=0),
        "t": encoding_for_weights(weight("t"), "int16", granularity="channel", axis=1),
        "g": encoding_for_weights(weight("g"), "int4", granularity="block", axis=0, block_size=24),
        "m": encoding_for_weights(weight("m"), "int4", granularity="lpbq", axis=0, block_size=2),
        "y": encoding_for_range(-1, 2, "uint16"),
    }


def models() -> Iterator[bytes]:
    """ONNX files: networks, with Q/DQ nodes, of old opsets, with subgraphs, functions, and one op of many kinds."""
    plain = network()
    yield serialize(plain)
    yield serialize(network("n"))
    yield serialize(insert_qdq(plain, encodings(plain)))  # type: ignore[arg-type]
    for sample in SAMPLES[::_EVERY]:
        yield serialize(sample.graph())
    for made in (_old(), _branches(), _loop(), _with_function(), _shapes()):
        yield made.SerializeToString()


def _value(name: str, shape: list[int | str] | None = None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [2, 4] if shape is None else shape)


def _model(nodes: list[onnx.NodeProto], opset: int = 21, **more: object) -> onnx.ModelProto:
    initializers = [
        numpy_helper.from_array(np.arange(8, dtype=np.float32).reshape(2, 4), "k"),
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.array(3), "three"),
        helper.make_tensor("bits", TensorProto.INT4, [3], [1, 2, 3]),
        helper.make_tensor("half", TensorProto.FLOAT16, [2], [1, 2]),
    ]
    graph = helper.make_graph(nodes, "g", [_value("x")], [_value("y", ["a", "b"])], initializers[: 5 if opset >= 21 else 3])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, **more)


def _old() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Clip", ["x"], ["a"], min=0.0, max=6.0),
        helper.make_node("Unsqueeze", ["a"], ["b"], axes=[0, 1]),
        helper.make_node("Upsample", ["b", "scales"], ["c"], mode="nearest"),
        helper.make_node("Slice", ["c"], ["d"], starts=[0, 0], ends=[1, 1], axes=[0, 1]),
        helper.make_node("ReduceSum", ["d"], ["e"], axes=[1], keepdims=0),
        helper.make_node("Dropout", ["e"], ["f"], ratio=0.5),
        helper.make_node("Squeeze", ["f"], ["y"], axes=[0]),
    ]
    model = _model(nodes, 9)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    return model


def _branches() -> onnx.ModelProto:
    then = helper.make_graph([helper.make_node("Relu", ["x"], ["r"])], "then", [], [_value("r")])
    other = helper.make_graph([helper.make_node("Add", ["x", "k"], ["s"])], "else", [], [_value("s")])
    return _model([helper.make_node("If", ["yes"], ["y"], then_branch=then, else_branch=other, name="if")])


def _loop() -> onnx.ModelProto:
    ends = [_value("i", [], TensorProto.INT64), _value("go", [], TensorProto.BOOL), _value("s")]
    nodes = [helper.make_node("Add", ["s", "k"], ["t"]), helper.make_node("Identity", ["go"], ["on"])]
    body = helper.make_graph(nodes, "body", ends, [_value("on", [], TensorProto.BOOL), _value("t")])
    return _model([helper.make_node("Loop", ["three", "yes", "x"], ["y"], body=body, name="loop")])


def _with_function() -> onnx.ModelProto:
    imports = [helper.make_opsetid("", 21)]
    inside = [helper.make_node("Mul", ["p", "p"], ["q"]), helper.make_node("LeakyRelu", ["q"], ["z"])]
    kind = onnx.AttributeProto.FLOAT
    inside[1].attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=kind))
    function = helper.make_function("own", "Twice", ["p"], ["z"], inside, imports, ["slope"])
    nodes = [helper.make_node("Twice", ["x"], ["y"], domain="own", slope=0.5)]
    return _model(nodes, functions=[function])


def _shapes() -> onnx.ModelProto:
    """Constants of every spelling, and a shape that is computed."""
    nodes = [
        helper.make_node("Constant", [], ["two"], value_ints=[4, 2]),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "three_"], ["size"]),
        helper.make_node("Constant", [], ["three_"], value=numpy_helper.from_array(np.array([1]))),
        helper.make_node("Concat", ["size", "minus"], ["target"], axis=0),
        helper.make_node("Constant", [], ["minus"], value_ints=[-1]),
        helper.make_node("Reshape", ["x", "target"], ["r"]),
        helper.make_node("Expand", ["one", "two"], ["e"]),
        helper.make_node("ConstantOfShape", ["two"], ["zeros"], value=numpy_helper.from_array(np.zeros(1, np.float32))),
        helper.make_node("Range", ["three", "three", "three"], ["range"]),
        helper.make_node("Tile", ["e", "two"], ["tiled"]),
        helper.make_node("Add", ["r", "e"], ["u"]),
        helper.make_node("Add", ["u", "zeros"], ["y"]),
    ]
    order = [0, 1, 4, 6, 2, 3, 5, 7, 8, 9, 10, 11, 12, 13]
    return _model([nodes[i] for i in order])
