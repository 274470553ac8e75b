"""One target from a selector, a package or an object; settings, schemes, chips with features, edges, bindings, refusals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import npukit as nk
from npukit.backend import Call, Kernel, KernelBackend, OpConstraint, OpCost, Option, Port, Precision, Result, Scheme, Soc, Value
from npukit.encoding import Encoding
from npukit.errors import ConstraintError, DataError, UsageError
from npukit.graph import Graph, Node, fold_constants, make_graph
from npukit.plugins import hookimpl
from npukit.quantization import legalize

X = Port(dtypes=("int8",), symmetric="always", power_of_two=True)
W = Port(dtypes=("int8",), granularity=("tensor", "channel"), axis=0, symmetric="always", power_of_two=True, constant=True)


def relu(call: Call) -> list[Result]:
    return [np.maximum(call.value(0).real(), 0)]


def conv(call: Call) -> list[Result]:
    """A 1x1 convolution on real values, which is all that these tests need."""
    x, w = call.value(0).real(), call.value(1).real()
    groups = call.node.get("group", 1)
    parts = zip(np.split(x, groups, 1), np.split(w[:, :, 0, 0], groups), strict=True)
    return [np.concatenate([np.einsum("oc,nchw->nohw", wp, xp) for xp, wp in parts], 1)]


class Npu(KernelBackend):
    """int8 only, power-of-two scales, settings of every effect; chip B has no depthwise convolution, the old one no Relu."""

    name = "npu"
    title = "for tests"

    def options(self) -> tuple[Option, ...]:
        return (
            Option("gain", float, 1.0, help="a factor on every Relu", effect="results"),
            Option("narrow", bool, False, help="4-bit weights", effect="encodings"),
            Option("units", int, 1, help="how many there are", effect="cost"),
        )

    def socs(self) -> tuple[Soc, ...]:
        return (
            Soc("A", "v2", features={"depthwise": True}),
            Soc("B", "v2"),
            Soc("C", "v2.1", features={"depthwise": True}),
            Soc("Old", "v1.9", features={"depthwise": True}),
        )

    def constraints(self) -> tuple[OpConstraint, ...]:
        weights = attrs.evolve(W, dtypes=("int4",)) if self.settings["narrow"] else W
        return (
            OpConstraint("Conv", (X, weights), (X,), "a test", attributes={"group": (1,)}),
            OpConstraint("Conv", (X, weights), (X,), "a test", features={"depthwise"}, variant="depthwise"),
            OpConstraint("Relu", (X,), (X,), "a test", min_arch="v2", max_arch="v2"),
            OpConstraint("Neg", (X,), (X,), "a test"),
        )

    def precision(self, soc: Soc) -> Precision:
        return Precision("int8", "int4" if self.settings["narrow"] else "int8")

    def scheme(self, soc: Soc) -> Scheme:
        return Scheme(activations="symmetric", power_of_two=True)

    def prepare(self, graph: Graph) -> Graph:
        return fold_constants(graph)

    def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
        gain = np.float32(self.settings["gain"])
        found: dict[str, Kernel] = {"Conv": conv, "Relu": lambda call: [np.asarray(gain * relu(call)[0])]}
        return found if soc.name == "B" else {**found, "Neg": lambda call: [-call.value(0).real()]}

    def estimate(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> tuple[OpCost, ...]:
        return tuple(attrs.evolve(c, us=1.0 / self.settings["units"]) for c in super().estimate(graph, encodings, soc))


def network(op: str = "Relu", groups: int = 1) -> Graph:
    weights = np.random.default_rng(0).standard_normal((4, 4 // groups, 1, 1)).astype(np.float32)
    nodes = [Node("Conv", "conv", ("x", "w"), ("c",), {"group": groups}), Node(op, "end", ("c",), ("y",))]
    return make_graph(nodes, {"x": ("float32", ("N", 4, 2, 3))}, ["y"], {"w": weights})


def samples(batch: int = 1, count: int = 8) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((batch, 4, 2, 3)).astype(np.float32)} for _ in range(count)]


def registry() -> nk.Registry:
    found = nk.Registry.load()
    found.add("npu", Plugin(Npu()))
    return found


@attrs.frozen
class Plugin:
    backend: Npu

    @hookimpl
    def register_backends(self) -> Npu:
        return self.backend


REGISTRY = registry()


# ------------------------------------------------------------------------------------------------ one place


@pytest.mark.parametrize("selector", ["npu:b", "NPU:B", Npu().configured({})])
def test_selectors(selector: Any) -> None:
    """A name in any case and an object name the same backend; a SoC is found in any case."""
    found = REGISTRY.target(selector, soc="" if isinstance(selector, str) else "b")
    assert (found.name, found.planner.name) == ("npu:B", "npu")


def test_a_package_brings_its_target(tmp_path: Path) -> None:
    """Everything that gets a package, without a backend or with the same one in any case, takes its SoC and settings."""
    target = nk.target("npu:c", settings={"units": 4}, registry=REGISTRY)
    nk.quantize(network("Neg"), target, data=samples(), registry=REGISTRY).save(tmp_path / "m.dlc")
    for backend in ("", "npu", "NPU"):
        assert nk.check(tmp_path / "m.dlc", backend, registry=REGISTRY).soc.name == "C"
        with nk.Session(tmp_path / "m.dlc", backend, registry=REGISTRY) as session:
            assert (session.program.soc.name, session.program.settings["units"]) == ("C", 4)
        assert legalize(tmp_path / "m.dlc", backend, registry=REGISTRY).soc.name == "C"
    with nk.Session(tmp_path / "m.dlc", "npu:a", registry=REGISTRY) as session:
        assert (session.program.soc.name, session.program.settings["units"]) == ("A", 1)
    assert nk.read_package(tmp_path / "m.dlc").manifest.settings == {"units": 4}


def test_backends_with_one_set_of_chips(tmp_path: Path) -> None:
    """A backend that is planned by the constraints of another one takes a package's SoC along when it knows it; others do not."""

    class Real(Npu):
        name = "real"
        plans_as = "npu"

        def socs(self) -> tuple[Soc, ...]:
            return super().socs()[:3]

    found = nk.Registry()
    for backend in (Npu(), Real()):
        found.add(backend.name, Plugin(backend))
    for soc, expected in (("C", "C"), ("Old", "A")):
        past = nk.target("npu", soc=soc, registry=found).selection
        assert found.target("REAL", made_for=past).name == f"real:{expected}"
    assert found.target("real:b", made_for=found.target("npu:c").selection).name == "real:B"


