"""AdaRound, sequential MSE, equalization and bias correction in the pipeline, on networks made here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import npukit as nk
from npukit.backend import Backend, Scheme, Soc
from npukit.backend.ort import OrtModel
from npukit.encoding import Array, Encoding
from npukit.encoding import quantize as to_codes
from npukit.encoding.formats import insert_qdq, read_encodings, write_encodings
from npukit.errors import DataError, UsageError
from npukit.graph import Graph, Node, make_graph
from npukit.package import read_package
from npukit.quantization import Job, Optimizer, Quantized
from npukit_aimet.adaround import AdaRound
from npukit_aimet.bias_correction import BiasCorrection
from npukit_aimet.cle import CrossLayerEqualization
from npukit_aimet.seq_mse import SequentialMse
from npukit_cpu.backend import CpuBackend

W4 = nk.Options(weights="int4")


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def network(batch: str | int = "N") -> Graph:
    """Conv, depthwise Conv, strided Conv, a residual Add, ConvTranspose, pool and Gemm, with clamps in between."""
    nodes = [
        Node("Conv", "c1", ("x", "w1", "b1"), ("c1",), {"pads": (1, 1, 1, 1)}),
        Node("Relu", "r1", ("c1",), ("r1",)),
        Node("Conv", "c2", ("r1", "w2", "b2"), ("c2",), {"pads": (1, 1, 1, 1), "group": 8}),
        Node("Relu", "r2", ("c2",), ("r2",)),
        Node("Conv", "c3", ("r2", "w3", "b3"), ("c3",), {"pads": (1, 1, 1, 1)}),
        Node("Add", "add", ("c3", "r1"), ("a",)),
        Node("ConvTranspose", "c4", ("a", "w4", "b4"), ("c4",), {"strides": (2, 2)}),
        Node("Relu", "r4", ("c4",), ("r4",)),
        Node("GlobalAveragePool", "pool", ("r4",), ("p",)),
        Node("Flatten", "flat", ("p",), ("f",)),
        Node("Gemm", "fc", ("f", "w5", "b5"), ("y",), {"alpha": 2.0, "transB": 1}),
    ]
    shapes = {"w1": (8, 3, 3, 3), "w2": (8, 1, 3, 3), "w3": (8, 8, 3, 3), "w4": (8, 6, 2, 2), "w5": (5, 6)}
    constants = {name: noise(*shape) / np.float32(np.sqrt(np.prod(shape[1:]))) for name, shape in shapes.items()}
    constants |= {f"b{i}": 0.1 * noise(n, seed=i) for i, n in zip(range(1, 6), (8, 8, 8, 6, 5), strict=True)}
    return make_graph(nodes, inputs={"x": ("float32", (batch, 3, 8, 8))}, outputs=["y"], constants=constants)


def samples(count: int, seed: int = 1) -> list[dict[str, Array]]:
    images = noise(count, 3, 8, 8, seed=seed) + np.float32(0.3)
    return [{"x": image[None]} for image in images]


def sqnr(model: Quantized, graph: Graph, seed: int = 9) -> float:
    """dB of the simulated output against the float model, on samples nobody has seen."""
    signal = error = 0.0
    with OrtModel(graph) as plain, OrtModel(insert_qdq(model.graph, model.encodings), optimize=False) as coded:
        for feeds in samples(64, seed):
            a, b = plain.run(feeds)["y"], coded.run(feeds)["y"]
            signal, error = signal + float((a**2).sum()), error + float(((a - b) ** 2).sum())
    return 10 * float(np.log10(signal / error))


@pytest.fixture(scope="module")
def nearest() -> float:
    return sqnr(nk.quantize(network(), backend="cpu", data=samples(64), options=W4), network())


@pytest.mark.parametrize(
    ("optimize", "gain"),
    [
        (["adaround"], 5.0),
        ([AdaRound(solver="relaxation", iterations=300)], 3.0),
        (["seq-mse"], 1.0),
        (["bias-correction"], 0.5),
        (["cle", "seq-mse", "adaround"], 5.0),
    ],
    ids=["adaround", "relaxation", "seq-mse", "bias-correction", "combined"],
)
def test_optimizers_gain(optimize: list[Any], gain: float, nearest: float) -> None:
    """Every optimizer brings the 4-bit network nearer to the float one, on other data, by so many dB."""
    model = nk.quantize(network(), backend="cpu", data=samples(64), options=W4, optimize=optimize)
    assert sqnr(model, network()) > nearest + gain


@pytest.mark.parametrize("weights", ["int2", "int3", "int8"])
def test_optimizers_gain_at_every_width(weights: str, tmp_path: Path) -> None:
    """Other widths than 4 bits gain as well, and come back from a package and from AIMET's encodings as they were."""
    options = nk.Options(weights=weights)
    plain = nk.quantize(network(), backend="cpu", data=samples(64), options=options)
    model = nk.quantize(network(), backend="cpu", data=samples(64), options=options, optimize="seq-mse,adaround")
    assert sqnr(model, network()) > sqnr(plain, network()) + (0.5 if weights == "int8" else 5)
    assert {model.encodings[f"w{i}"].dtype for i in range(1, 6)} == {weights}
    model.save(tmp_path / "m.dlc")
    again = read_package(tmp_path / "m.dlc")
    (tmp_path / "m.encodings").write_text(write_encodings(model.encodings, model.graph, "1.0.0"))
    read = read_encodings(tmp_path / "m.encodings", model.graph)
    for found in (again.encodings, read.encodings):
        assert all(found[f"w{i}"].same_grid(model.encodings[f"w{i}"]) for i in range(1, 6))


