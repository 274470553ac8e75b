"""The qnn backend on the vendor's runtime: verdicts, runs, files, figures, and what happens when it fails."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import onnx
import pytest

from npukit.backend import Soc
from npukit.demo import MODEL
from npukit.diagnosis import analyze, compare
from npukit.encoding import Array, Encoding, encoding_for_range
from npukit.errors import ConstraintError, ModelError, PluginError, UsageError
from npukit.graph import Graph, Node, make_graph
from npukit.quantization import Quantized, Request, check, open_session, quantize
from npukit_qnn.backend import QnnBackend
from npukit_qnn.child import Child, QnnRuntimeError

pytestmark = pytest.mark.usefixtures("runtime")


def unary(op: str, dtype: str = "uint8", shape: tuple[int, ...] = (1, 4, 8, 8)) -> tuple[Graph, dict[str, Encoding]]:
    graph = make_graph([Node(op, "the_node", ("x",), ("y",))], {"x": ("float32", shape)}, ["y"])
    return graph, {"x": encoding_for_range(-1, 1, dtype), "y": encoding_for_range(-1, 1, dtype)}


def test_simulator_and_emulator_agree(quantized: Quantized, images: Array) -> None:
    """On the digits both give the same classes, and scores that differ by a step or two of the output grid."""
    step = float(quantized.encodings["scores"].steps)
    feeds = [{"image": image[None]} for image in images]
    with open_session(quantized, backend="qnn:SM8750") as vendor, open_session(quantized, backend="htp:SM8750") as ours:
        pairs = [(vendor.run(f)["scores"], ours.run(f)["scores"]) for f in feeds]
    theirs, got = (np.concatenate(side) for side in zip(*pairs, strict=True))
    assert np.rint(np.abs(theirs - got) / step).max() <= 2
    assert (theirs.argmax(1) == got.argmax(1)).all()
    assert theirs.any()


def test_any_tensor_can_be_asked_for(quantized: Quantized, images: Array) -> None:
    """compare puts emulator and simulator side by side for every tensor of the model."""
    found = compare(quantized, backends=["htp", "qnn"], data={"image": images[:2]})
    assert len(found.tensors) > 5
    assert all(np.isfinite(row.sqnr["qnn"]) and row.sqnr["qnn"] > 10 for row in found.tensors)
    assert found.pair == ("htp", "qnn")
    assert all(row.agreement is not None and row.agreement.within_one > 0.9 for row in found.tensors)


def test_metrics_report_the_placement(quantized: Quantized, images: Array) -> None:
    """All nodes are on the device and none on the CPU."""
    with open_session(quantized, backend="qnn") as session:
        session.run({"image": images[:1]})
        facts = session.metrics()
    assert facts["nodes on the device"] > 0
    assert facts["nodes on the CPU"] == 0
    assert facts["device"] in ("simulator", "NPU")
    assert facts["ops"]["Conv"] == sum(node.op == "Conv" for node in quantized.graph.nodes)


def test_profile_names_the_nodes(quantized: Quantized, images: Array) -> None:
    """The per-op figures carry the names of the model's nodes and a unit."""
    with open_session(quantized, backend="qnn") as session:
        ops = session.profile({"image": images[:1]})
    names = {node.name for node in quantized.graph.nodes if node.op == "Conv"}
    assert names & {op.node for op in ops}
    assert {op.unit for op in ops} == {"cycles"}


def test_profile_elsewhere_is_refused(quantized: Quantized, images: Array) -> None:
    """A backend without per-op figures says so."""
    with open_session(quantized, backend="htp") as session, pytest.raises(UsageError, match="no per-op figures"):
        session.profile({"image": images[:1]})


def test_check_gives_the_vendors_verdict(quantized: Quantized) -> None:
    """A good model is accepted; an op the vendor does not have is refused in its words, at the node."""
    assert check(quantized, backend="qnn:SM8650").verdict == "accepted"
    graph, encodings = unary("Erf")
    result = check(Request(graph, overrides=encodings), backend="qnn:SM8650")
    assert result.verdict == "refused"
    (problem,) = result.problems
    assert (problem.rule, problem.node, problem.op) == ("vendor", "the_node", "Erf")
    assert "not supported" in problem.message


def test_a_code_without_reason_names_the_row() -> None:
    """The validator answers with a number for 16-bit LRN: the op constraint that forbids it is quoted."""
    graph = make_graph([Node("LRN", "the_node", ("x",), ("y",), {"size": 3})], {"x": ("float32", (1, 4, 8, 8))}, ["y"])
    grid = encoding_for_range(-1, 1, "uint16")
    (problem,) = check(Request(graph, overrides={"x": grid, "y": grid}), backend="qnn:SM8750").problems
    assert "no reason given" in problem.message
    assert "uint16" in problem.message


def test_open_shapes_are_no_acceptance() -> None:
    """A model with an open dimension cannot be judged: the verdict says so instead of accepting."""
    graph = make_graph([Node("Relu", "r", ("x",), ("y",))], {"x": ("float32", ("batch", 4))}, ["y"])
    assert check(graph, backend="qnn").verdict == "cannot tell"


def test_open_shapes_are_bound_when_it_runs() -> None:
    """A model with an open dimension runs for the shape of its data, and again for another."""
    graph = make_graph([Node("Relu", "r", ("x",), ("y",))], {"x": ("float32", ("batch", 4))}, ["y"])
    encodings = dict.fromkeys("xy", encoding_for_range(0, 1, "uint8"))
    backend = QnnBackend()
    with backend.open(backend.compile(graph, encodings, backend.soc())) as session:
        for size in (2, 3):
            assert session.run({"x": np.ones((size, 4), np.float32)})["y"].tolist() == [[1.0] * 4] * size


