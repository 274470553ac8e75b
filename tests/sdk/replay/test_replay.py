"""Replaying a graph: pieces, what follows from a change, and what is kept."""

from __future__ import annotations

import numpy as np
import pytest

from npukit.backend.ort import OrtModel
from npukit.encoding import Array, Encoding, encoding_for_range, encoding_for_weights, fake_quantize
from npukit.encoding.formats import insert_qdq
from npukit.errors import ModelError
from npukit.graph import Graph, Node, captured, make_graph, reads
from npukit.replay import Piece, Replay, Step, cut, downstream, following, frontier, side_by_side

WEIGHTS = {"w": np.float32([[1, 2], [3, -4]]), "v": np.float32([[0.3, -1], [2, 0.7]])}
NODES = (
    Node("MatMul", "a", ("x", "w"), ("ta",)),
    Node("Relu", "b", ("ta",), ("tb",)),
    Node("Neg", "side", ("ta",), ("s",)),
    Node("MatMul", "c", ("tb", "v"), ("tc",)),
    Node("Add", "d", ("tc", "s"), ("y",)),
)
GRAPH = make_graph(NODES, {"x": ("float32", (1, 2))}, ["y", "tb"], WEIGHTS)
SAMPLES = [{"x": np.float32([[i, 1 - i]])} for i in range(4)]


def branching() -> Graph:
    """An If whose branches read ``t`` and the constant ``k`` from outside."""
    then = make_graph([Node("Identity", "i", ("t",), ("o",))], {"t": ("float32", (1, 2))}, ["o"], {}).evolve(inputs=())
    other = make_graph([Node("Identity", "j", ("k",), ("p",))], {"k": ("float32", (1, 2))}, ["p"], {}).evolve(inputs=())
    nodes = [
        Node("Relu", "relu", ("x",), ("t",)),
        Node("ReduceSum", "sum", ("x",), ("u",), {"keepdims": 0}),
        Node("Cast", "cast", ("u",), ("on",), {"to": 9}),
        Node("If", "if", ("on",), ("y",), {"then_branch": then, "else_branch": other}),
    ]
    return make_graph(nodes, {"x": ("float32", (1, 2))}, ["y"], {"k": np.float32([[5, 6]])})


def kept() -> Replay:
    replay = Replay(GRAPH)
    for feeds in SAMPLES:
        replay.keep(feeds)
    return replay


def names(nodes: tuple[Node, ...]) -> list[str]:
    return [n.name for n in nodes]


def test_subgraphs_read_too() -> None:
    """A node reads what its subgraphs take from outside, constants included; a piece is fed all but these."""
    graph = branching()
    last = graph.nodes[-1]
    assert reads(graph, last) == ["on", "k", "t"]
    assert captured(graph) == {"k", "t"}
    assert frontier(graph, [last]) == ("on", "t")
    assert names(downstream(graph, ["t"])) == ["if"]


def test_pieces_leave_what_others_read() -> None:
    """Outputs of a piece are what later ones read and the ends asked for; inputs are never constants."""
    pieces = cut(GRAPH, [NODES[:2], NODES[2:3], NODES[3:]], ["y"])
    assert [(p.inputs, p.outputs) for p in pieces] == [(("x",), ("ta", "tb")), (("ta",), ("s",)), (("tb", "s"), ("y",))]
    assert following(pieces, ["x"]) == (0, 1, 2)
    assert following(pieces, ["s"]) == (2,)
    assert following(pieces, ["y"]) == ()


def test_downstream_makes_quantized_outputs_anew() -> None:
    assert names(downstream(GRAPH, ["tc"])) == ["d"]
    assert names(downstream(GRAPH, ["tb"])) == ["b", "c", "d"]  # tb is an output of the graph


def test_pieces_one_after_the_other_make_the_graph() -> None:
    """Kept outputs of all pieces are the values of the whole graph; a changed constant holds from then on."""
    pieces = cut(GRAPH, [NODES[:2], NODES[2:]], GRAPH.outputs)
    with kept() as replay, OrtModel(GRAPH) as whole:
        for piece in pieces:
            step = Step.load(replay.graph, piece)
            with step.model:
                replay.extend(step)
        assert len(replay) == len(SAMPLES)
        for row, feeds in zip(replay.rows(GRAPH.outputs), SAMPLES, strict=True):
            for name, values in whole.run(feeds).items():
                np.testing.assert_allclose(row[name], values, rtol=1e-6)
        replay.drop(["ta", "nobody"])
        with pytest.raises(KeyError):
            replay.read("ta")


@pytest.mark.parametrize("tensors", [("x",), ("w", "x"), ("tb", "v"), ("tc",), ("y",)])
def test_only_what_follows_gives_what_the_whole_gives(tensors: tuple[str, ...]) -> None:
    """``after`` equals the whole graph with these encodings, in order, for every sample and output."""
    grids: dict[str, Encoding] = {n: encoding_for_range(-9, 9, "uint8") for n in ("x", "tb", "tc", "y")}
    grids |= {n: encoding_for_weights(w, "int4") for n, w in WEIGHTS.items()}
    part = {n: grids[n] for n in tensors}
    with kept() as replay, OrtModel(insert_qdq(GRAPH, part), GRAPH.outputs, fuse_qdq=False) as whole:
        replay.prepare([tensors])
        for found, again, feeds in zip(replay.after(part), replay.outputs(part), SAMPLES, strict=True):
            assert list(found) == list(GRAPH.outputs)
            for name, values in whole.run(feeds).items():
                np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)
                np.testing.assert_array_equal(again[name], values)


def test_quantized_inputs_of_a_run() -> None:
    """Kept tensors are rounded before the steps that read them."""
    grid = encoding_for_range(-9, 9, "uint8")
    with kept() as replay:
        step = Step.load(GRAPH, Piece.of(GRAPH, NODES[:1], ["ta"]))
        with step.model:
            found = list(replay.run([step], {"x": grid}))
    for values, feeds in zip(found, SAMPLES, strict=True):
        np.testing.assert_array_equal(values["x"], fake_quantize(feeds["x"], grid))
        np.testing.assert_allclose(values["ta"], values["x"] @ WEIGHTS["w"], rtol=1e-6)


def test_what_is_not_there() -> None:
    """Changes that nobody prepared, and samples that do not fit, are errors and not wrong numbers."""
    with kept() as replay:
        with pytest.raises(KeyError):
            list(replay.after({"tc": encoding_for_range(-9, 9, "uint8")}))
        replay.clear()
        assert len(replay) == 0
        replay.keep({"x": np.zeros((1, 3), np.float32)})
        with pytest.raises(ModelError):
            replay.prepare([])


def test_rows_are_a_sequence() -> None:
    with kept() as replay:
        rows = replay.rows(["x"])
        assert [float(r["x"][0, 0]) for r in rows[1:3]] == [1, 2]
        assert float(rows[-1]["x"][0, 0]) == 3
        with pytest.raises(IndexError):
            rows[4]
        assert len(list(replay.rows([]))) == len(SAMPLES)


def test_work_is_dropped_when_its_block_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results come in order; an error in the block cancels what has not begun. OMP_NUM_THREADS says how many run."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    begun: list[int] = []

    def double(value: int) -> Array:
        begun.append(value)
        return np.asarray(2 * value)

    with side_by_side(double, range(5)) as found:
        assert [int(v) for v in found] == [0, 2, 4, 6, 8]

    def interrupted() -> None:
        with side_by_side(double, range(100_000)) as found:
            next(found)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(begun) < 100_000