@pytest.mark.parametrize("weights", ["int2", "int3", "int4"])
def test_scales_and_rounding_together_are_no_worse_than_the_better_of_both(weights: str) -> None:
    """On other data; every scale is either the calibrated one or that of seq-mse."""
    for count in (32, 64):
        options = nk.Options(weights=weights)
        made = {
            optimize: nk.quantize(network(), backend="cpu", data=samples(count), options=options, optimize=optimize)
            for optimize in ("", "seq-mse", "adaround", "seq-mse,adaround")
        }
        values = {optimize: sqnr(model, network()) for optimize, model in made.items()}
        assert values["seq-mse,adaround"] >= max(values["seq-mse"], values["adaround"])
        for name in (f"w{i}" for i in range(1, 6)):
            either = [made[key].encodings[name].steps for key in ("", "seq-mse")]
            assert np.any(made["seq-mse,adaround"].encodings[name].steps == either, axis=0).all()


@pytest.mark.parametrize("count", [12, 24])
def test_scales_that_make_a_worse_network_are_taken_back(count: int) -> None:
    """Every layer does better with them, the network does not: the result is that of adaround by itself."""
    settings: dict[str, Any] = {"backend": "cpu", "data": samples(count), "options": W4}
    alone = nk.quantize(network(), **settings, optimize="adaround")
    both = nk.quantize(network(), **settings, optimize="seq-mse,adaround")
    assert any("goes back to the weight scales of before" in note for note in both.report.notes)
    assert all(np.array_equal(np.asarray(both.graph.constant(f"w{i}")), np.asarray(alone.graph.constant(f"w{i}"))) for i in (1, 3))


@attrs.frozen(eq=False)
class OtherScales(Optimizer):
    """Multiplies the scales of ``w3`` by factors, one for each channel."""

    name = "other-scales"

    factors: Array

    def run(self, job: Job) -> Job:
        before = job.encodings()["w3"]
        after = attrs.evolve(before, scale=before.steps * self.factors)
        return attrs.evolve(job.decide({"w3": after}), replaced={"w3": before})