# ------------------------------------------------------------------------------------------------ settings


def test_settings_are_seen_everywhere() -> None:
    """precision and constraints, kernels, and the estimate see the setting that concerns them."""
    feeds = samples()[0]
    narrow = nk.quantize(network(), nk.target(Npu(), settings={"narrow": "yes"}), data=samples())
    assert narrow.encodings["w"].dtype == "int4"
    made = nk.quantize(network(), Npu(), data=samples())
    assert made.encodings["w"].dtype == "int8"
    with nk.Session(made, nk.target(Npu(), settings={"gain": 0.5})) as half, nk.Session(made, Npu()) as whole:
        assert np.abs(half.run(feeds)["y"] * 2 - whole.run(feeds)["y"]).max() <= 2 * float(made.encodings["y"].steps)
    target = nk.target(Npu(), settings={"units": 4})
    assert target.estimate(made.graph, made.encodings)[0].us == 0.25


def test_idle_settings_are_named() -> None:
    """A setting that is the default, and one that changes neither encodings nor verdict, are noted; one that does is not."""
    given = nk.target(Npu(), settings={"narrow": True, "units": 1})
    notes = nk.quantize(network(), given, data=samples()).report.notes
    assert any("'units' = 1 is the default" in note for note in notes)
    assert not any("narrow" in note for note in notes)
    relu_only = make_graph([Node("Relu", "r", ("x",), ("y",))], {"x": ("float32", (1, 4, 2, 3))}, ["y"], {})
    notes = nk.check(relu_only, nk.target(Npu(), settings={"narrow": True})).notes
    assert any("'narrow' = True changed nothing" in note for note in notes)


# ------------------------------------------------------------------------------------------------ grids and chips


def test_every_grid_is_the_chips() -> None:
    """Activations and weights are symmetric with power-of-two scales, those that legalize makes too."""
    made = nk.quantize(network(), Npu(), data=samples())
    override = {"c": Encoding("uint8", 0.3, 7)}
    legal = legalize(nk.Request(made, overrides=override), Npu())
    assert legal.legal
    for name, encoding in {**made.encodings, **legal.encodings}.items():
        assert not np.any(encoding.zeros), name
        assert np.all(np.frexp(encoding.steps)[0] == 0.5), name
    wrong = nk.check(nk.Request(network(), overrides={"c": Encoding("int8", 0.3, symmetric=True)}), Npu())
    assert "power-of-two" in {p.rule for p in wrong.problems if p.tensor == "c"}


