"""Sensitivity per layer: what one layer costs, what is known of its tensors, and what is advised."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npukit as nk
from npukit.backend.ort import OrtModel
from npukit.diagnosis import Analysis, TensorStats, compare
from npukit.diagnosis.layers import Cuts, Network
from npukit.diagnosis.statistics import Watcher, channel_ratio
from npukit.encoding import Array, Encoding, encoding_for_range, encoding_for_weights
from npukit.encoding.formats import insert_qdq
from npukit.errors import DataError, UsageError
from npukit.graph import Graph, Node, make_graph
from npukit.plugins import Registry
from npukit.report import analysis_text

REGISTRY = Registry.load()


def constants(**shapes: tuple[int, ...]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def samples(count: int = 4, shape: tuple[int, ...] = (1, 2, 8, 8)) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


PADS = {"pads": (1, 1, 1, 1)}
BRANCHES = make_graph(
    [
        Node("Conv", "one", ("x", "w1", "b1"), ("c1",), PADS),
        Node("Relu", "relu1", ("c1",), ("r1",)),
        Node("MaxPool", "pool", ("r1",), ("p",), {"kernel_shape": (2, 2), "strides": (2, 2)}),
        Node("Conv", "two", ("p", "w2", "b2"), ("c2",), PADS),
        Node("Add", "add", ("c2", "p"), ("a",)),
        Node("Relu", "relu2", ("a",), ("r2",)),
        Node("Sigmoid", "gate", ("c2",), ("s",)),
        Node("Concat", "join", ("r2", "s"), ("j",), {"axis": 1}),
        Node("Flatten", "flat", ("j",), ("f",)),
        Node("Gemm", "head", ("f", "gw", "gb"), ("y",), {"transB": 1}),
        Node("GlobalAveragePool", "mean", ("r2",), ("m",)),
    ],
    {"x": ("float32", (1, 2, 8, 8))},
    ["y", "m"],
    constants(w1=(4, 2, 3, 3), b1=(4,), w2=(4, 4, 3, 3), b2=(4,), gw=(3, 128), gb=(3,)),
)


def analyze(graph: Any, data: Any = None, **kwargs: Any) -> Analysis:
    return nk.analyze(graph, data=samples() if data is None else data, registry=REGISTRY, **kwargs)


def brute_force(graph: Graph, encodings: Mapping[str, Encoding], data: list[dict[str, Array]]) -> dict[str, float]:
    """SQNR of every output of the whole network with these encodings, computed node by node as written."""
    with OrtModel(graph, optimize=False) as plain, OrtModel(insert_qdq(graph, encodings), graph.outputs, optimize=False) as coded:
        pairs = [(plain.run(feeds), coded.run(feeds)) for feeds in data]
    found = {}
    for name in graph.outputs:
        wanted, got = (np.concatenate([pair[i][name].ravel() for pair in pairs]).astype(np.float64) for i in (0, 1))
        noise = np.sum((wanted - got) ** 2)
        found[name] = float(10 * np.log10(np.sum(wanted**2) / noise)) if noise else float("inf")
    return found


def test_layer_alone_is_brute_force() -> None:
    """Running only what lies behind a layer gives what the whole network with only that layer's encodings gives."""
    found = analyze(BRANCHES)
    assert [row.name for row in found.layers] == ["x", "one", "two", "add", "gate", "join", "head", "mean"]
    for row in found.layers:
        every = {"all": (*row.constants, *row.tensors), "weights": row.constants, "activations": row.tensors}
        for variant, names in every.items():
            wanted = brute_force(found.graph, {n: found.encodings[n] for n in names}, samples())
            got = {output: levels[variant] for output, levels in row.outputs.items()}
            assert got == pytest.approx(wanted, abs=0.02), (row.name, variant)
        assert row.all == min(levels["all"] for levels in row.outputs.values())


