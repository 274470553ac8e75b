"""The parts of the qnn backend that work without the vendor's package: lowering, reading its log, saying what is missing."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime as ort
import pytest

from npukit.backend import Problem
from npukit.encoding import Array, encoding_for_range, quantize
from npukit.errors import PluginError
from npukit.graph import Node, make_graph, serialize
from npukit.plugins import Registry
from npukit.quantization import Quantized, check, open_session
from npukit_htp.backend import HtpBackend
from npukit_qnn import child
from npukit_qnn.backend import QnnBackend
from npukit_qnn.lower import lower, with_converts
from npukit_qnn.verdicts import leftovers, placed, read_log, refusals

LOG = """\
2026-01-01 00:00:00 [V:onnxruntime:, x.cc:1 LogNodeSupport] Validation FAILED for 3 nodes in OrtNodeUnit (Erf) :
\tOperator type: DequantizeLinear Node name: x.dequantize Node index: 0
\tOperator type: Erf Node name: n0 Node index: 3
\tOperator type: QuantizeLinear Node name: y.quantize Node index: 4
\tREASON : Operators of type `Erf` are not supported by QNN EP. node `n0` will not be assigned to QNN EP.

2026-01-01 00:00:00 [V:onnxruntime:, x.cc:1 LogNodeSupport] Validation PASSED for 3 nodes in OrtNodeUnit (Conv) :
\tOperator type: Conv Node name: n1 Node index: 5

2026-01-01 00:00:00 [V:onnxruntime:, x.cc:1 LogNodeSupport] Validation FAILED for 3 nodes in OrtNodeUnit (LRN) :
\tOperator type: LRN Node name: n2_token_7 Node index: 6
\tREASON : QNN.backendValidateOpConfig() failed for node `n2` of type `Lrn` with error code 3110

2026-01-01 00:00:00 [V:onnxruntime:, x.cc:1 LogNodeSupport] Validation FAILED for 1 nodes in OrtNodeUnit (Transpose) :
\tOperator type: Transpose Node name: Transpose_token_4 Node index: 6
\tREASON : Failed to add node.
"""


@pytest.fixture
def nodes() -> dict[str, Node]:
    return {f"n{i}": Node(op, f"my_{op.lower()}", ("x",), ("y",)) for i, op in enumerate(("Erf", "Conv", "LRN"))}


def test_refusals_quote_the_vendor_in_the_names_of_the_model(nodes: dict[str, Node]) -> None:
    """A sentence is quoted with the model's node names; a node that was taken is no problem."""
    erf, lrn = refusals(read_log(LOG), nodes, [])
    assert (erf.node, erf.op, erf.severity) == ("my_erf", "Erf", "error")
    assert "not supported by QNN EP" in erf.message
    assert "`my_erf`" in erf.message
    assert lrn.message.endswith("code 3110, no reason given")
    assert [node.name for node in placed(read_log(LOG), nodes)] == ["my_conv"]


def test_a_bare_code_is_explained_by_the_op_constraint(nodes: dict[str, Node]) -> None:
    """Where the vendor gives a number only, the row that the node violates is named, and only that node's."""
    rows = [Problem("error", "dtype", node, "LRN", "y", "type uint16, allowed is uint8") for node in ("other", "my_lrn")]
    _, lrn = refusals(read_log(LOG), nodes, rows)
    assert "code 3110, no reason given; the op constraints say: tensor 'y': type uint16, allowed is uint8 [dtype]" in lrn.message


def test_nodes_that_the_layout_pass_made_are_told_apart() -> None:
    """A refused Transpose that is no node of the model is reported as such."""
    assert leftovers(read_log(LOG)) == ["Transpose: Failed to add node."]