@pytest.mark.parametrize(("soc", "groups", "verdict"), [("A", 4, "accepted"), ("B", 4, "refused"), ("B", 1, "accepted")])
def test_features_of_a_chip(soc: str, groups: int, verdict: str) -> None:
    """A form that needs a feature is refused where the chip lacks it, with its name; other forms of the op are not touched."""
    found = nk.check(network(groups=groups), nk.target(Npu(), soc=soc))
    assert found.verdict == verdict
    assert all("depthwise" in str(p) for p in found.problems if p.severity == "error")


def test_shapes_are_computed_for_a_chip_without_such_ops() -> None:
    """A chip that knows neither Shape nor Cast nor Slice bounds runs a model whose shapes are computed; nothing counts as float."""
    nodes = [
        Node("Shape", "shape", ("x",), ("s",)),
        Node("Cast", "float", ("s",), ("f",), {"to": 1}),
        Node("Cast", "int", ("f",), ("i",), {"to": 7}),
        Node("Relu", "relu", ("x",), ("h",)),
        Node("Reshape", "flat", ("h", "i"), ("r",)),
        Node("Relu", "end", ("r",), ("y",)),
    ]
    graph = make_graph(nodes, {"x": ("float32", ("N", 4, 2, 3))}, ["y"], {})

    class Flat(Npu):
        def constraints(self) -> tuple[OpConstraint, ...]:
            return (*super().constraints(), OpConstraint("Reshape", (X, Port(dtypes=("int64",))), (X,), "a test"))

        def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
            return {**super().kernels(soc), "Reshape": lambda call: [call.value(0).real().reshape(call.value(1).data)]}

    made = nk.quantize(graph, Flat(), data=samples())
    with nk.Session(made, Flat()) as session:
        assert session.run(samples()[0])["y"].shape == (1, 4, 2, 3)
        assert session.metrics()["reference"] == []


@pytest.mark.parametrize(("soc", "verdict"), [("Old", "refused"), ("A", "accepted"), ("C", "accepted")])
def test_architectures_are_ordered_by_their_numbers(soc: str, verdict: str) -> None:
    """v2.1 is behind v2 and not 21; a form may end with an architecture, minor ones included."""
    assert nk.check(network(), nk.target(Npu(), soc=soc)).verdict == verdict


def test_ops_of_a_chip() -> None:
    """An op whose kernel only some chips have is refused on the others."""
    assert nk.check(network("Neg"), nk.target(Npu(), soc="A")).verdict == "accepted"
    refused = nk.check(network("Neg"), nk.target(Npu(), soc="B"))
    assert {p.rule for p in refused.problems if p.severity == "error"} == {"no-kernel"}


# ------------------------------------------------------------------------------------------------ what is refused does not run


def test_opening_validates() -> None:
    """A package made for one chip is not opened on another that refuses it, unless strictness is given up."""
    made = nk.quantize(network(groups=4), Npu(), data=samples())
    with pytest.raises(ConstraintError, match="npu:B refuses the model") as caught:
        nk.Session(made, nk.target(Npu(), soc="B"))
    assert any("depthwise" in str(p) for p in caught.value.problems)
    with nk.Session(made, nk.target(Npu(), soc="B"), strict=False) as session:
        assert session.run(samples()[0])["y"].shape == (1, 4, 2, 3)
        assert any("depthwise" in str(p) for p in session.problems)


def test_a_node_without_kernel_runs_in_float_only_when_asked() -> None:
    """It is refused; with float fallback, or without strictness, it runs in float and is named."""
    made = nk.quantize(network("Neg"), nk.target(Npu(), soc="A"), data=samples())
    there = nk.target(Npu(), soc="B")
    with pytest.raises(ConstraintError, match="Neg"):
        nk.Session(made, there)
    with nk.Session(made, there, strict=False) as session:
        session.run(samples()[0])
        assert any("end" in node for node in session.metrics()["reference"])


def test_a_backend_without_constraints_opens_anything() -> None:
    """The rows that plan for it are no chip's: a package with weights on another axis runs in the simulation."""
    weights = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)
    graph = make_graph([Node("Conv", "conv", ("x", "w"), ("y",))], {"x": ("float32", (1, 4, 2, 3))}, ["y"], {"w": weights})
    grid = {"w": Encoding("int8", np.full(4, 0.05), axis=1, symmetric=True)}
    made = nk.quantize(nk.Request(graph, overrides=grid), "cpu:qdq", data=samples(), options=nk.Options(strict=False))
    assert made.report.problems
    with nk.Session(made, "cpu:qdq") as session:
        assert session.run(samples()[0])["y"].shape == (1, 4, 2, 3)