def test_layer_names_its_tensors() -> None:
    """A layer has its constants, and its outputs together with those that only carry its grid; each tensor has one layer."""
    found = analyze(BRANCHES)
    rows = {row.name: row for row in found.layers}
    assert rows["one"].constants == ("w1", "b1")
    assert rows["one"].tensors == ("c1", "r1", "p")
    assert rows["head"].tensors == ("y",)
    named = [n for row in found.layers for n in (*row.constants, *row.tensors)]
    assert len(named) == len(set(named))


def test_layer_that_does_not_reach_an_output() -> None:
    """An output that a layer does not reach has no error, and the worst one counts."""
    rows = {row.name: row for row in analyze(BRANCHES).layers}
    assert rows["head"].outputs["m"]["all"] == np.inf
    assert rows["head"].output == "y"
    assert rows["mean"].outputs["y"]["all"] == np.inf


def test_expected_noise() -> None:
    """Uniform values rounded to step s have noise s^2 / 12, which an orthogonal matrix passes on unchanged."""
    rng = np.random.default_rng(2)
    orthogonal = np.linalg.qr(rng.standard_normal((64, 64)))[0].astype(np.float32)
    graph = make_graph([Node("MatMul", "m", ("x", "w"), ("y",))], {"x": ("float32", (32, 64))}, ["y"], {"w": orthogonal})
    data = [{"x": rng.uniform(-1, 1, (32, 64)).astype(np.float32)} for _ in range(16)]
    grid = encoding_for_range(-1, 1, "uint8")
    rows = {row.name: row for row in analyze(nk.Request(graph, overrides={"x": grid}), data).layers}
    assert rows["x"].all == pytest.approx(10 * np.log10((1 / 3) / (float(grid.steps) ** 2 / 12)), abs=0.1)
    assert rows["x"].weights == np.inf


def test_no_error_is_infinite() -> None:
    """Weights that lie on their grid cost nothing, and nothing is what comes out."""
    graph = make_graph(
        [Node("Conv", "c", ("x", "w"), ("h",), PADS), Node("Relu", "r", ("h",), ("y",))],
        {"x": ("float32", (1, 2, 8, 8))},
        ["y"],
        {"w": np.sign(constants(w=(4, 2, 3, 3))["w"])},
    )
    (_, row) = analyze(nk.Request(graph, overrides={"w": Encoding("int8", 0.5, 0)})).layers
    assert row.weights == np.inf
    assert row.all == row.activations < 60


def test_whole_model_agrees_with_compare() -> None:
    """The cumulative SQNR is that of compare on cpu:qdq."""
    q = nk.quantize(BRANCHES, backend="htp", data=samples(), registry=REGISTRY)
    found = {row.name: row for row in analyze(q).tensors}
    other = compare(q, backends=["cpu:qdq"], data=samples(), registry=REGISTRY).tensors
    assert set(found) == {row.name for row in other}
    for row in other:
        assert found[row.name].sqnr["all"] == pytest.approx(row.sqnr["cpu:qdq"], abs=0.02), row.name
    both = brute_force(q.graph, {n: e for n, e in q.encodings.items() if q.graph.tensor(n).is_constant}, samples())
    assert {n: found[n].sqnr["weights"] for n in both} == pytest.approx(both, abs=0.02)


def test_package_is_taken_as_it_is() -> None:
    """A package keeps its encodings; with overrides those win."""
    q = nk.quantize(BRANCHES, backend="htp:v73", data=samples(), options=nk.Options(activations="uint16"), registry=REGISTRY)
    found = analyze(q.package)
    assert found.soc.arch == "v73"
    assert all(found.encodings[n].same_grid(e) for n, e in q.encodings.items())
    wide = encoding_for_range(-9, 9, "uint16")
    assert analyze(nk.Request(q.package, overrides={"y": wide})).encodings["y"].same_grid(wide)


