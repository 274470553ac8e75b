"""Optimizers on unusual models: each gives a result or one clear error."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import npukit as nk
from npukit.backend.ort import OrtModel
from npukit.diagnosis import total_powers
from npukit.encoding import Array
from npukit.errors import ConstraintError, DataError, ModelError
from npukit.graph import Graph, Node, Tensor, make_graph
from npukit_aimet.amp.groups import Candidate
from npukit_aimet.amp.optimizer import Amp

W4 = nk.Options(weights="int4")
LAX = attrs.evolve(W4, strict=False)
ALL = ["cle", "seq-mse", "adaround", "bias-correction", "amp"]


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def rows(count: int, *shape: int) -> list[dict[str, Array]]:
    return [{"x": noise(*shape, seed=s)} for s in range(count)]


def branching() -> Graph:
    """c and d follow one another, but an If behind them takes the tensor between, and d's bias, into its branches."""

    def branch(name: str) -> Graph:
        tensors = {"o": Tensor("o", "float32", (1, 4, 1, 1))}
        return Graph(name, (Node("Conv", name, ("r", "p", "inner"), ("o",)),), tensors, (), ("o",), 21)

    nodes = [
        Node("Conv", "c", ("x", "w", "b"), ("t",)),
        Node("Relu", "relu", ("t",), ("r",)),
        Node("Conv", "d", ("r", "v", "inner"), ("u",)),
        Node("Conv", "f", ("u", "s"), ("k",)),
        Node("If", "if", ("always",), ("z",), {"then_branch": branch("yes"), "else_branch": branch("no")}),
        Node("Conv", "e", ("z", "q"), ("y",)),
    ]
    shapes = {"w": (4, 3, 1, 1), "v": (4, 4, 1, 1), "p": (4, 4, 1, 1), "s": (2, 4, 1, 1), "q": (2, 4, 1, 1)}
    constants: dict[str, Any] = {n: noise(*s) * np.float32(4.0 ** np.arange(s[0]))[:, None, None, None] for n, s in shapes.items()}
    constants |= {"b": noise(4), "inner": noise(4), "always": np.array(True)}
    graph = make_graph(nodes[:4], {"x": ("float32", (1, 3, 1, 1))}, ["k"], constants)
    tensors = {**graph.tensors, "z": Tensor("z", "float32", (1, 4, 1, 1)), "y": Tensor("y", "float32", (1, 2, 1, 1))}
    tensors |= {n: Tensor.constant(n, np.asarray(constants[n])) for n in ("p", "q", "always")}
    return graph.evolve(nodes=tuple(nodes), outputs=("k", "y"), tensors=tensors)


@pytest.mark.parametrize("optimize", ALL)
def test_subgraphs_read_too(optimize: str) -> None:
    """What an If takes from outside is there when its turn comes, and cle leaves it as it is."""
    graph = branching()
    model = nk.quantize(graph, backend="cpu", data=rows(9, 1, 3, 1, 1), options=LAX, optimize=optimize)
    if optimize == "cle":
        with OrtModel(graph) as before, OrtModel(model.graph) as after:
            for feeds in rows(4, 1, 3, 1, 1):
                np.testing.assert_allclose(before.run(feeds)["y"], after.run(feeds)["y"], rtol=1e-4)


def gemm(**shapes: tuple[int, ...]) -> Graph:
    constants = {n: noise(*s) for n, s in shapes.items()}
    return make_graph([Node("Gemm", "g", ("x", *shapes), ("y",))], {"x": ("float32", ("N", 4))}, ["y"], constants)


@pytest.mark.parametrize("optimize", ["seq-mse", "adaround", "bias-correction", "seq-mse,adaround,bias-correction"])
def test_a_layer_that_sees_nothing_keeps_the_nearest_codes(optimize: str) -> None:
    """Empty batches have no moments: weights are rounded to nearest, biases stay, and numpy has nothing to warn of."""
    graph = gemm(w=(4, 5), b=(5,))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        model = nk.quantize(graph, backend="cpu", data=rows(9, 0, 4), options=W4, optimize=optimize)
    w, plain = model.graph.constant("w"), graph.constant("w")
    assert w is not None
    assert plain is not None
    assert np.abs(w - plain).max() <= float(model.encodings["w"].steps.max()) / 2 * 1.001
    np.testing.assert_array_equal(model.graph.constant("b"), graph.constant("b"))  # type: ignore[arg-type]