def test_a_float_model_is_not_the_chips() -> None:
    """An int8 chip does not run a float model; the hint says what to do."""
    with pytest.raises(ConstraintError) as caught:
        nk.Session(network(), Npu())
    assert "npukit quantize" in caught.value.hint


# ------------------------------------------------------------------------------------------------ edges and bindings


def test_native_edges(tmp_path: Path) -> None:
    """Codes in, channels last, float16 out: the same results as with real values; the package keeps the contract."""
    edges = {"x": nk.Edge("int8", "NHWC"), "y": nk.Edge("float16")}
    made = nk.quantize(network(), Npu(), data=samples(), options=nk.Options(edges=edges))
    made.save(tmp_path / "m.dlc")
    again = nk.read_package(tmp_path / "m.dlc")
    assert again.edges == edges
    real = samples()[0]["x"]
    grid = made.encodings["x"]
    codes = np.clip(np.rint(real / grid.steps), -128, 127).astype(np.int8).transpose(0, 2, 3, 1)
    with nk.Session(again, Npu()) as session:
        got = session.run({"x": codes}, native=True)["y"]
        want = session.run({"x": real})["y"]
        assert session.native_graph.tensor("x").shape == ("N", 2, 3, 4)
        with pytest.raises(DataError, match="natively it is int8"):
            session.run({"x": codes.astype(np.float32)}, native=True)
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, want.astype(np.float16))


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ({"x": nk.Edge("uint8")}, "cannot be handed over as uint8"),
        ({"x": nk.Edge("", "NWC")}, "does not fit 'x'"),
        ({"c": nk.Edge("int8")}, "no input or output"),
    ],
)
def test_impossible_edges(edges: dict[str, nk.Edge], message: str) -> None:
    """A type that the tensor is not stored in, a layout of another rank and an inner tensor are refused."""
    with pytest.raises(UsageError, match=message):
        nk.quantize(network(), Npu(), data=samples(), options=nk.Options(edges=edges))


def test_bindings(tmp_path: Path) -> None:
    """One package runs in each of its bindings with the results of the symbolic model; other shapes are refused by name."""
    options = nk.Options(bindings=({"N": 1}, {"N": 3}))
    made = nk.quantize(network(), Npu(), data=samples(), options=options)
    made.save(tmp_path / "m.dlc")
    again = nk.read_package(tmp_path / "m.dlc")
    assert again.bindings == ({"N": 1}, {"N": 3})
    plain = nk.quantize(network(), Npu(), data=samples())
    with nk.Session(again, Npu()) as session, nk.Session(plain, Npu()) as free:
        for batch in (3, 1):
            feeds = samples(batch)[0]
            np.testing.assert_array_equal(session.run(feeds)["y"], free.run(feeds)["y"])
        with pytest.raises(DataError, match=r"no binding .* x \[2, 4, 2, 3\]") as caught:
            session.run(samples(2)[0])
    assert "N=1; N=3" in caught.value.hint
    refused = attrs.evolve(options, strict=False, node_types={"end": "float16"})
    with pytest.raises(ConstraintError, match="type float16"):  # every binding is judged before anything runs
        nk.Session(nk.quantize(network(), Npu(), data=samples(), options=refused), Npu())
    with pytest.raises(UsageError, match="no symbolic dimension 'M'"):
        nk.quantize(network(), Npu(), data=samples(), options=nk.Options(bindings=({"M": 1},)))


def test_node_types() -> None:
    """A node that shall compute in float16 is judged in that type: this chip has none; unknown nodes and types are refused."""
    options = nk.Options(node_types={"end": "float16"})
    with pytest.raises(ConstraintError, match="type float16"):
        nk.quantize(network(), Npu(), data=samples(), options=options)
    made = nk.quantize(network(), Npu(), data=samples(), options=attrs.evolve(options, strict=False))
    assert made.package.types == {"conv": "int", "end": "float16"}
    with pytest.raises(UsageError, match="no node 'ends'"):
        nk.check(network(), Npu(), options=nk.Options(node_types={"ends": "float16"}))
    several = nk.Options(node_types={"*": "float32", "[ce]*": "float16", "end": "int"}, strict=False)
    by_pattern = nk.quantize(network(), Npu(), data=samples(), options=several)
    assert by_pattern.package.types == {"conv": "float16", "end": "int"}
    with pytest.raises(UsageError, match=r"no node 'end\.\*'"):
        nk.check(network(), Npu(), options=nk.Options(node_types={"end.*": "float16"}))
    again = nk.quantize(made, Npu(), data=samples(), options=nk.Options(strict=False))
    assert again.package.types == made.package.types
    assert dict(again.package.manifest.options["node_types"]) == {"end": "float16"}