def test_indices_are_measured_before_they_are_made() -> None:
    """An output of integers has no SQNR: the float tensor that it comes from stands for it."""
    nodes = [*BRANCHES.nodes[:-1], Node("ArgMax", "arg", ("y",), ("k",), {"axis": 1})]
    graph = make_graph(
        nodes, {"x": ("float32", (1, 2, 8, 8))}, ["k"], {n: t.data for n, t in BRANCHES.tensors.items() if t.data is not None}
    )
    q = nk.quantize(graph, backend="htp", data=samples(), options=nk.Options(strict=False), registry=REGISTRY)
    found = analyze(q.package)
    assert [row.name for row in found.outputs] == ["y"]
    assert {row.output for row in found.layers} == {"y"}


def test_outputs_that_nobody_reads() -> None:
    """A node may have outputs that nobody reads, and a layer without any reader is none."""
    nodes = [
        Node("Split", "split", ("x",), ("a", "b", "c"), {"axis": 1, "num_outputs": 3}),
        Node("Conv", "conv", ("a", "w"), ("h",)),
        Node("Conv", "dead", ("b", "w"), ("d",)),
        Node("Relu", "relu", ("h",), ("y",)),
    ]
    graph = make_graph(nodes, {"x": ("float32", (1, 6, 8, 8))}, ["y"], constants(w=(4, 2, 1, 1)))
    grids = {n: encoding_for_range(-3, 3, "uint8") for n in ("x", "a", "h", "y", "d")} | {"w": encoding_for_range(-2, 2, "int8")}
    cuts, data = Cuts.of(graph, grids), samples(1, (1, 6, 8, 8))[0]
    with Network(cuts) as network, OrtModel(graph) as plain:
        values = network.run(data)
        np.testing.assert_allclose(values["y"], plain.run(data)["y"], rtol=1e-5, atol=1e-5)
        got = {cuts.layers[i].name: ends for i, labels, ends in network.only() if "all" in labels}
    assert set(got) == {"x", "conv"}  # Split only moves values
    assert np.array_equal(got["conv"]["y"], np.maximum(got["conv"]["y"], 0))
    assert not np.array_equal(got["conv"]["y"], values["y"])


def test_parts_cover_the_graph_once() -> None:
    """Every node is in one part, and a part is fed by what earlier parts leave."""
    cuts = Cuts.of(BRANCHES, {})
    assert [n.name for part in cuts.parts for n in part.nodes if n.name != "mean"] == [
        "one", "relu1", "pool", "two", "add", "relu2", "gate", "join", "flat", "head"
    ]  # fmt: skip
    known = {"x"}
    for part in cuts.parts:
        assert known.issuperset(part.inputs)
        known |= set(part.outputs)


def test_only_what_lies_behind_runs() -> None:
    """A layer's run leaves out the parts in front of it and beside it."""
    q = nk.quantize(BRANCHES, backend="htp", data=samples(), registry=REGISTRY)
    cuts = Cuts.of(q.graph, q.encodings)
    behind = {layer.name: {n.name for i in cuts.behind(layer) for n in cuts.parts[i].nodes} for layer in cuts.layers}
    assert behind["head"] == set()
    assert behind["gate"] == {"join", "flat", "head"}
    assert behind["x"] == {n.name for n in q.graph.nodes}
    with Network(cuts) as network:
        network.run(samples()[0])
        ends = {(cuts.layers[i].name, labels): set(got) for i, labels, got in network.only()}
    assert ends["mean", ("all", "activations")] == {"m"}


# ------------------------------------------------------------------------------------------------------------ statistics


def stats(values: Array, axis: int | None = None) -> TensorStats:
    watcher = Watcher(axis)
    for part in np.array_split(values, 3):
        watcher.see(part)
    graph = make_graph([Node("Relu", "r", ("x",), ("y",))], {"x": ("float32", (1,))}, ["y"], {})
    return watcher.stats(graph.tensor("x"), encoding_for_range(-1, 1, "uint8"), "input", 0)