def test_weights_of_silent_inputs_keep_the_nearest_codes() -> None:
    """An input that is zero in all samples says nothing about its weights, whatever solver the row has."""
    for width in (4, 12):
        graph = make_graph([Node("Gemm", "g", ("x", "w"), ("y",))], {"x": ("float32", ("N", width))}, ["y"], {"w": noise(width, 5)})
        data = [{"x": x * (np.arange(width) != 2).astype(np.float32)} for x in (noise(6, width, seed=s) for s in range(9))]
        model = nk.quantize(graph, backend="cpu", data=data, options=W4, optimize="adaround")
        w, plain, steps = model.graph.constant("w"), graph.constant("w"), model.encodings["w"].steps
        assert w is not None
        assert plain is not None
        assert (np.abs(w - plain)[2] <= steps / 2 * 1.001).all()


@pytest.mark.parametrize("backend", ["cpu", "htp"])
@pytest.mark.parametrize("optimize", ["seq-mse", "adaround", "bias-correction"])
def test_a_model_without_layers_is_said_to_be_one(optimize: str, backend: str) -> None:
    """Nothing to round is a note, not a crash and not a silence."""
    graph = make_graph([Node("Relu", "r", ("x",), ("y",))], {"x": ("float32", (1, 4))}, ["y"], {})
    model = nk.quantize(graph, backend=backend, data=rows(2, 1, 4), optimize=optimize)
    assert any("no Conv, ConvTranspose, Gemm or MatMul" in note for note in model.report.notes)


def test_a_model_without_nodes_offers_no_choice() -> None:
    graph = make_graph([], {"x": ("float32", (1, 4))}, ["x"], {})
    with pytest.raises(ConstraintError, match="no precision to mix"):
        nk.quantize(graph, backend="cpu", data=rows(2, 1, 4), optimize="amp")


def test_a_weight_without_values_is_named() -> None:
    nodes = [Node("MatMul", "m", ("x", "w"), ("t",)), Node("MatMul", "n", ("t", "v"), ("y",))]
    constants = {"w": noise(4, 0), "v": noise(0, 3)}
    graph = make_graph(nodes, {"x": ("float32", (2, 4))}, ["y"], constants)
    with pytest.raises(ModelError, match=r"'w' has no values, its shape is \[4, 0\]"):
        nk.quantize(graph, backend="cpu", data=rows(2, 2, 4), optimize="adaround")


def test_a_shape_computed_in_float_is_never_quantized() -> None:
    """Three rows, which steps of 4/255 and a cut to an integer would make two, stay three: what feeds shapes gets no encoding."""
    nodes = [
        Node("Gemm", "first", ("x", "w"), ("t",)),
        Node("Shape", "shape", ("t",), ("s",)),
        Node("Cast", "float", ("s",), ("f",), {"to": 1}),
        Node("Cast", "int", ("f",), ("i",), {"to": 7}),
        Node("Expand", "expand", ("one", "i"), ("e",)),
        Node("Add", "add", ("t", "e"), ("a",)),
        Node("Gemm", "last", ("a", "v"), ("y",)),
    ]
    constants = {"w": noise(4, 4), "v": noise(4, 2), "one": np.ones((1, 1), np.float32)}
    graph = make_graph(nodes, {"x": ("float32", ("N", 4))}, ["y"], constants)
    made = nk.quantize(graph, backend="cpu", data=rows(9, 3, 4), optimize="adaround")
    assert "f" not in made.encodings
    with nk.Session(made, backend="cpu:qdq") as session:
        assert session.run(rows(1, 3, 4)[0])["y"].shape == (3, 2)


