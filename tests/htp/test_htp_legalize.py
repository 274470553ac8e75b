"""Models that a Hexagon chip refuses, made legal: packages of other chips, overrides, and pretrained models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import npukit as nk
from npukit.diagnosis import compare
from npukit.encoding import Encoding, encoding_for_range
from npukit.encoding.formats import write_encodings
from npukit.errors import ConstraintError, UsageError
from npukit.graph import Graph, Node, make_graph
from npukit.plugins import Registry
from npukit.quantization import Legalized, Options, Quantized, check, legalize

REGISTRY = Registry.load()
RNG = np.random.default_rng(0)
DATA = [{"x": RNG.normal(size=(1, 2, 8, 8)).astype(np.float32)} for _ in range(6)]
NODES = [
    Node("Conv", "conv", ("x", "w", "b"), ("c",), {"pads": (1, 1, 1, 1)}),
    Node("Relu", "relu", ("c",), ("r",)),
    Node("MaxPool", "pool", ("r",), ("p",), {"kernel_shape": (2, 2), "strides": (2, 2)}),
    Node("Flatten", "flat", ("p",), ("f",)),
    Node("Gemm", "gemm", ("f", "gw", "gb"), ("g",), {"transB": 1}),
    Node("Sigmoid", "sig", ("g",), ("y",)),
]
SHAPES: dict[str, tuple[int, ...]] = {"w": (4, 2, 3, 3), "b": (4,), "gw": (3, 64), "gb": (3,)}
CONSTANTS = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
GRAPH = make_graph(NODES, {"x": ("float32", (1, 2, 8, 8))}, ["y"], CONSTANTS)


def made(graph: Graph = GRAPH, backend: str = "htp:SM8750", **options: Any) -> Quantized:
    return nk.quantize(graph, backend=backend, data=DATA, options=Options(**options), registry=REGISTRY)


def legal(source: Any, backend: str, overrides: Any = None, **given: Any) -> Legalized:
    return legalize(nk.Request(source, overrides=overrides), backend=backend, registry=REGISTRY, **given)


def accepted(source: Any, backend: str, overrides: Any = None, **given: Any) -> bool:
    request = nk.Request(source, overrides=overrides)
    return check(request, backend=backend, registry=REGISTRY, **given).verdict == "accepted"


def test_package_of_another_chip() -> None:
    """16-bit activations and scales per channel for a v79 chip become what the v66 DSP takes, and compute nearly the same."""
    source = made(activations="uint16")
    assert not accepted(source, "htp:v66")
    found = legal(source, "htp:v66")
    assert found.legal
    assert found.soc.arch == "v66"
    package = found.package()
    assert accepted(package, "htp:v66")
    activations = [package.encodings[n] for n in "xcrpfgy"]
    assert {e.dtype for e in activations} == {"uint8"}
    assert {package.encodings[n].granularity for n in ("w", "gw")} == {"tensor"}
    assert float(package.encodings["y"].steps) == 1 / 256
    quality = compare(package, backends=["htp:v66"], data=DATA, registry=REGISTRY).outputs[0].sqnr["htp:v66"]
    whole = compare(made(backend="htp:v66"), backends=["htp:v66"], data=DATA, registry=REGISTRY).outputs[0].sqnr["htp:v66"]
    assert quality > whole - 3


def test_wide_weights_on_an_older_chip() -> None:
    """int16 weights do not exist before v73: each becomes 8 bits per channel, and no activation changes."""
    source = made(activations="uint16", weights="int16")
    found = legal(source, "htp:v69")
    assert found.legal
    assert {c.tensor for c in found.changes} == {"w", "b", "gw", "gb"}
    assert {found.encodings[n].granularity for n in ("w", "gw")} == {"channel"}
    assert {found.encodings[n].bits for n in ("w", "gw")} == {8}
    assert accepted(found.package(), "htp:SM8450")


def test_nothing_to_do_for_a_chip_that_takes_it() -> None:
    """16-bit activations are fine on every HTP: the package stays as it is."""
    found = legal(made(activations="uint16"), "htp:SM8350")
    assert (found.changes, found.legal) == ((), True)


@pytest.mark.parametrize(("tied", "changed"), [(("r", "p"), "r"), (("p", "f"), "f")])
def test_overrides_that_break_a_tie(tied: tuple[str, str], changed: str, tmp_path: Path) -> None:
    """Two overrides that must be one grid: the one that fewer tensors follow goes, and the written file is accepted."""
    wide, narrow = encoding_for_range(0, 9, "uint8"), encoding_for_range(0, 2, "uint8")
    file = tmp_path / "o.json"
    file.write_text(write_encodings({tied[0]: narrow, tied[1]: wide}, GRAPH))
    assert not accepted(GRAPH, "htp", overrides=file)
    found = legal(GRAPH, "htp", overrides=file)
    assert found.legal
    assert [(c.tensor, c.rule) for c in found.changes if c.rule != "derived"] == [(changed, "same-grid")]
    assert found.encodings[tied[0]].same_grid(found.encodings[tied[1]])
    assert set(tied) <= set(found.overrides)
    again = tmp_path / "again.json"
    again.write_text(write_encodings(found.overrides, found.graph))
    assert accepted(GRAPH, "htp", overrides=again)


def test_override_on_a_fixed_grid() -> None:
    """The v66 Sigmoid writes 1/256 and nothing else."""
    given = {"y": encoding_for_range(0, 2, "uint8", origin="override")}
    found = legal(GRAPH, "htp:v66", overrides=given)
    assert [(c.tensor, c.rule, c.node) for c in found.changes] == [("y", "fixed-grid", "sig")]
    assert found.overrides["y"].same_grid(Encoding("uint8", 1 / 256, 0))
    assert accepted(GRAPH, "htp:v66", overrides=found.overrides)


def test_asymmetric_channels() -> None:
    """Asymmetric scales per channel become symmetric ones, made from the weights."""
    asymmetric = Encoding("uint8", np.full(4, 0.02), [100, 120, 130, 90], axis=0, origin="override")
    found = legal(made(), "htp", overrides={"w": asymmetric})
    assert {c.tensor: c.rule for c in found.changes} == {"w": "symmetric", "b": "derived"}
    after = found.encodings["w"]
    assert (after.axis, after.dtype, set(after.zeros)) == (0, "uint8", {128})
    assert np.allclose(after.max, np.abs(CONSTANTS["w"]).max(axis=(1, 2, 3)), rtol=1e-5)


def test_types_without_ranges() -> None:
    """Without data the types are known and the ranges are not: the changes are told, no package and no override is made."""
    found = legal(GRAPH, "htp:v66", options=Options(activations="uint16"))
    assert found.legal
    assert {"x", "c", "r", "p", "f", "g"} <= found.unknown
    assert not {"x", "r"} & set(found.overrides)
    assert "y" in found.overrides  # a fixed grid needs no range
    with pytest.raises(UsageError, match="have no range") as caught:
        found.package()
    assert "--legalize --data" in caught.value.hint


def test_quantize_legalizes() -> None:
    """quantize with legalize makes the package and reports the changes; without it the same model is refused."""
    graph = make_graph(
        [Node("Conv", "conv", ("x", "w", "b"), ("c",)), Node("LRN", "lrn", ("c",), ("y",), {"size": 3})],
        {"x": ("float32", (1, 2, 8, 8))},
        ["y"],
        {n: CONSTANTS[n] for n in "wb"},
    )
    with pytest.raises(ConstraintError) as caught:
        made(graph, activations="uint16")
    assert "--legalize" in caught.value.hint
    found = made(graph, activations="uint16", legalize=True)
    assert {c.tensor for c in found.report.changes} == {"c", "y"}
    assert [found.encodings[n].dtype for n in "xcy"] == ["uint16", "uint8", "uint8"]
    seen = max(float(np.abs(v["x"]).max()) for v in DATA)
    assert float(found.encodings["x"].max) <= seen * 1.01
    with nk.Session(found, backend="cpu:qdq") as session:
        real = session.run(DATA[0], ["c"])["c"]
    assert float(found.encodings["c"].max) >= real.max() * 0.9


def test_what_remains_is_told() -> None:
    """An op that the chip does not have stays a problem, in the result and in the error of quantize."""
    graph = make_graph([Node("Erf", "erf", ("x",), ("y",))], {"x": ("float32", (1, 2, 8, 8))}, ["y"], {})
    found = legal(graph, "htp")
    assert not found.legal
    assert [p.rule for p in found.remaining] == ["unsupported-op"]
    assert found.changes == ()
    with pytest.raises(ConstraintError) as caught:
        made(graph, legalize=True)
    assert "no change of encodings" in caught.value.hint


@pytest.mark.parametrize(("name", "op", "shape"), [("mtcnn_pnet", "PRelu", (1, 3, 48, 48)), ("light_inception_v1", "LRN", None)])
def test_pretrained_models_in_16_bits(zoo: Path, name: str, op: str, shape: tuple[int, ...] | None) -> None:
    """u16 PRelu and LRN are refused: their tensors and those tied to them come down to 8 bits, all others keep 16."""
    model = nk.load(zoo / f"{name}.onnx", batch=1)
    inputs = {n: shape or model.tensor(n).static_shape for n in model.inputs}
    data = [{n: RNG.normal(size=s).astype(np.float32) for n, s in inputs.items() if s is not None}]
    if shape is not None:
        model = model.with_tensors([attrs.evolve(model.tensor(n), shape=shape) for n in model.inputs])
    wide = Options(activations="uint16")
    with pytest.raises(ConstraintError):
        nk.quantize(model, backend="htp", data=data, options=wide, registry=REGISTRY)
    found = nk.quantize(model, backend="htp", data=data, options=attrs.evolve(wide, legalize=True), registry=REGISTRY)
    own = {n for node in found.graph.nodes if node.op == op for n in (node.inputs[0], node.outputs[0])}
    pools = {n for node in found.graph.nodes if node.op == "MaxPool" for n in (node.inputs[0], node.outputs[0])}
    narrow = {n for n in found.graph.float_activations() if found.encodings[n].bits == 8}
    assert own <= narrow <= own | pools
    assert accepted(found, "htp")
    with nk.Session(found, backend="htp") as session:
        result = session.run(data[0])
    assert all(np.all(np.isfinite(value)) for value in result.values())