@pytest.mark.parametrize("per_channel", [True, False])
def test_adaround_goes_back_to_scales_that_were_better(per_channel: bool) -> None:
    """Row by row; for the layer as a whole where all rows share one scale. Other scales stay."""
    options = attrs.evolve(W4, per_channel=per_channel)
    plain = nk.quantize(network(), backend="cpu", data=samples(64), options=options)
    worse = np.array([1, 8] * 4 if per_channel else 8, np.float32)
    for factors in (worse, 1 / worse):
        made = [OtherScales(factors), "adaround"]
        model = nk.quantize(network(), backend="cpu", data=samples(64), options=options, optimize=made)
        assert model.encodings["w3"].same_grid(plain.encodings["w3"])


@pytest.mark.parametrize("optimize", ["seq-mse", "adaround"])
def test_layers_that_nothing_improves_are_left_alone(optimize: str) -> None:
    """Weights that are on their grid already stay, and a note counts the layers; a network that gains is not left alone."""
    graph = network()
    weights = {name: np.asarray(graph.constant(name)) for name in ("w1", "w2", "w3", "w4", "w5")}
    exact = {n: np.random.default_rng(3).integers(-7, 8, w.shape).astype(np.float32) / 16 for n, w in weights.items()}
    constants = {n: exact.get(n, t.data) for n, t in graph.tensors.items() if t.data is not None}
    graph = make_graph(graph.nodes, inputs={"x": ("float32", ("N", 3, 8, 8))}, outputs=["y"], constants=constants)
    request = nk.Request(graph, overrides={n: Encoding("int4", np.float32(1 / 16)) for n in exact})
    options = attrs.evolve(W4, activations="uint16", strict=False)
    model = nk.quantize(request, backend="cpu", data=samples(64), options=options, optimize=optimize)
    assert f"{optimize} leaves 5 of 5 layers alone: nothing did better on samples held out" in model.report.notes
    assert all(np.array_equal(np.asarray(model.graph.constant(name)), exact[name]) for name in exact)
    gained = nk.quantize(network(), backend="cpu", data=samples(64), options=W4, optimize=optimize)
    assert not any("5 of 5 layers alone" in line for line in gained.report.notes)


def test_adaround_keeps_scales_and_lands_on_the_grid() -> None:
    """The weight's encoding is the one that it had, and its values are on it; the report says who decided."""
    plain = nk.quantize(network(), backend="cpu", data=samples(16), options=W4)
    model = nk.quantize(network(), backend="cpu", data=samples(16), options=W4, optimize="adaround")
    for name in ("w1", "w2", "w3", "w4", "w5"):
        grid, values = model.encodings[name], model.graph.constant(name)
        assert values is not None
        assert grid.same_grid(plain.encodings[name])
        assert grid.origin == "optimizer:adaround"
        steps = values / grid.steps.reshape([-1 if d == grid.axis else 1 for d in range(values.ndim)])
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    assert model.report.origins["optimizer:adaround"] == 5


def test_overrides_of_a_weight_are_kept() -> None:
    """AdaRound rounds on the user's grid, per block too."""
    scale = np.full((8, 4, 3, 3), 0.1, np.float32)
    grid = Encoding("int4", scale, axis=1, block_size=2, symmetric=True)
    options = attrs.evolve(W4, strict=False)
    args: Any = {"backend": "cpu", "data": samples(16), "options": options}
    request = nk.Request(network(), overrides={"w3": grid})
    model = nk.quantize(request, optimize="adaround", **args)
    assert model.encodings["w3"].same_grid(grid)
    assert sqnr(model, network()) > sqnr(nk.quantize(request, **args), network())


@pytest.mark.parametrize("optimize", ["adaround", "cle,seq-mse,adaround", "bias-correction"])
def test_same_seed_same_bytes(optimize: str, tmp_path: Path) -> None:
    """Two runs on one machine write identical packages."""
    files = []
    for index in range(2):
        model = nk.quantize(network(), backend="cpu", data=samples(40), options=W4, optimize=optimize)
        model.save(tmp_path / f"{index}.dlc")
        files.append((tmp_path / f"{index}.dlc").read_bytes())
    assert files[0] == files[1]