def test_statistics() -> None:
    """Range, the share of it that is used, kurtosis (9/5 when uniform, 3 when normal) and channels are those of the values."""
    rng = np.random.default_rng(3)
    uniform = rng.uniform(-1, 3, 100_000).astype(np.float32)
    found = stats(uniform)
    assert (found.low, found.high) == (float(uniform.min()), float(uniform.max()))
    assert found.used == pytest.approx(0.999, abs=0.001)
    assert found.kurtosis == pytest.approx(9 / 5, rel=0.01)
    assert stats(rng.standard_normal(100_000).astype(np.float32)).kurtosis == pytest.approx(3, rel=0.03)
    spiked = np.append(uniform, np.float32(403))
    assert stats(spiked).used == pytest.approx(0.01, rel=0.02)
    channels = np.ones((6, 5, 2, 2), np.float32) * np.array([1, -2, 4, 100, 0], np.float32).reshape(1, 5, 1, 1)
    assert stats(channels, 1).channel_ratio == pytest.approx(100 / 3)  # of four channels: the silent one does not count
    assert channel_ratio(channels, 1) == pytest.approx(100 / 3)


# ----------------------------------------------------------------------------------------------------------------- advice


def pair(first: Array, second: Array, size: int = 8) -> Graph:
    """Two convolutions with Relu between them."""
    nodes = [
        Node("Conv", "one", ("x", "w1"), ("c",), PADS),
        Node("Relu", "relu", ("c",), ("r",)),
        Node("Conv", "two", ("r", "w2"), ("y",), PADS),
    ]
    return make_graph(nodes, {"x": ("float32", (1, 2, size, size))}, ["y"], {"w1": first, "w2": second})


def uneven() -> Graph:
    """One channel between two convolutions is 100 times larger than the others, and made small again."""
    w = constants(first=(8, 2, 3, 3), second=(4, 8, 3, 3))
    w["first"][3] *= 100
    w["second"][:, 3] /= 100
    return pair(w["first"], w["second"])


def advised(found: Analysis) -> dict[str, tuple[str, ...]]:
    return {row.name: row.advice for row in found.layers}


def test_uneven_channels_are_equalized() -> None:
    """A channel 100 times larger than the others: CLE is advised first, for the layer that makes it, and tells what it gains."""
    found = analyze(uneven())
    best = found.remedies[0]
    assert (best.action, best.flag) == ("cle", "--optimize cle")
    assert best.gain is not None
    assert best.gain > 10
    assert set(best.reasons) == {"one"}
    again = nk.quantize(uneven(), backend="htp", data=samples(), optimize="cle", registry=REGISTRY)
    assert brute_force(again.graph, again.encodings, samples()) == pytest.approx(dict(best.sqnr), abs=0.05)


def test_even_channels_are_left_alone() -> None:
    """Without a channel that stands out there is nothing to equalize."""
    w = constants(first=(8, 2, 3, 3), second=(4, 8, 3, 3))
    actions = {r.action for r in analyze(pair(w["first"], w["second"])).remedies}
    assert not actions & {"cle", "per-channel", "calibration", "adaround"}


def test_one_scale_per_channel() -> None:
    """With one scale for a weight whose channels differ, scales per channel are advised, where the backend takes them."""
    w = constants(first=(8, 2, 3, 3), second=(4, 8, 3, 3))
    w["first"][3] *= 100
    graph, options = pair(w["first"], w["second"]), nk.Options(per_channel=False)
    assert "per-channel" in advised(analyze(graph, options=options))["one"]
    assert "per-channel" not in advised(analyze(graph, options=options, backend="htp:v66"))["one"]
    assert "per-channel" not in advised(analyze(graph))["one"]


def spiked(shape: tuple[int, ...]) -> list[dict[str, Array]]:
    """Normal values and one far out."""
    data = samples(8, shape)
    data[3]["x"][0, 0, 0, 0] = 60
    return data