def filled(shape: str, out: str, value: float = 0.5) -> Node:
    return Node("ConstantOfShape", f"fill {out}", (shape,), (out,), {"value": np.array([value], np.float32)})


def three_layers(makers: list[Node], outputs: list[str], **constants: Any) -> Graph:
    """Convolutions with the weights u, w and v, one after the other; ``makers`` compute what is no constant."""
    nodes = [
        *makers,
        Node("Conv", "first", ("x", "u"), ("s",)),
        Node("Conv", "second", ("s", "w"), ("t",)),
        Node("Conv", "third", ("t", "v"), ("y",)),
    ]
    known = {"u": noise(4, 3, 1, 1), "v": noise(2, 4, 1, 1, seed=1), **constants}
    return make_graph(nodes, {"x": ("float32", (1, 3, 6, 6))}, outputs, known)


FOLDING: dict[str, tuple[list[Node], dict[str, Any], Any]] = {
    "filled": ([filled("dims", "w")], {"dims": np.array([4, 4, 1, 1])}, np.full((4, 4, 1, 1), 0.5, np.float32)),
    "filled and scaled": (
        [filled("dims", "raw"), Node("Mul", "scale", ("raw", "k"), ("w",))],
        {"dims": np.array([4, 4, 1, 1]), "k": noise(4, 1, 1, 1)},
        np.float32(0.5) * np.broadcast_to(noise(4, 1, 1, 1), (4, 4, 1, 1)),
    ),
    "scaled": (
        [Node("Mul", "scale", ("raw", "k"), ("w",))],
        {"raw": noise(4, 4, 1, 1), "k": np.float32(3)},
        noise(4, 4, 1, 1) * np.float32(3),
    ),
}


@pytest.mark.parametrize("backend", ["cpu", "htp"])
@pytest.mark.parametrize("optimize", ALL)
@pytest.mark.parametrize("kind", FOLDING)
def test_folded_weights_are_as_good_as_stored_ones(kind: str, optimize: str, backend: str) -> None:
    """A weight that is filled, or scaled by a constant, is treated as if its values had been in the file."""
    makers, constants, values = FOLDING[kind]
    data = rows(9, 1, 3, 6, 6)
    graphs = three_layers(makers, ["y"], **constants), three_layers([], ["y"], w=values)
    folded, stored = (nk.quantize(g, backend=backend, data=data, options=LAX, optimize=optimize) for g in graphs)
    for name in ("u", "w", "v"):
        np.testing.assert_array_equal(folded.graph.constant(name), stored.graph.constant(name))  # type: ignore[arg-type]
        assert folded.encodings[name].same_grid(stored.encodings[name])


@pytest.mark.parametrize("backend", ["cpu", "htp"])
@pytest.mark.parametrize("optimize", ALL)
def test_weights_that_do_not_fold_are_left_alone(optimize: str, backend: str) -> None:
    """A computed weight that is an output of the model too stays as it is, with a note; the other layers are improved."""
    graph = three_layers([filled("dims", "w")], ["y", "w"], dims=np.array([4, 4, 1, 1]))
    model = nk.quantize(graph, backend=backend, data=rows(9, 1, 3, 6, 6), options=LAX, optimize=optimize)
    assert model.graph.producers["w"].op == "ConstantOfShape"
    if optimize not in ("cle", "amp"):
        assert any("leaves out second" in note and "computed" in note for note in model.report.notes)
    if optimize == "adaround":
        assert model.encodings["v"].origin == "optimizer:adaround"