def test_the_order_of_samples_matters_little(nearest: float) -> None:
    """Other orders of the same samples give networks of like quality: nothing is fitted to the first ones."""
    orders = (samples(64), samples(64)[::-1])
    found = [sqnr(nk.quantize(network(), backend="cpu", data=d, options=W4, optimize="adaround"), network()) for d in orders]
    assert min(found) > nearest + 5


def test_a_fixed_batch_and_a_single_sample() -> None:
    """A model with batch 1 and one sample: nothing to hold out, and still better than nothing."""
    graph = network(batch=1)
    model = nk.quantize(graph, backend="cpu", data=samples(1), options=W4, optimize="adaround")
    plain = nk.quantize(graph, backend="cpu", data=samples(1), options=W4)
    assert sqnr(model, graph) > sqnr(plain, graph)


def rescaled(power: int) -> Graph:
    """The network with the channels between c2 and c3 scaled apart, the function unchanged."""
    graph = network()
    factor = (2.0 ** np.linspace(-power, power, 8)).astype(np.float32)
    constants = {n: graph.constant(n) for n in graph.tensors if graph.tensor(n).is_constant}
    changed: dict[str, Any] = dict(constants)
    changed["w2"] = changed["w2"] * factor[:, None, None, None]
    changed["b2"] = changed["b2"] * factor
    changed["w3"] = changed["w3"] / factor[None, :, None, None]
    return make_graph(graph.nodes, inputs={"x": ("float32", ("N", 3, 8, 8))}, outputs=["y"], constants=changed)


def test_equalization_keeps_the_function_and_undoes_a_rescale() -> None:
    """The float model computes the same after cle, and per-tensor weights are as good as if nothing had been rescaled."""
    graph = rescaled(4)
    options = nk.Options(per_channel=False)
    spoiled = nk.quantize(graph, backend="cpu", data=samples(32), options=options)
    healed = nk.quantize(graph, backend="cpu", data=samples(32), options=options, optimize="cle")
    with OrtModel(graph) as before, OrtModel(healed.graph) as after:
        for feeds in samples(8, seed=3):
            np.testing.assert_allclose(before.run(feeds)["y"], after.run(feeds)["y"], rtol=1e-3, atol=1e-4)
    assert sqnr(healed, graph) > sqnr(spoiled, graph) + 10
    assert any("equalized 1 pair of layers" in note for note in healed.report.notes)


@pytest.mark.parametrize("weights", ["int2", "int4"])
def test_equalization_that_hurts_is_left_out(weights: str) -> None:
    """Where columns of a per-channel weight are spread apart by equal ranges, they stay, and a note says so."""
    graph = network()
    constants = {n: np.asarray(t.data) for n, t in graph.tensors.items() if t.data is not None}
    constants["w2"] = constants["w2"] * np.float32(2.0) ** np.arange(-4, 4, dtype=np.float32)[:, None, None, None]
    spread = make_graph(graph.nodes, inputs={"x": ("float32", ("N", 3, 8, 8))}, outputs=["y"], constants=constants)
    settings: dict[str, Any] = {"backend": "cpu", "data": samples(32), "options": nk.Options(weights=weights)}
    plain, found = nk.quantize(spread, **settings), nk.quantize(spread, **settings, optimize="cle")
    assert any("cle leaves 1 pair of layers alone" in note for note in found.report.notes)
    assert all(np.array_equal(np.asarray(found.graph.constant(n)), np.asarray(plain.graph.constant(n))) for n in ("w2", "w3"))