def test_a_refused_model_does_not_run() -> None:
    """Running gives the reason, not a result of the CPU."""
    graph, encodings = unary("Erf")
    backend = QnnBackend()
    session = backend.open(backend.compile(graph, encodings, backend.soc("SM8750")))
    with session, pytest.raises(ConstraintError, match=r"qnn:SM8750 refuses the model: .*the_node.*not supported"):
        session.run({"x": np.zeros((1, 4, 8, 8), np.float32)})


def test_an_unknown_chip_number_is_refused() -> None:
    """A soc_model that does not exist fails when the device is made; the message names the chip."""
    graph, encodings = unary("Relu")
    backend = QnnBackend()
    session = backend.open(backend.compile(graph, encodings, Soc("MyChip", "v79", id=999)))
    with session, pytest.raises(ModelError, match="qnn:MyChip"):
        session.run({"x": np.zeros((1, 4, 8, 8), np.float32)})
    with pytest.raises(ModelError, match="'NoId' has no soc_model number"):
        backend.compile(graph, encodings, Soc("NoId", "v79"))


def test_one_process_serves_one_chip(quantized: Quantized, images: Array) -> None:
    """Two chips at once give each its own child; a child that is asked for a second chip refuses."""
    feeds = {"image": images[:1]}
    with open_session(quantized, backend="qnn:SM8750") as new, open_session(quantized, backend="qnn:SM8350") as old:
        first, other, again = new.run(feeds), old.run(feeds), new.run(feeds)
    np.testing.assert_array_equal(first["scores"], again["scores"])
    assert other["scores"].shape == first["scores"].shape
    child = Child()
    with pytest.raises(QnnRuntimeError):
        child.ask({"do": "load", "model": "missing.onnx", "soc": 69, "arch": 79})
    with pytest.raises(QnnRuntimeError, match="works for soc_model 69 and cannot serve soc_model 30"):
        child.ask({"do": "load", "model": "missing.onnx", "soc": 30, "arch": 68})
    child.close()


def test_a_crash_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the child dies the error says so with its exit code, and a new child is started for the next request."""
    backend = QnnBackend()
    soc = backend.soc("SM8750")
    child = backend.child(soc)
    child._process.kill()
    with pytest.raises(PluginError, match="crashed \\(exit code -9\\)"):
        child.ask({"do": "versions"})
    assert backend.child(soc) is not child


def test_a_hang_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that does not answer in time is stopped, and the error says after how long."""
    monkeypatch.setattr("npukit_qnn.child._TIMEOUT", 0.0)
    child = Child()
    with pytest.raises(PluginError, match="has not answered for 0 s and was stopped"):
        child.ask({"do": "versions"})
    assert child.closed


@pytest.mark.parametrize("form", ["qnn-dlc", "qnn-context"])
def test_exports_are_the_vendors_files(quantized: Quantized, tmp_path: Path, form: str) -> None:
    """The DLC is the vendor's container (a zip), the context an ONNX file with one EPContext node; no scratch file stays."""
    backend = QnnBackend()
    soc = backend.soc("SM8750")
    target = tmp_path / "out.bin"
    line = backend.export(backend.compile(quantized.graph, quantized.encodings, soc), form, target)
    assert list(tmp_path.iterdir()) == [target]
    if form == "qnn-dlc":
        assert target.read_bytes()[:2] == b"PK"
    else:
        (node,) = [n for n in onnx.load(target).graph.node if n.op_type == "EPContext"]
        assert node.domain == "com.microsoft"
        assert "SM8750" in line


def test_a_refused_model_leaves_no_file(tmp_path: Path) -> None:
    """An export that the vendor refuses raises and writes nothing."""
    graph, encodings = unary("Erf")
    backend = QnnBackend()
    with pytest.raises(QnnRuntimeError):
        backend.export(backend.compile(graph, encodings, backend.soc()), "qnn-dlc", tmp_path / "out.dlc")
    assert list(tmp_path.iterdir()) == []


def test_float16_models_run(images: Array, quantized: Quantized) -> None:
    """A model whose tensors are all float16 runs as such and is close to the float result."""
    half = {n: Encoding("float16") for n, t in quantized.graph.tensors.items() if t.is_float}
    model = Quantized(attrs.evolve(quantized.package, encodings=half), quantized.report)
    with open_session(model, backend="qnn:SM8750") as vendor, open_session(model, backend="cpu:float32") as reference:
        got, wanted = (s.run({"image": images[:1]})["scores"] for s in (vendor, reference))
    np.testing.assert_allclose(got, wanted, atol=0.02 * np.abs(wanted).max())


def test_mixed_precision_runs(images: Array) -> None:
    """A model with some activations at 16 bits and the others at 8 is accepted, and agrees with the emulator.

    Weights of 16 bits are left out: the simulator is less exact with them (docs/explanation/arithmetic.md).
    """
    found = analyze(Request(MODEL, batch=1), backend="htp", data={"image": images[:4]}, worst=2)
    wide = {n: e for n, e in found.overrides.items() if not n.endswith(".weight")}
    mixed = quantize(Request(MODEL, overrides=wide, batch=1), backend="htp", data={"image": images})
    assert {e.bits for e in mixed.encodings.values()} >= {8, 16}
    assert check(mixed, backend="qnn:SM8750").verdict == "accepted"
    both = compare(mixed, backends=["htp", "qnn"], data={"image": images[:4]})
    assert abs(both.outputs[0].sqnr["htp"] - both.outputs[0].sqnr["qnn"]) < 2