@pytest.mark.parametrize("optimize", ALL)
def test_what_no_input_reaches(optimize: str) -> None:
    """Layers behind constants alone, and an output made of constants, run with the others."""
    nodes = [
        filled("dims", "c", 1.5),
        Node("Conv", "same", ("c", "u"), ("p",)),
        Node("Conv", "first", ("x", "v"), ("s",)),
        Node("Add", "add", ("s", "p"), ("t",)),
        Node("Conv", "last", ("t", "w"), ("y",)),
        filled("dims", "z"),
    ]
    constants = {"dims": np.array([1, 3, 6, 6]), "u": noise(4, 3, 1, 1), "v": noise(4, 3, 1, 1, seed=1), "w": noise(2, 4, 1, 1)}
    graph = make_graph(nodes, {"x": ("float32", (1, 3, 6, 6))}, ["y", "c", "z"], constants)
    model = nk.quantize(graph, backend="cpu", data=rows(9, 1, 3, 6, 6), options=LAX, optimize=optimize)
    with OrtModel(graph) as before, OrtModel(model.graph) as after:
        for feeds in rows(2, 1, 3, 6, 6):
            assert np.array_equal(before.run(feeds)["z"], after.run(feeds)["z"])
    if optimize not in ("cle", "amp"):
        assert any("leaves out same" in note for note in model.report.notes)


@pytest.mark.parametrize("optimize", ALL)
def test_weights_that_are_outputs_keep_their_values(optimize: str) -> None:
    """What the model gives out is not rounded and not rescaled: someone reads it."""
    graph = three_layers([], ["y", "w"], w=noise(4, 4, 1, 1) * np.float32([1, 9, 40, 200])[:, None, None, None])
    model = nk.quantize(graph, backend="cpu", data=rows(9, 1, 3, 6, 6), options=LAX, optimize=optimize)
    np.testing.assert_array_equal(model.graph.constant("w"), graph.constant("w"))  # type: ignore[arg-type]


def test_a_bias_that_a_subgraph_reads_too_stays() -> None:
    """AdaRound and bias correction do not move a bias under the feet of an If that reads it."""
    graph = branching()
    for optimize in ("adaround", "bias-correction"):
        model = nk.quantize(graph, backend="cpu", data=rows(9, 1, 3, 1, 1), options=LAX, optimize=optimize)
        np.testing.assert_array_equal(model.graph.constant("inner"), graph.constant("inner"))  # type: ignore[arg-type]


@pytest.mark.parametrize("optimize", ["seq-mse", "adaround", "bias-correction"])
def test_rows_too_wide_for_second_moments(optimize: str) -> None:
    """A layer whose moments would not fit in memory is left alone with a note."""
    graph = make_graph([Node("MatMul", "m", ("x", "w"), ("y",))], {"x": ("float32", (1, 20_000))}, ["y"], {"w": noise(20_000, 2)})
    model = nk.quantize(graph, backend="cpu", data=rows(2, 1, 20_000), options=LAX, optimize=optimize)
    assert any("leaves out m" in note and "too many" in note for note in model.report.notes)


def test_sqnr_of_other_shapes_names_the_output() -> None:
    """A shape that follows from quantized values is an error that says where, not a broadcast."""
    with pytest.raises(DataError, match=r"'y' has shape \[0, 2\] when the model is quantized, \[3, 2\] in float"):
        total_powers([{"y": noise(3, 2)}], [{"y": noise(0, 2)}])
    with pytest.raises(DataError, match="'y' is empty"):
        total_powers([{"y": noise(0, 2)}], [{"y": noise(0, 2)}])


def test_scores_of_another_kind_are_not_used(tmp_path: Path) -> None:
    """A folder with dB of SQNR says nothing about an evaluator's scores."""
    amp = Amp(candidates=(Candidate("uint16", "int8"), Candidate("uint8", "int8")), results_dir=tmp_path)
    data, options = rows(3, 2, 4), nk.Options(activations="uint16")
    nk.quantize(gemm(w=(4, 5)), backend="cpu", data=data, options=options, optimize=[amp])
    calls: list[int] = []

    def evaluate(outputs: Any) -> float:
        calls.append(len(outputs))
        return 0.5

    judged = attrs.evolve(amp, evaluate=evaluate, allowed_accuracy_drop=0.1)
    nk.quantize(gemm(w=(4, 5)), backend="cpu", data=data, options=options, optimize=[judged])
    assert len(calls) > 1