def test_equalization_stops_at_clip_and_branches() -> None:
    """ReLU6 is not homogeneous and a second reader would see the scale: both end a pair."""
    nodes = [
        Node("Conv", "a", ("x", "w", "b"), ("c",), {"pads": (1, 1, 1, 1)}),
        Node("Clip", "clip", ("c", "zero", "six"), ("d",)),
        Node("Conv", "e", ("d", "v"), ("f",)),
        Node("Conv", "g", ("f", "u"), ("y",)),
        Node("Relu", "h", ("f",), ("z",)),
    ]
    constants = {"w": 9 * noise(4, 3, 3, 3), "b": noise(4), "v": noise(4, 4, 1, 1), "u": noise(4, 4, 1, 1)}
    constants |= {"zero": np.float32(0), "six": np.float32(6)}  # type: ignore[dict-item]
    graph = make_graph(nodes, inputs={"x": ("float32", (1, 3, 8, 8))}, outputs=["y", "z"], constants=constants)
    model = nk.quantize(graph, backend="cpu", data=samples(2), optimize="cle")
    assert all(np.array_equal(model.graph.tensors[n].data, graph.tensors[n].data) for n in ("w", "v", "u"))  # type: ignore[arg-type]


def test_equalization_under_decided_tensors_is_refused() -> None:
    """A user's encoding between two layers would no longer fit."""
    override = {"r2": Encoding("uint8", 0.1, 0)}
    with pytest.raises(UsageError, match="r2"):
        nk.quantize(nk.Request(rescaled(4), overrides=override), backend="cpu", data=samples(4), optimize="cle")


def test_sequential_mse_matches_brute_force() -> None:
    """One layer: the scale that is chosen has the least output error of all candidates, channel by channel."""
    node = Node("MatMul", "m", ("x", "w"), ("y",))
    w = noise(12, 5)
    w[0] *= 6  # an outlier makes clipping worthwhile
    graph = make_graph([node], inputs={"x": ("float32", ("N", 12))}, outputs=["y"], constants={"w": w})
    data = [{"x": noise(50, 12, seed=s)} for s in range(4)]
    options = attrs.evolve(W4, activations="float32", strict=False)
    found = nk.quantize(graph, backend="cpu", data=data, options=options, optimize=[SequentialMse(candidates=20)]).encodings["w"]
    plain = nk.quantize(graph, backend="cpu", data=data, options=options).encodings["w"]
    x = np.concatenate([d["x"] for d in data]).astype(np.float64)
    for channel in range(5):
        errors = []
        for k in range(1, 21):
            scale = float(plain.steps[channel]) * k / 20
            values = np.clip(np.rint(w[:, channel] / scale), -8, 7) * scale
            errors.append(float(((x @ (values - w[:, channel])) ** 2).sum()))
        assert found.steps[channel] == pytest.approx(plain.steps[channel] * (np.argmin(errors) + 1) / 20, rel=1e-5)


def test_bias_correction_removes_the_mean_error() -> None:
    """After correction the mean output of a single layer is that of the float layer."""
    graph = make_graph(
        [Node("Gemm", "g", ("x", "w", "b"), ("y",), {"alpha": 3.0, "beta": 0.5})],
        inputs={"x": ("float32", ("N", 20))},
        outputs=["y"],
        constants={"w": noise(20, 6), "b": noise(6)},
    )
    data = [{"x": noise(64, 20, seed=s) + np.float32(1)} for s in range(8)]
    options = attrs.evolve(W4, activations="float32", strict=False)
    model = nk.quantize(graph, backend="cpu", data=data, options=options, optimize=[BiasCorrection()])
    plain = nk.quantize(graph, backend="cpu", data=data, options=options)

    def mean(model: Quantized) -> Array:
        with OrtModel(insert_qdq(model.graph, model.encodings)) as coded, OrtModel(graph) as exact:
            return np.asarray(np.mean([coded.run(d)["y"].mean(0) - exact.run(d)["y"].mean(0) for d in data], axis=0))

    assert np.abs(mean(plain)).max() > 0.05
    assert np.abs(mean(model)).max() < 1e-3