def test_outlier_that_does_not_matter_is_clipped() -> None:
    """What a sigmoid saturates anyway may be clipped: another calibration is advised for the tensor with the outlier."""
    graph = make_graph([Node("Sigmoid", "gate", ("x",), ("y",))], {"x": ("float32", (1, 2, 64, 64))}, ["y"], {})
    found = analyze(graph, spiked((1, 2, 64, 64)))
    assert set(advised(found)["x"]) == {"calibration", "wide-activations"}
    clip = next(r for r in found.remedies if r.action == "calibration")
    assert clip.gain is not None
    assert clip.gain > 10
    method = clip.flag.removeprefix("--calibration ")
    options = nk.Options(calibration=method)
    again = nk.quantize(graph, backend="htp", data=spiked((1, 2, 64, 64)), options=options, registry=REGISTRY)
    assert brute_force(again.graph, again.encodings, spiked((1, 2, 64, 64))) == pytest.approx(dict(clip.sqnr), abs=0.05)


def test_outlier_that_matters_is_kept() -> None:
    """Where harder clipping than the best loses accuracy it is named as refuted, and 16 bits are advised instead."""
    w = constants(first=(8, 2, 3, 3), second=(4, 8, 3, 3))
    found = analyze(pair(w["first"], w["second"], 64), spiked((1, 2, 64, 64)), options=nk.Options(calibration="mse"))
    assert [r.action for r in found.refuted] == ["calibration"]
    assert "x" in found.refuted[0].reasons
    assert advised(found)["x"] == ("wide-activations",)
    assert next(r for r in found.remedies if r.action == "wide-activations").overrides["x"].dtype == "uint16"
    text = analysis_text(found, 10)
    advice, in_vain = text.split("what to do")[1].split("tried in vain: ")
    assert "wide-activations" in advice
    assert "calibration" not in advice
    assert in_vain.startswith("calibration (")


def test_16_bits_are_not_advised_where_they_are_refused() -> None:
    """Types that a chip does not have are no advice, nor are they in the overrides; where it has them they are."""
    w = constants(first=(8, 2, 3, 3), second=(4, 8, 3, 3))
    graph = pair(w["first"], w["second"])
    old, new = analyze(graph, backend="htp:v66"), analyze(graph, backend="htp:v73")
    assert not {r.action for r in old.remedies} & {"wide-weights", "wide-activations"}
    assert old.overrides == {}
    assert {r.action for r in new.remedies} == {"wide-weights", "wide-activations"}
    mixed = nk.quantize(nk.Request(graph, overrides=new.overrides), backend="htp:v73", data=samples(), registry=REGISTRY)
    assert all(mixed.encodings[n].dtype == e.dtype for n, e in new.overrides.items())
    best = min(new.outputs[0].sqnr["all"] + (r.gain or 0) for r in new.remedies)
    assert brute_force(mixed.graph, mixed.encodings, samples())["y"] > best


def test_tensors_of_one_grid_rise_together() -> None:
    """A pool has the grid of its input: raised tensors bring along all that share their grid."""
    overrides = analyze(BRANCHES).overrides
    assert {overrides[n].dtype for n in ("c1", "r1", "p")} == {"uint16"}
    assert overrides["p"].same_grid(overrides["r1"])


def test_four_bit_weights_are_rounded_better() -> None:
    """Where the error is that of 4-bit weights, AdaRound is advised; 8-bit weights are tried."""
    w = constants(first=(8, 2, 3, 3), second=(4, 8, 3, 3))
    found = analyze(pair(w["first"], w["second"]), options=nk.Options(weights="int4"))
    assert all({"adaround", "wide-weights"} <= set(advised(found)[n]) for n in ("one", "two"))
    adaround = next(r for r in found.remedies if r.action == "adaround")
    assert (adaround.flag, adaround.gain, dict(adaround.sqnr)) == ("--optimize adaround", None, {})