def test_node_types_of_a_package() -> None:
    """A type that is asked of a package's node is judged too; a manifest that is no mapping there is refused in one line."""
    made = nk.quantize(network(), Npu(), data=samples())
    assert nk.check(made, Npu()).verdict == "accepted"
    assert nk.check(made, Npu(), options=nk.Options(node_types={"end": "float16"})).verdict == "refused"
    with pytest.raises(UsageError, match="no node 'ends'"):
        nk.check(made, Npu(), options=nk.Options(node_types={"ends": "float16"}))
    manifest = attrs.evolve(made.package.manifest, options={"node_types": 3})
    with pytest.raises(DataError, match="node_types is 3"):
        nk.check(attrs.evolve(made.package, manifest=manifest), Npu())


def test_shapes_stay_exact_without_kernels() -> None:
    """A size is computed exactly where a chip that has no such op goes on in float16, which knows no 2049."""
    nodes = [Node("Shape", "shape", ("x",), ("s",)), Node("Reshape", "end", ("x", "s"), ("y",))]
    graph = make_graph(nodes, {"x": ("float32", (1, 2049))}, ["y"])
    types = registry().target("npu").types(graph, {}, float_fallback=True)
    assert types.get("shape") != "float16"
    assert types["end"] == "float16"


def test_a_backend_that_cannot_choose_types_says_so() -> None:
    """Q/DQ simulation follows the encodings: a node type that it would ignore is a warning with the node's name."""
    found = nk.check(network(), "cpu:qdq", options=nk.Options(node_types={"end": "float16"}))
    assert [(p.rule, p.node) for p in found.problems] == [("node-type", "end")]


# ------------------------------------------------------------------------------------------------ shapes and comparisons


def cut(kind: str) -> Graph:
    """x or what is left of it when the first dimension is cut at a computed bound."""
    nodes = [
        Node("Relu", "relu", ("x",), ("h",)),
        Node("Shape", "shape", ("x",), ("s",), {"start": 0, "end": 1}),
        Node("Cast", "float", ("s",), ("f",), {"to": 1}),
        Node("Min", "min", ("f", "most"), ("m",)),
        Node("Cast", "int", ("m",), ("i",), {"to": 7}),
        Node("Slice", "slice", ("h", "zero", "i"), ("y",)),
    ]
    most = {"some": 2.0, "none": 0.0}[kind]
    constants = {"most": np.array([most], np.float32), "zero": np.array([0], np.int64)}
    return make_graph(nodes, {"x": ("float32", ("N", 3))}, ["y"], constants)


def test_shape_arithmetic_is_not_quantized() -> None:
    """A bound that is computed in float gets no encoding, is none of the chip's business, and the batch stays what it is."""
    data = [{"x": np.random.default_rng(i).standard_normal((5, 3)).astype(np.float32)} for i in range(4)]
    made = nk.quantize(cut("some"), "htp", data=data)
    assert not {"f", "m"} & made.encodings.keys()
    with nk.Session(made) as session:
        assert session.run(data[0])["y"].shape == (2, 3)
    (row,) = nk.compare(made, ["htp"], data=data).outputs
    assert 30 < row.sqnr["htp"] < 100


def test_compare_refuses_empty_outputs() -> None:
    """No noise over no elements is not a perfect result."""
    data = [{"x": np.ones((5, 3), np.float32)}]
    with pytest.raises(DataError, match="'y' is empty"):
        nk.compare(cut("none"), ["htp"], data=data)


class Shifty(Npu):
    """Gives one row less than the float model."""

    name = "shifty"

    def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
        def short(call: Call) -> list[Result]:
            value = call.value(0)
            return [Value(value.data[:-1], value.encoding)]

        return {"Relu": short}


def test_compare_refuses_other_shapes() -> None:
    """An output of another shape is named with both shapes."""
    graph = make_graph([Node("Relu", "r", ("x",), ("y",))], {"x": ("float32", ("N", 3))}, ["y"], {})
    made = nk.quantize(graph, Shifty(), data=[{"x": np.ones((5, 3), np.float32)}])
    with pytest.raises(DataError, match=r"'y' has shape \[4, 3\]"):
        nk.compare(made, [nk.target(Shifty())], data=[{"x": np.ones((5, 3), np.float32)}])