def test_shared_weights_are_left_out_and_said() -> None:
    """A weight of two layers keeps its nearest codes, with a note."""
    nodes = [Node("MatMul", "m", ("x", "w"), ("a",)), Node("MatMul", "n", ("a", "w"), ("y",))]
    graph = make_graph(nodes, inputs={"x": ("float32", (4, 6))}, outputs=["y"], constants={"w": noise(6, 6)})
    model = nk.quantize(graph, backend="cpu", data=[{"x": noise(4, 6)}], options=W4, optimize="adaround")
    assert np.array_equal(model.graph.constant("w"), graph.constant("w"))  # type: ignore[arg-type]
    assert any("shared" in note for note in model.report.notes)


def test_nodes_without_names() -> None:
    """Layers are found by what they are, not by name."""
    graph = network()
    bare = make_graph(
        [attrs.evolve(n, name="") for n in graph.nodes],
        inputs={"x": ("float32", ("N", 3, 8, 8))},
        outputs=["y"],
        constants={n: t.data for n, t in graph.tensors.items() if t.data is not None},
    )
    a, b = (nk.quantize(g, backend="cpu", data=samples(16), options=W4, optimize="adaround") for g in (graph, bare))
    assert np.array_equal(a.graph.constant("w3"), b.graph.constant("w3"))  # type: ignore[arg-type]


def test_optimizers_need_data_and_exist(tmp_path: Path) -> None:
    """No data, an empty data set, NaN and unknown names are one clear error each."""
    overrides = {n: Encoding("uint8", 0.1, 0) for n in network().float_activations()}
    with pytest.raises(DataError, match="calibration data"):
        nk.quantize(nk.Request(network(), overrides=overrides), backend="cpu", options=W4, optimize="adaround")
    with pytest.raises(DataError, match="empty"):
        nk.quantize(network(), backend="cpu", data=[], options=W4, optimize="adaround")
    bad = samples(3)
    bad[1]["x"][0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="sample 1"):
        nk.quantize(network(), backend="cpu", data=bad, options=W4, optimize="adaround")
    with pytest.raises(UsageError, match="adarond") as caught:
        nk.quantize(network(), backend="cpu", data=samples(1), optimize="adarond")
    assert "adaround" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="engine 'nowhere'"):
        nk.quantize(network(), backend="cpu", data=samples(1), optimize="adaround", engine="nowhere")
    with pytest.raises(UsageError, match="solver"):
        AdaRound(solver="magic")
    with pytest.raises(UsageError, match="takes"):
        nk.quantize(network(), backend="cpu", data=samples(1), optimize=[CrossLayerEqualization()], config={})