def test_layers_without_a_share_get_no_advice() -> None:
    """A layer 20 dB better than the whole model is not worth a change."""
    w = constants(first=(8, 2, 3, 3), second=(4, 8, 3, 3))
    four = {"w1": encoding_for_weights(w["first"], "int4", granularity="channel", axis=0)}
    found = analyze(nk.Request(pair(w["first"], w["second"]), overrides=four))
    rows = {row.name: row for row in found.layers}
    assert rows["x"].all > found.outputs[0].sqnr["all"] + 20
    assert not any("x" in r.reasons for r in (*found.remedies, *found.refuted))
    assert rows["one"].advice


def test_worst_is_ranked() -> None:
    """The worst come first, layers without error do not come at all, and only as many are treated as asked for."""
    found = analyze(BRANCHES, worst=2)
    levels = [row.all for row in found.worst(99)]
    assert levels == sorted(levels)
    assert np.isfinite(levels).all()
    assert {name for r in (*found.remedies, *found.refuted) for name in r.reasons} <= {row.name for row in found.worst(2)}


# ------------------------------------------------------------------------------------------------------ limits and errors


class Stream:
    """Fresh samples whenever it is iterated."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __iter__(self) -> Iterator[dict[str, Array]]:
        rng = np.random.default_rng(4)
        return ({"x": rng.standard_normal((1, 2, 64, 64)).astype(np.float32)} for _ in range(self._count))


@pytest.mark.slow
def test_memory_is_flat() -> None:
    """Sixteen times the samples take no more memory."""
    w = constants(first=(16, 2, 3, 3), second=(4, 16, 3, 3))
    graph = pair(w["first"], w["second"], 64)
    peaks = []
    for count in (4, 4, 64):  # the first one pays for imports and caches
        tracemalloc.start()
        assert analyze(graph, Stream(count)).samples == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1]


def test_errors() -> None:
    """No encodings, NaN in the data of a package, and no data are errors that say so."""
    floating = nk.convert(BRANCHES, registry=REGISTRY)
    with pytest.raises(UsageError, match="not quantized"):
        analyze(floating.package)
    q = nk.quantize(BRANCHES, backend="htp", data=samples(), registry=REGISTRY)
    bad = samples()
    bad[2]["x"][0, 1, 2, 3] = np.nan
    with pytest.raises(DataError, match=r"sample 2.*NaN or infinite"):
        analyze(q.package, bad)
    with pytest.raises(DataError, match="empty"):
        analyze(q.package, [])


def test_rescaled_network_is_equalized(zoo: Path) -> None:
    """A residual network whose channels were rescaled is repaired by CLE, and the report says so."""
    with np.load(zoo / "cifar10_calib.npz") as archive:
        images = ((archive["images"][:8] / 255 - archive["mean"]) / archive["std"]).astype(np.float32).transpose(0, 3, 1, 2)
    found = analyze(zoo / "resnet20_rescaled_cifar10.onnx", {"input": images}, worst=4)
    best = found.remedies[0]
    assert best.action == "cle"
    assert best.gain is not None
    assert best.gain > 15


def test_layers_of_a_long_network_are_sampled() -> None:
    """A network whose layers take many runs is looked at layer by layer in some samples, and the report says in how many."""
    names = ["x", *(f"t{index}" for index in range(40))]
    weights = constants(**{f"w{index}": (2, 2, 3, 3) for index in range(40)})
    nodes = [Node("Conv", f"n{i}", (names[i], f"w{i}"), (names[i + 1],), PADS) for i in range(40)]
    graph = make_graph(nodes, {"x": ("float32", (1, 2, 8, 8))}, [names[-1]], weights)
    found = analyze(graph, samples(12))
    step = -(-Cuts.of(found.graph, found.encodings).runs // 16)
    assert found.samples == 12
    assert found.layer_samples == sum(index < 4 or index % step == 0 for index in range(12)) < 12
    assert f"in {found.layer_samples} of the samples" in analysis_text(found, 3)
    short = analyze(BRANCHES, samples(12))
    assert short.layer_samples == 12
    assert "of the samples" not in analysis_text(short, 3)
