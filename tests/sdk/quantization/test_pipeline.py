"""From a float model to encodings: who decides each tensor, and what is said about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npukit as nk
from npukit.backend import Backend, Kernel, Soc
from npukit.diagnosis import compare
from npukit.diagnosis.compare import _CodeMeter
from npukit.encoding import Encoding, encoding_for_range
from npukit.encoding.formats import insert_qdq, write_encodings
from npukit.errors import ConstraintError, DataError, EncodingError, UsageError
from npukit.graph import Graph, Node, make_graph, save
from npukit.plugins import Registry, hookimpl
from npukit.quantization import Quantized, open_session
from npukit_htp.backend import HtpBackend

RNG = np.random.default_rng(0)
REGISTRY = Registry.load()
DATA = [{"x": RNG.normal(size=(1, 2, 8, 8)).astype(np.float32)} for _ in range(6)]


def weights(**shapes: tuple[int, ...]) -> dict[str, Any]:
    return {name: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


NODES = [
    Node("Conv", "conv", ("x", "w", "b"), ("c",), {"pads": (1, 1, 1, 1)}),
    Node("Relu", "relu", ("c",), ("r",)),
    Node("MaxPool", "pool", ("r",), ("p",), {"kernel_shape": (2, 2), "strides": (2, 2)}),
    Node("Flatten", "flat", ("p",), ("f",)),
    Node("Gemm", "gemm", ("f", "gw", "gb"), ("g",), {"transB": 1}),
    Node("Sigmoid", "sig", ("g",), ("y",)),
]
GRAPH = make_graph(NODES, {"x": ("float32", (1, 2, 8, 8))}, ["y"], weights(w=(4, 2, 3, 3), b=(4,), gw=(3, 64), gb=(3,)))


def quantized(graph: Graph = GRAPH, overrides: Any = None, lenient: bool = False, **kwargs: Any) -> Quantized:
    request = nk.Request(graph, overrides=overrides, lenient=lenient)
    return nk.quantize(request, backend="htp", data=DATA, registry=REGISTRY, **kwargs)


def test_origins() -> None:
    """Calibrated, fixed, derived: every float tensor has an encoding, and the report counts them by origin."""
    q = quantized()
    assert set(q.encodings) == {n for n, t in q.graph.tensors.items() if t.is_float}
    assert q.encodings["y"].origin == "fixed"
    assert float(q.encodings["y"].steps) == 1 / 256
    assert {q.encodings[n].origin for n in ("b", "gb")} == {"derived"}
    assert q.report.origins == {"calibrated": 8, "fixed": 1, "derived": 2}
    assert q.report.problems == ()
    assert "8 calibrated" in str(q.report)


def test_grids() -> None:
    """Fused and moved tensors share one grid; the bias scale is a product; weights are symmetric per channel."""
    e = quantized().encodings
    assert len({(float(e[n].steps), int(e[n].zeros)) for n in "crpf"}) == 1
    assert float(e["c"].min) == 0
    assert np.allclose(e["b"].steps, e["x"].steps * e["w"].steps, rtol=1e-6)
    assert e["w"].axis == 0
    assert not e["w"].zeros.any()


def test_data_is_needed_once() -> None:
    """Without data the missing ranges are an error; when everything is given or fixed none is needed."""
    with pytest.raises(DataError, match="no calibration data"):
        nk.quantize(GRAPH, backend="htp", registry=REGISTRY)
    given = dict(quantized().encodings)
    again = nk.quantize(nk.Request(GRAPH, overrides=given), backend="htp", registry=REGISTRY)
    assert all(again.encodings[n].same_grid(e) for n, e in given.items())


def test_overrides_win(tmp_path: Path) -> None:
    """An override decides its tensor and those tied to it, and is counted; one that matches nothing is refused."""
    wide = encoding_for_range(0, 50, "uint8")
    (tmp_path / "o.json").write_text(write_encodings({"r": wide}, GRAPH))
    q = quantized(overrides=tmp_path / "o.json")
    assert all(q.encodings[n].same_grid(wide) for n in "crpf")
    assert q.report.origins["override"] == 1
    assert q.report.origins["propagated"] == 3
    assert "1 encoding read" in q.report.notes[0]
    text = (tmp_path / "o.json").read_text().replace('"r"', '"rr"')
    (tmp_path / "o.json").write_text(text)
    with pytest.raises(EncodingError, match=r"'rr'"):
        quantized(overrides=tmp_path / "o.json")
    lenient = quantized(overrides=tmp_path / "o.json", lenient=True)
    assert any("rr" in note for note in lenient.report.notes)


def test_folded_overrides_are_reported() -> None:
    """An override of a tensor that folding removes has no effect, and that is said."""
    constants = weights(w=(4, 2, 1, 1), s=(4,), t=(4,), m=(4,)) | {"v": np.ones(4, np.float32)}
    nodes = [Node("Conv", "conv", ("x", "w"), ("c",)), Node("BatchNormalization", "bn", ("c", "s", "t", "m", "v"), ("y",))]
    graph = make_graph(nodes, {"x": ("float32", (1, 2, 8, 8))}, ["y"], constants)
    q = quantized(graph, overrides={"c": encoding_for_range(-1, 1, "uint8")})
    assert any("c" in note and "no effect" in note for note in q.report.notes)


def test_strict() -> None:
    """A violation raises with all problems; without strict it is listed and the model written."""
    bad = {"y": encoding_for_range(0, 2, "uint8"), "p": encoding_for_range(0, 9, "uint8"), "r": encoding_for_range(0, 3, "uint8")}
    with pytest.raises(ConstraintError) as caught:
        quantized(overrides=bad)
    rules = {p.rule for p in caught.value.problems}
    assert {"same-grid", "conflict"} <= rules
    loose = quantized(overrides=bad, options=nk.Options(strict=False))
    assert {p.rule for p in loose.report.problems} == rules


def test_check_agrees_with_quantize() -> None:
    """check says the same as quantize, without data."""
    for soc, weight, activation in (("v68", "int8", "uint8"), ("v68", "int16", "uint16"), ("v79", "int16", "uint16")):
        options = nk.Options(weights=weight, activations=activation)
        verdict = nk.check(GRAPH, backend=f"htp:{soc}", options=options, registry=REGISTRY)
        loose = nk.Options(weights=weight, activations=activation, strict=False)
        q = nk.quantize(GRAPH, backend=f"htp:{soc}", data=DATA, options=loose, registry=REGISTRY)
        assert [(p.rule, p.node) for p in verdict.problems] == [(p.rule, p.node) for p in q.report.problems]
        assert (verdict.verdict == "refused") == (soc == "v68" and weight == "int16")


def test_shared_bias() -> None:
    """Two layers that share a bias get a copy each, since its scale is their own."""
    nodes = [Node("Conv", "a", ("x", "w", "b"), ("c",)), Node("Conv", "d", ("c", "w2", "b"), ("y",))]
    graph = make_graph(nodes, {"x": ("float32", (1, 2, 8, 8))}, ["y"], weights(w=(4, 2, 1, 1), w2=(4, 4, 1, 1), b=(4,)))
    q = quantized(graph)
    assert q.graph.nodes[1].inputs[2] == "b:d"
    assert not q.encodings["b"].same_grid(q.encodings["b:d"])
    assert q.graph.origin_names["b:d"] == ("b",)


def test_a_constant_in_every_role() -> None:
    """One vector as bias of a convolution, bias of a normalization, addend and weight: each reader has a grid of its own kind."""
    nodes = [
        Node("Conv", "conv", ("x", "w", "v"), ("c",)),
        Node("Add", "add", ("c", "v"), ("a",)),
        Node("LayerNormalization", "norm", ("a", "g", "v"), ("n",)),
    ]
    image = {"x": ("float32", (4, 8, 1, 8))}
    constants = weights(w=(8, 8, 1, 1), v=(8,), g=(8,), k=(8, 8))
    flat = [*nodes, Node("Reshape", "flat", ("n", "shape"), ("f",)), Node("Gemm", "gemm", ("f", "k", "v"), ("y",))]
    constants["shape"] = np.array([32, 8], np.int64)
    graph = make_graph(flat, image, ["y"], constants)
    data = [{"x": np.random.default_rng(i).standard_normal((4, 8, 1, 8)).astype(np.float32)} for i in range(4)]
    made = nk.quantize(graph, backend="htp", data=data, registry=REGISTRY)
    names = [node.inputs[2 if node.op != "Add" else 1] for node in made.graph.nodes if node.op != "Reshape"]
    assert names == ["v", "v:add", "v:norm", "v:gemm"]
    assert [made.encodings[n].dtype for n in names] == ["int32", "uint8", "int32", "int32"]
    assert all(np.array_equal(made.graph.constant(n), constants["v"]) for n in names)
    shared = nk.quantize(
        nk.Request(graph, overrides={"v": Encoding("uint8", 0.05, 128)}), backend="htp", data=data, registry=REGISTRY
    )
    assert shared.encodings["v:add"].same_grid(Encoding("uint8", 0.05, 128))


def test_a_package_is_quantized_anew(tmp_path: Path) -> None:
    """Types that are asked for take effect on a package: its overrides stay, all else is calibrated; without any it stays whole."""
    wide = Encoding("uint16", 0.001, 100, origin="override")
    name = GRAPH.outputs[0]
    quantized(overrides={name: wide}).save(tmp_path / "m.dlc", keep_float=True)
    narrow = quantized(tmp_path / "m.dlc", options=nk.Options(weights="int4"))
    weights = [e for n, e in narrow.encodings.items() if narrow.graph.tensor(n).is_constant and e.bits < 32]
    assert weights
    assert {e.dtype for e in weights} == {"int4"}
    assert narrow.encodings[name].same_grid(wide)
    assert any("weights asked for" in note for note in narrow.report.notes)
    with pytest.raises(DataError, match="need a range"):
        nk.quantize(tmp_path / "m.dlc", options=nk.Options(activations="uint16"), registry=REGISTRY)
    refused = nk.check(tmp_path / "m.dlc", "htp:v66", options=nk.Options(weights="int16"), registry=REGISTRY)
    assert nk.check(tmp_path / "m.dlc", "htp:v66", registry=REGISTRY).problems != refused.problems
    found = compare(tmp_path / "m.dlc", ["htp"], data=DATA, options=nk.Options(weights="int4"), registry=REGISTRY)
    assert found.encodings["htp"].keys() == narrow.encodings.keys()
    assert all(e.dtype == narrow.encodings[n].dtype for n, e in found.encodings["htp"].items())
    same = nk.quantize(tmp_path / "m.dlc", registry=REGISTRY)
    assert same.encodings.keys() == nk.read_package(tmp_path / "m.dlc").encodings.keys()
    assert all(e.same_grid(same.encodings[n]) for n, e in nk.read_package(tmp_path / "m.dlc").encodings.items())


@pytest.mark.parametrize("source", ["path", "bytes"])
def test_qdq_file(tmp_path: Path, source: str) -> None:
    """A file with Q/DQ nodes needs no data: its encodings are those of the result."""
    first = quantized()
    save(insert_qdq(first.graph, first.encodings), tmp_path / "qdq.onnx")
    model: Any = tmp_path / "qdq.onnx"
    again = nk.quantize(model if source == "path" else model.read_bytes(), backend="htp", registry=REGISTRY)
    assert all(again.encodings[n].same_grid(e) for n, e in first.encodings.items() if n in again.encodings)
    assert again.report.origins["override"] >= 8


def test_save_and_sessions(tmp_path: Path) -> None:
    """Object and file run alike; a package runs where it was made for unless another backend is named."""
    q = quantized()
    q.save(tmp_path / "m.dlc")
    with open_session(q, registry=REGISTRY) as a, open_session(tmp_path / "m.dlc", registry=REGISTRY) as b:
        assert a.program.backend == b.program.backend == "htp"
        result = a.run(DATA[0])["y"]
        assert np.array_equal(result, b.run(DATA[0])["y"])
    with open_session(tmp_path / "m.dlc", backend="cpu", registry=REGISTRY) as c:
        assert c.ignores_encodings
        assert np.abs(c.run(DATA[0])["y"] - result).max() < 0.05
    with pytest.raises(UsageError, match="not int"):
        open_session(3, registry=REGISTRY)


@pytest.mark.parametrize("method", ["min-max", "percentile", "entropy", "mse", "sqnr"])
def test_every_calibration(method: str) -> None:
    """Every method gives a usable model."""
    q = quantized(options=nk.Options(calibration=method))
    found = compare(q, backends=["cpu", "htp"], data=DATA, registry=REGISTRY)
    assert found.outputs[0].sqnr["htp"] > 20
    assert found.outputs[0].sqnr["cpu"] == np.inf


def test_compare_lists_what_programs_have() -> None:
    """A tensor inside a fused Conv and Relu is not compared."""
    found = compare(GRAPH, backends=["cpu:qdq", "htp"], data=DATA, registry=REGISTRY)
    assert found.samples == 6
    assert "c" not in {r.name for r in found.tensors}


class WithoutLpPool(HtpBackend):
    """A backend whose constraints know an op that it has no kernel of."""

    name = "lesser"

    def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
        return {op: kernel for op, kernel in super().kernels(soc).items() if op != "LpPool"}

    @hookimpl
    def register_backends(self) -> Backend:
        return self


def test_float_fallback() -> None:
    """An op without a kernel is refused by name, and runs in float16 when that is asked for."""
    registry = Registry.load()
    registry.add("lesser", WithoutLpPool())
    nodes = [Node("Conv", "conv", ("x", "w"), ("c",)), Node("LpPool", "lp", ("c",), ("y",), {"kernel_shape": (2, 2), "p": 2})]
    graph = make_graph(nodes, {"x": ("float32", (1, 2, 8, 8))}, ["y"], weights(w=(4, 2, 1, 1)))
    refused = nk.check(graph, backend="lesser", registry=registry)
    assert [(p.node, p.rule) for p in refused.problems] == [("lp", "no-kernel")]
    options = nk.Options(float_fallback=True)
    assert nk.check(graph, backend="lesser", options=options, registry=registry).verdict == "accepted"
    made = nk.quantize(graph, backend="lesser", data=DATA, options=options, registry=registry)
    with nk.Session(made, registry=registry) as session:
        assert session.run(DATA[0])["y"].shape == (1, 4, 7, 7)
    again = nk.quantize(made, backend="lesser", data=DATA, registry=registry)
    assert nk.check(again, backend="lesser", registry=registry).verdict == "accepted"  # what was asked for stays asked for


@pytest.mark.parametrize("op", ["LRN", "PRelu"])
def test_float_fallback_of_a_refused_type(op: str, tmp_path: Path) -> None:
    """An op that has no form of 16 bits is refused, and with a fallback computes in float16, in the saved package too."""
    more = ("s",) if op == "PRelu" else ()
    node = Node(op, "n", ("c", *more), ("y",), {"size": 3} if op == "LRN" else {})
    graph = make_graph(
        [Node("Conv", "conv", ("x", "w"), ("c",)), node],
        {"x": ("float32", (1, 2, 8, 8))},
        ["y"],
        weights(w=(4, 2, 1, 1), s=(4, 1, 1)),
    )
    options = nk.Options(activations="uint16")
    with pytest.raises(ConstraintError, match="node 'n'"):
        quantized(graph, options=options)
    made = quantized(graph, options=nk.Options(activations="uint16", float_fallback=True))
    assert [(p.severity, p.rule, p.node) for p in made.report.problems] == [("warning", "float-fallback", "n")]
    made.save(tmp_path / "made.dlc")
    assert nk.check(tmp_path / "made.dlc").verdict == "accepted"
    with nk.Session(tmp_path / "made.dlc") as session:
        assert session.program.types == {"conv": "int", "n": "float16"}
        assert np.isfinite(session.run(DATA[0])["y"]).all()
    again = nk.quantize(tmp_path / "made.dlc", data=DATA, options=nk.Options(activations="uint8"))
    assert again.package.types["n"] == "int"


def test_missing_ops_are_refused_before_data_is_read() -> None:
    """All problems are listed, although no sample was run."""
    nodes = [Node("Conv", "conv", ("x", "w"), ("c",)), Node("Det", "det", ("c",), ("y",))]
    graph = make_graph(nodes, {"x": ("float32", (1, 2, 8, 8))}, ["y"], weights(w=(4, 2, 1, 1)))
    runs: list[Any] = []
    with pytest.raises(ConstraintError, match="htp has no op Det") as caught:
        quantized(graph, on_event=runs.append)
    assert [p.node for p in caught.value.problems] == ["det"]
    assert not runs
    assert quantized(graph, options=nk.Options(strict=False)).report.problems


def test_encodings_have_json_safe_history() -> None:
    """The manifest of a result is plain data."""
    manifest = quantized(history=["npukit", "quantize"]).package.manifest
    assert manifest.history == ("npukit quantize",)
    assert json.loads(json.dumps(dict(manifest.options)))["calibration"] == "min-max"


def test_float_override_runs_in_float16() -> None:
    """A tensor given as float16 stays so."""
    q = quantized(overrides={"g": Encoding("float16")}, options=nk.Options(strict=False))
    assert q.encodings["g"].dtype == "float16"


@pytest.mark.parametrize("per_channel", [True, False])
def test_bias_fits_into_int32(per_channel: bool) -> None:
    """A channel of tiny weights with a large bias gets a weight scale that keeps the bias inside int32."""
    constants = weights(w=(4, 2, 1, 1)) | {"b": np.float32([1000, 0.1, 0, -3])}
    constants["w"][0] = 1e-6
    constants["w"] *= 1 if per_channel else 1e-6
    graph = make_graph([Node("Conv", "c", ("x", "w", "b"), ("y",))], {"x": ("float32", (1, 2, 8, 8))}, ["y"], constants)
    q = quantized(graph, options=nk.Options(activations="uint16", per_channel=per_channel))
    codes = constants["b"].astype(np.float64) / q.encodings["b"].steps
    assert np.abs(codes).max() <= 2**30 * 1.001
    with nk.Session(q, registry=REGISTRY) as session:
        assert session.run(DATA[0])["y"].max() == pytest.approx(1000, rel=1e-3)


def test_overflow_is_no_signal() -> None:
    """A float16 model that overflows compares as minus infinity, without warnings."""
    nodes = [Node("Mul", "m", ("x", "k"), ("h",)), Node("Mul", "d", ("h", "k"), ("y",))]
    graph = make_graph(nodes, {"x": ("float32", (1, 2, 8, 8))}, ["y"], {"k": np.float32(1000)})
    q = quantized(graph, options=nk.Options(activations="float16"))
    found = compare(q, backends=["htp"], data=DATA, registry=REGISTRY)
    assert found.outputs[0].sqnr["htp"] == -np.inf


def test_compare_counts_codes() -> None:
    """Two backends with encodings are compared code by code: shifted results are counted in steps, equal ones as equal."""
    model = quantized()
    same = compare(model, backends=["htp", "cpu:qdq"], data=DATA, registry=REGISTRY)
    assert same.pair == ("htp", "cpu:qdq")
    assert all(row.agreement is not None and row.agreement.within_one == 1 for row in same.outputs)
    assert compare(model, backends=["cpu", "htp"], data=DATA, registry=REGISTRY).pair == ()


def test_code_meter_counts_steps() -> None:
    """One code of four is a step off and one three steps: half are equal, three quarters within one step."""
    grid = Encoding("uint8", np.float32(0.5), np.int64(0))
    meter = _CodeMeter({"t": grid})
    meter.add({"t": np.array([0, 0.5, 1, 1.5], np.float32)}, {"t": np.array([0, 0.5, 1.5, 3], np.float32)})
    found = meter.agreement("t")
    assert found is not None
    assert (found.exact, found.within_one, found.largest) == (0.5, 0.75, 3)
    assert meter.agreement("other") is None


def test_an_int32_override_stays() -> None:
    """A bias that the user gives as int32 to an op that derives none is taken as it is."""
    nodes = [Node("LayerNormalization", "ln", ("x", "s", "b"), ("y",))]
    graph = make_graph(nodes, {"x": ("float32", (1, 4, 8))}, ["y"], weights(s=(8,), b=(8,)))
    bias = Encoding("int32", 0.001, symmetric=True)
    given = {"x": encoding_for_range(-1, 1, "uint8"), "y": encoding_for_range(-3, 3, "uint8"), "b": bias}
    assert nk.check(nk.Request(graph, overrides=given), backend="cpu:qdq", registry=REGISTRY).verdict == "accepted"