def test_memory_is_flat_in_the_number_of_samples() -> None:
    """Four times the samples need hardly more memory: what does not fit waits on disk."""
    code = """
import resource, sys
import numpy as np
import npukit as nk, npukit.replay as replay
from npukit.graph import Node, make_graph
random = np.random.default_rng(0)
nodes = [Node("Conv", f"c{i}", (f"t{i}", f"w{i}"), (f"t{i + 1}",), {"pads": (1, 1, 1, 1)}) for i in range(4)]
weights = {f"w{i}": random.standard_normal((16, 3 if i == 0 else 16, 3, 3)).astype("f") / 10 for i in range(4)}
graph = make_graph(nodes, {"t0": ("float32", (1, 3, 64, 64))}, ["t4"], weights)
replay.Store.__init__.__defaults__ = (8 << 20,)
class Data:
    def __iter__(self):
        return ({"t0": np.random.default_rng(i).standard_normal((1, 3, 64, 64)).astype("f")} for i in range(int(sys.argv[1])))
nk.quantize(graph, backend="cpu", data=Data(), options=nk.Options(weights="int4"), optimize="adaround")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

    def peak(count: int) -> int:
        done = subprocess.run([sys.executable, "-c", code, str(count)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    few, many = peak(40), peak(160)
    activation = 16 * 64 * 64 * 4 // 1024  # kB of one activation: 120 more of them on two paths would be 60 MB at least
    assert many - few < 80 * activation


@pytest.mark.parametrize("optimize", ["adaround", "seq-mse", "bias-correction", "cle,adaround"])
def test_silent_and_constant_inputs(optimize: str) -> None:
    """A layer whose input is always zero, or always the same, keeps finite weights near the float ones."""
    graph = network()
    constants: dict[str, Any] = {n: t.data for n, t in graph.tensors.items() if t.data is not None}
    constants["b1"] = constants["b1"] - np.float32(100)
    silent = make_graph(graph.nodes, inputs={"x": ("float32", ("N", 3, 8, 8))}, outputs=["y"], constants=constants)
    model = nk.quantize(silent, backend="cpu", data=samples(8), options=W4, optimize=optimize)
    for name in ("w1", "w2", "w3", "w4", "w5"):
        steps, values = model.encodings[name].steps.max(), model.graph.constant(name)
        assert values is not None
        assert np.isfinite(values).all()
        if optimize == "adaround":
            assert np.abs(values - constants[name]).max() < 2.001 * steps
    assert sqnr(model, silent) > 20


@pytest.mark.parametrize("bits", ["int2", "int4", "int8"])
def test_rounding_gains_at_every_width(bits: str) -> None:
    """2, 4 and 8 bits: nearer to the float network than nearest rounding."""
    options = attrs.evolve(W4, weights=bits)
    plain = nk.quantize(network(), backend="cpu", data=samples(32), options=options)
    model = nk.quantize(network(), backend="cpu", data=samples(32), options=options, optimize="adaround")
    weights_only = {n: e for n, e in model.encodings.items() if model.graph.tensor(n).is_constant}

    def error(made: Quantized) -> float:
        with OrtModel(insert_qdq(made.graph, weights_only)) as coded, OrtModel(network()) as exact:
            return float(sum(((coded.run(f)["y"] - exact.run(f)["y"]) ** 2).sum() for f in samples(16, seed=9)))

    assert error(model) < 0.8 * error(plain)


class PowersOfTwo(CpuBackend):
    """Grids with scales that are powers of two, and int8 without its lowest code."""

    name = "powers"

    def scheme(self, soc: Soc) -> Scheme:
        return Scheme(activations="symmetric", power_of_two=True, limits={"int8": (-127, 127)})


@pytest.mark.parametrize("optimize", ["seq-mse", "adaround", "seq-mse,adaround", "bias-correction", "cle,seq-mse"])
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_grids_are_those_of_the_scheme(weights: str, optimize: str) -> None:
    """Whatever an optimizer decides, scales are powers of two and no weight has a code that the backend does not use."""
    registry = nk.Registry.load()
    registry.add("powers", PowersPlugin)
    options = nk.Options(weights=weights)
    model = nk.quantize(
        network(), backend="powers", registry=registry, data=samples(16), options=options, optimize=optimize.split(",")
    )
    for name in (f"w{i}" for i in range(1, 6)):
        grid, data = model.encodings[name], model.graph.constant(name)
        assert data is not None
        assert np.array_equal(np.exp2(np.rint(np.log2(grid.steps))), grid.steps)
        if weights == "int8":
            assert np.abs(to_codes(data, grid).astype(int)).max() <= 127


class PowersPlugin:
    @staticmethod
    @nk.plugins.hookimpl
    def register_backends() -> Backend:
        return PowersOfTwo()


def test_sequential_mse_halves_scales_of_powers_of_two() -> None:
    """Among the halvings some are worth it at 4 bits: the search is not switched off."""
    registry = nk.Registry.load()
    registry.add("powers", PowersPlugin)
    settings: dict[str, Any] = {"backend": "powers", "registry": registry, "data": samples(16), "options": W4}
    plain, found = nk.quantize(network(), **settings), nk.quantize(network(), **settings, optimize="seq-mse")
    ratios = {float(r) for n in ("w1", "w3", "w5") for r in (found.encodings[n].steps / plain.encodings[n].steps).ravel()}
    assert 1.0 in ratios
    assert ratios - {1.0} <= {0.5, 0.25, 0.125, 0.0625}
    assert len(ratios) > 1