def test_the_lowered_model_computes_the_simulation(quantized: Quantized, images: Array) -> None:
    """On ONNX Runtime's CPU the lowered model, codes in and codes out, equals the Q/DQ simulation bit for bit."""
    lowered = lower(quantized.graph, quantized.encodings, quantized.graph.outputs)
    (entry,), (leave,) = lowered.inputs, lowered.outputs
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(serialize(lowered.graph), options, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(uint8)"
    with open_session(quantized, backend="cpu:qdq") as simulation:
        for image in images[:5]:
            (codes,) = session.run([leave.port], {entry.port: entry.write(image[None])})
            np.testing.assert_array_equal(leave.read(codes), simulation.run({"image": image[None]})[leave.name])


def test_float16_tensors_are_computed_in_float16() -> None:
    """Ops between float16 encodings are float16 ops, with one Cast where a quantized tensor meets them; the result fits."""
    nodes = [Node("Relu", "a", ("x",), ("r",)), Node("Mul", "b", ("r", "c"), ("m",)), Node("Add", "d", ("m", "x"), ("y",))]
    constants = {"c": np.full((1, 4), 0.3, np.float32)}
    graph = make_graph(nodes, {"x": ("float32", (1, 4))}, ["y"], constants)
    half = encoding_for_range(-1, 1, "uint8")
    from npukit.encoding import Encoding

    encodings = {"x": half, "r": half, "m": Encoding("float16"), "c": Encoding("float16"), "y": Encoding("float16")}
    lowered = lower(graph, encodings, ["y"])
    by_op = {node.op: node for node in lowered.graph.nodes}
    assert lowered.graph.tensor(by_op["Mul"].outputs[0]).dtype == "float16"
    assert {lowered.graph.tensor(n).dtype for n in by_op["Mul"].inputs} == {"float16"}
    assert lowered.graph.tensor(by_op["Relu"].inputs[0]).dtype == "float32"
    session = ort.InferenceSession(serialize(lowered.graph), providers=["CPUExecutionProvider"])
    x = np.array([[-1, 0.5, 0.25, 1]], np.float32)
    (codes,) = session.run([lowered.outputs[0].port], {lowered.inputs[0].port: lowered.inputs[0].write(x)})
    assert codes.dtype == np.float16
    np.testing.assert_allclose(lowered.outputs[0].read(codes), np.maximum(x, 0) * 0.3 + x, atol=0.01)


def test_without_the_package_it_says_what_to_install(quantized: Quantized, images: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running and checking name the missing package and the command; the list of backends shows it and nothing is broken."""
    monkeypatch.setattr(child, "PACKAGE", "onnxruntime_qnn_that_is_not_there")
    backend = QnnBackend()
    assert "pip install" in backend.missing
    registry = Registry()
    registry.add("qnn", type("Plugin", (), {"register_backends": staticmethod(_hook(backend))}))
    with pytest.raises(PluginError, match="onnxruntime-qnn is not installed") as caught:
        check(quantized, backend="qnn:SM8650", registry=registry)
    assert "pip install" in caught.value.hint
    with open_session(quantized, backend="qnn:SM8650", registry=registry) as session, pytest.raises(PluginError, match="installed"):
        session.run({"image": images[:1]})


def _hook(backend: QnnBackend) -> object:
    from npukit.plugins import hookimpl

    @hookimpl
    def register_backends() -> QnnBackend:
        return backend

    return register_backends


def test_nothing_of_the_vendor_is_imported(quantized: Quantized) -> None:
    """The vendor's package lives in the child process: this one never imports it, whatever was run before."""
    assert "onnxruntime_qnn" not in sys.modules


def test_socs_agree_with_the_emulator() -> None:
    """A chip that both backends know has one architecture and one number."""
    emulated = {soc.name: soc for soc in HtpBackend().socs()}
    known = [soc for soc in QnnBackend().socs() if soc.name in emulated]
    assert len(known) > 40
    assert [(s.name, s.arch, s.id) for s in known] == [(s.name, emulated[s.name].arch, emulated[s.name].id) for s in known]


def test_mixed_widths_meet_through_converts() -> None:
    """An op between 8 and 16 bits gets its 8-bit activations at 16 bits, each value exact; weights and pure 8-bit ops stay."""
    narrow, wide = encoding_for_range(-1, 2, "uint8"), encoding_for_range(-4, 4, "uint16")
    nodes = [
        Node("Conv", "conv", ("x", "w"), ("c",)),
        Node("Add", "add", ("c", "x"), ("a",)),
        Node("Relu", "relu", ("a",), ("y",)),
        Node("Relu", "plain", ("x",), ("z",)),
    ]
    weight = np.random.default_rng(0).uniform(-1, 1, (2, 2, 1, 1)).astype(np.float32)
    graph = make_graph(nodes, {"x": ("float32", (1, 2, 3, 3))}, ["y", "z"], {"w": weight})
    encodings = {"x": narrow, "w": encoding_for_range(-1, 1, "int8"), "c": wide, "a": narrow, "y": narrow, "z": narrow}
    made, grids = with_converts(graph, encodings)
    widths = {node.name: {grids[n].bits for n in (*node.inputs, *node.outputs) if n != "w"} for node in made.nodes}
    assert widths == {
        "x.convert": {8, 16}, "conv": {16}, "add": {16}, "a.convert": {8, 16}, "relu": {8}, "plain": {8},
    }  # fmt: skip
    codes = np.arange(256)
    values = (codes - int(narrow.zeros)).astype(np.float32) * narrow.steps
    np.testing.assert_array_equal(quantize(values, grids["x.wide"]), 257 * codes)


def test_what_is_made_for_a_node_belongs_to_it() -> None:
    """A verdict on a Convert or a Quantize is about the node that reads it, else about the one that makes its input."""
    nodes = [Node("Relu", "first", ("x",), ("h",)), Node("Relu", "last", ("h",), ("y",))]
    graph = make_graph(nodes, {"x": ("float32", (1, 4))}, ["y"], {})
    narrow, wide = encoding_for_range(-1, 1, "uint8"), encoding_for_range(-1, 1, "uint16")
    lowered = lower(graph, {"x": narrow, "h": wide, "y": narrow}, graph.outputs)
    owners = {node.name: owner.name for node in lowered.graph.nodes if (owner := lowered.owner(node.name))}
    assert owners["x.convert"] == "first"
    assert owners["y.convert"] == "last"
    assert set(owners) == {node.name for node in lowered.graph.nodes}
    assert lowered.owner("nobody") is None
