"""Mixed precision: groups, candidates, the three phases, and what survives an interruption."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import npukit as nk
from npukit.backend import Backend, OpConstraint, Port
from npukit.backend.ort import OrtModel
from npukit.diagnosis import mean_sqnr, total_powers
from npukit.encoding import Array, Encoding
from npukit.encoding.formats import insert_qdq
from npukit.errors import ConstraintError, UsageError
from npukit.events import Event
from npukit.graph import Graph, Node, make_graph
from npukit.quantization import Quantized
from npukit.replay import Replay, Store
from npukit_aimet.amp.converts import count_converts
from npukit_aimet.amp.groups import Candidate
from npukit_aimet.amp.optimizer import Amp, parse_candidates
from npukit_aimet.amp.search import Memory, Point, Sensitivity, walk_down
from npukit_cpu.backend import CpuBackend

WIDE, NARROW = Candidate("uint16", "int8"), Candidate("uint8", "int8")


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def network() -> Graph:
    """Two convolutions and two products; the input of ``m`` has a large channel that nobody reads, so 8 bits hurt there."""
    nodes = [
        Node("Conv", "a", ("x", "wa"), ("ta",), {"pads": (1, 1, 1, 1)}),
        Node("Relu", "ra", ("ta",), ("ra",)),
        Node("Conv", "b", ("ra", "wb"), ("tb",), {"pads": (1, 1, 1, 1)}),
        Node("GlobalAveragePool", "p", ("tb",), ("tp",)),
        Node("Flatten", "f", ("tp",), ("tf",)),
        Node("Mul", "big", ("tf", "gain"), ("tg",)),
        Node("MatMul", "m", ("tg", "wm"), ("tm",)),
        Node("MatMul", "n", ("tm", "wn"), ("y",)),
    ]
    gain = np.ones(6, np.float32)
    gain[0] = 400
    wm = noise(6, 8)
    wm[0] = 0
    constants = {"wa": noise(4, 3, 3, 3), "wb": noise(6, 4, 3, 3), "wm": wm, "wn": noise(8, 5), "gain": gain}
    return make_graph(nodes, inputs={"x": ("float32", (1, 3, 8, 8))}, outputs=["y"], constants=constants)


def samples(count: int = 8) -> list[dict[str, Array]]:
    return [{"x": noise(1, 3, 8, 8, seed=s)} for s in range(count)]


def mixed(backend: str = "cpu", **settings: Any) -> Quantized:
    options = nk.Options(activations="uint16")
    return nk.quantize(network(), backend=backend, data=samples(), options=options, optimize=[Amp(**settings)])


def test_the_harmful_group_stays_wide() -> None:
    """With a small drop allowed, the tensor with the outlier keeps 16 bits and most others go to 8."""
    model = mixed(candidates=(WIDE, NARROW), allowed_accuracy_drop=10.0)
    types = {n: e.dtype for n, e in model.encodings.items()}
    assert types["tg"] == "uint16"
    assert {types[n] for n in ("x", "ra", "tb")} == {"uint8"}
    assert model.encodings["x"].origin == "optimizer:amp"


def test_a_suffix_gives_what_the_whole_network_gives() -> None:
    """Re-running only what follows from a group equals quantizing that group in the whole model."""
    graph = CpuBackend().prepare(network())
    encodings = nk.quantize(graph, backend="cpu", data=samples()).encodings
    cuts = [("ra", "wb"), ("x", "wa"), ("tg", "wm"), ("y",)]
    with Replay(graph) as replay:
        for feeds in samples():
            replay.keep(feeds)
        replay.prepare(cuts)
        for cut in cuts:
            part = {n: encodings[n] for n in cut}
            found = list(replay.after(part))
            with OrtModel(insert_qdq(graph, part), optimize=False) as whole:
                for feeds, outputs in zip(samples(), found, strict=True):
                    np.testing.assert_allclose(outputs["y"], whole.run(feeds)["y"], rtol=1e-4, atol=1e-3)


def test_sqnr_is_the_ratio_of_powers() -> None:
    """Powers are summed over all samples before the ratio, whatever their number."""
    a = [{"y": noise(3, 4, seed=s)} for s in range(5)]
    b = [{"y": x["y"] + np.float32(0.1) * noise(3, 4, seed=9 + s)} for s, x in enumerate(a)]
    signal = sum(float((x["y"].astype(np.float64) ** 2).sum()) for x in a)
    error = sum(float(((x["y"] - z["y"]).astype(np.float64) ** 2).sum()) for x, z in zip(a, b, strict=True))
    assert mean_sqnr(*total_powers(a, b)) == pytest.approx(10 * np.log10(signal / error), abs=1e-3)
    assert mean_sqnr(*total_powers(a, a)) == pytest.approx(200)


def test_products_cost_bit_operations() -> None:
    """A MatMul group saves something: its multiply-accumulates count like those of a convolution."""
    steps: list[Sensitivity] = []

    class Spy(Amp):
        def run(self, job: Any) -> Any:
            found = Amp.run(attrs.evolve(Amp(candidates=(WIDE, NARROW), results_dir=folder)), job)
            steps.extend(Sensitivity(r["group"], NARROW, r["score"], r["saving"]) for r in rows())
            return found

    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def rows() -> Any:
            return json.loads((folder / "accuracy_list.json").read_text())

        nk.quantize(network(), backend="cpu", data=samples(), options=nk.Options(activations="uint16"), optimize=[Spy()])
    saving = {s.group: s.saving for s in steps}
    # 8 x 5 multiply-accumulates with inputs of 16 or 8 bits, of all of them.
    total = 64 * 4 * 27 + 64 * 6 * 36 + 6 * 8 + 8 * 5
    assert saving["tm"] == pytest.approx(40 / total / 2, rel=1e-6)


def test_the_complete_curve_without_a_drop(tmp_path: Path) -> None:
    """Without an allowed drop every point is there and everything is lowered; tables and plots are written."""
    mixed(candidates=(WIDE, NARROW), results_dir=tmp_path, reduce_converts=False)
    accuracy = json.loads((tmp_path / "accuracy_list.json").read_text())
    pareto = json.loads((tmp_path / "pareto_list.json").read_text())
    assert [p["lowered"] for p in pareto] == list(range(len(accuracy) + 1))
    assert pareto[0]["cost"] == 1.0
    assert all(a["cost"] >= b["cost"] for a, b in pairwise(pareto))
    assert [r["score"] for r in accuracy] == sorted((r["score"] for r in accuracy), reverse=True)
    assert (tmp_path / "pareto_curve.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "pareto_curve.html").read_text()
    assert "<svg" in page
    assert "src=" not in page


def test_overrides_reproduce_the_result(tmp_path: Path) -> None:
    """The overrides file gives the same types and grids again."""
    model = mixed(candidates=(WIDE, NARROW), allowed_accuracy_drop=10.0, results_dir=tmp_path)
    again = nk.quantize(nk.Request(network(), overrides=tmp_path / "amp.encodings"), backend="cpu", data=samples())
    for name, encoding in model.encodings.items():
        assert again.encodings[name].dtype == encoding.dtype
        np.testing.assert_allclose(again.encodings[name].steps, encoding.steps, rtol=1e-6)


def test_two_runs_agree_and_the_second_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    """Ctrl-C in phase 1 keeps what was measured: the next run measures the rest only, with the same result."""
    seen: list[str] = []

    def stop(event: Event) -> None:
        seen.append(event.stage)
        if event.stage == "amp: sensitivity" and event.done == 3:
            raise KeyboardInterrupt

    options = nk.Options(activations="uint16")
    amp = Amp(candidates=(WIDE, NARROW), results_dir=tmp_path, workers=1)
    with pytest.raises(KeyboardInterrupt):
        nk.quantize(network(), backend="cpu", data=samples(), options=options, optimize=[amp], on_event=stop)
    lines = (tmp_path / "measured.jsonl").read_text().splitlines()
    assert len(lines) == 5  # both candidates everywhere, and three groups
    forged = [*lines[:2], json.dumps({**json.loads(lines[2]), "score": 199.0}), *lines[3:], '{"cut sho']
    (tmp_path / "measured.jsonl").write_text("\n".join(forged) + "\n")
    nk.quantize(network(), backend="cpu", data=samples(), options=options, optimize=[amp])
    scores = [r["score"] for r in json.loads((tmp_path / "accuracy_list.json").read_text())]
    assert 199.0 in scores  # it was read, not measured again
    nk.quantize(network(), backend="cpu", data=samples(), options=options, optimize=[attrs.evolve(amp, clean_start=True)])
    clean = (tmp_path / "accuracy_list.json").read_bytes()
    assert b"199.0" not in clean
    other = tmp_path / "other"
    nk.quantize(network(), backend="cpu", data=samples(), options=options, optimize=[attrs.evolve(amp, results_dir=other)])
    assert (other / "accuracy_list.json").read_bytes() == clean


def test_measurements_of_other_data_are_not_used(tmp_path: Path) -> None:
    """The memory holds for one model, one set of samples and one list of candidates."""
    memory = Memory(tmp_path / "m.jsonl", "a")
    memory.put("x", 1.0)
    assert Memory(tmp_path / "m.jsonl", "a").get("x") == 1.0
    assert Memory(tmp_path / "m.jsonl", "b").get("x") is None


@pytest.mark.parametrize("search", ["binary", "interpolation", "brute-force"])
@pytest.mark.parametrize(("drop", "expected"), [(0.5, 0), (3.5, 3), (99.0, 10)])
def test_searches_agree_on_a_falling_curve(search: str, drop: float, expected: int) -> None:
    """All searches stop at the last point above the target; the quick ones look at few points."""
    steps = [Sensitivity(f"g{i}", NARROW, 0.0, 0.1) for i in range(10)]
    looked: list[int] = []

    def score(count: int) -> Point:
        looked.append(count)
        return Point(count, 1.0 - count / 10, 100.0 - count, "", None)

    found, points = walk_down(steps, score, 100.0 - drop, search)
    assert found == expected
    assert len(looked) == len(set(looked)) == len(points)
    if search != "brute-force":
        assert len(looked) <= 6


class Narrow(CpuBackend):
    """A backend whose MatMul takes 8 bits only."""

    name = "narrow"

    def constraints(self) -> tuple[OpConstraint, ...]:
        free = Port(dtypes=("uint8", "uint16"))
        weight = Port(dtypes=("int8",), granularity=("tensor", "channel"), axis=0, constant=True)
        eight = Port(dtypes=("uint8",))
        rows = [OpConstraint(op, (free,), (free,), "test", variadic=True) for op in ("Relu", "GlobalAveragePool", "Flatten", "Mul")]
        rows.append(OpConstraint("Conv", (free, weight), (free,), "test"))
        rows.append(OpConstraint("MatMul", (eight, attrs.evolve(weight, axis=1)), (eight,), "test"))
        return tuple(rows)


def registry(backend: Backend) -> nk.Registry:
    class Plugin:
        @staticmethod
        @nk.plugins.hookimpl
        def register_backends() -> Backend:
            return backend

    found = nk.Registry.load()
    found.add("narrow", Plugin)
    return found


def test_a_refused_candidate_is_never_proposed(tmp_path: Path) -> None:
    """Groups at an op without a 16-bit form never get 16 bits, and the report says which rule refuses it."""
    amp = Amp(candidates=(NARROW, WIDE), results_dir=tmp_path, reduce_converts=False)
    model = nk.quantize(network(), backend="narrow", registry=registry(Narrow()), data=samples(), optimize=[amp])
    assert {model.encodings[n].dtype for n in ("tg", "tm", "y")} == {"uint8"}
    assert any("tm" in note and "dtype" in note for note in model.report.notes)


def test_no_candidate_for_anybody() -> None:
    """When every group refuses the second candidate, the error says what is accepted, and names a node and a rule."""
    amp = Amp(candidates=(NARROW, Candidate("int4", "int8")))
    with pytest.raises(ConstraintError, match=r"the backend accepts uint8/int8: .*node '\w+'.*dtype"):
        nk.quantize(network(), backend="narrow", registry=registry(Narrow()), data=samples(), optimize=[amp])


@pytest.mark.parametrize("value", [None, "much", float("nan"), [1.0, 2.0]])
def test_an_evaluator_must_return_a_number(value: Any) -> None:
    """Anything else is one clear error."""

    def evaluate(outputs: Sequence[Mapping[str, Array]]) -> Any:
        return value

    with pytest.raises(UsageError, match="evaluator returned"):
        mixed(candidates=(WIDE, NARROW), evaluate=evaluate, allowed_accuracy_drop=0.1)


@pytest.mark.parametrize("drop", [-1.0, float("nan"), float("inf")])
def test_a_drop_out_of_range(drop: float) -> None:
    """A negative or endless drop is refused when it is given."""
    with pytest.raises(UsageError, match="accuracy drop"):
        Amp(allowed_accuracy_drop=drop)


def test_one_candidate_is_no_choice() -> None:
    with pytest.raises(UsageError, match="two different candidates"):
        mixed(candidates=(WIDE, WIDE))


def test_phase_three_saves_converts() -> None:
    """Lowering or raising single groups ends with no more converts than before, and the target still holds."""
    settings: dict[str, Any] = {"candidates": (WIDE, NARROW), "allowed_accuracy_drop": 10.0}
    counts = []
    for reduce in (False, True):
        model = mixed(**settings, reduce_converts=reduce)
        counts.append(count_converts(model.graph, model.encodings))
    assert counts[1] <= counts[0]


def test_converts_are_counted_by_type() -> None:
    graph = network()
    grid8, grid16 = Encoding("uint8", 0.1, 0), Encoding("uint16", 0.1, 0)
    encodings = dict.fromkeys(graph.float_activations(), grid8)
    assert count_converts(graph, encodings) == 0
    assert count_converts(graph, {**encodings, "ra": grid16}) == 2


def test_candidates_of_the_published_form() -> None:
    """Activations come first; float types are there."""
    found = parse_candidates([[[16, "int"], [8, "int"]], [[16, "float"], [16, "float"]]], "$")
    assert found == (WIDE, Candidate("float16", "float16"))


def test_without_matplotlib_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables and overrides are written all the same, and a note says what is missing."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    model = mixed(candidates=(WIDE, NARROW), results_dir=tmp_path)
    assert (tmp_path / "pareto_list.csv").is_file()
    assert not (tmp_path / "pareto_curve.png").exists()
    assert any("npukit-aimet[plot]" in note for note in model.report.notes)


def branches() -> Graph:
    """Convolutions side by side on one input: every group of amp starts from the same kept activation."""
    nodes = [Node("Conv", "stem", ("x", "w"), ("t",), {"pads": (1, 1, 1, 1)})]
    nodes += [Node("Conv", f"c{i}", ("t", f"w{i}"), (f"u{i}",), {"pads": (1, 1, 1, 1)}) for i in range(4)]
    nodes += [Node("Concat", "cat", tuple(f"u{i}" for i in range(4)), ("v",), {"axis": 1})]
    nodes += [Node("Conv", "end", ("v", "e"), ("y",))]
    constants = {"w": noise(4, 3, 3, 3), "e": noise(2, 16, 1, 1)} | {f"w{i}": noise(4, 4, 3, 3, seed=i) for i in range(4)}
    return make_graph(nodes, inputs={"x": ("float32", (1, 3, 16, 16))}, outputs=["y"], constants=constants)


def test_amp_with_many_workers_equals_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing fits in memory, several workers measure what one does that has it all in memory."""
    data = [{"x": noise(1, 3, 16, 16, seed=s)} for s in range(24)]

    def mixed(workers: int, budget: int) -> tuple[Quantized, str]:
        monkeypatch.setattr(Store.__init__, "__defaults__", (budget,))
        folder = tmp_path / f"{workers}-{budget}"
        candidates = (Candidate("uint16", "int8"), Candidate("uint8", "int8"), Candidate("uint8", "int4"))
        amp = Amp(candidates=candidates, workers=workers, results_dir=folder)
        options = nk.Options(activations="uint16", strict=False)
        model = nk.quantize(branches(), backend="cpu", data=data, options=options, optimize=[amp])
        return model, (folder / "accuracy_list.json").read_text()

    alone, expected = mixed(1, 1 << 30)
    for workers in (0, 8):
        model, measured = mixed(workers, 2000)
        assert measured == expected
        assert {n: e.dtype for n, e in model.encodings.items()} == {n: e.dtype for n, e in alone.encodings.items()}


@pytest.mark.parametrize("ties", [{}, {"past": "new"}], ids=["apart", "tied"])
def test_tied_tensors_are_one_group(ties: dict[str, str]) -> None:
    """A state that goes in and comes out is raised or lowered as one, though the search looks at parts of the model."""
    nodes = [Node("Mul", "decay", ("past", "half"), ("old",)), Node("Add", "add", ("old", "x"), ("new",))]
    nodes += [Node("Relu", "relu", ("new",), ("r",)), Node("Mul", "last", ("r", "half"), ("y",))]
    inputs = dict.fromkeys(("past", "x"), ("float32", (1, 8)))
    graph = make_graph(nodes, inputs, ["y", "new"], {"half": np.array([0.5], np.float32)})
    data = [{"past": 5 * noise(1, 8, seed=s), "x": noise(1, 8, seed=s + 9)} for s in range(4)]
    amp = Amp(candidates=(WIDE, NARROW))
    made = nk.quantize(graph, "cpu:qdq", data=data, options=nk.Options(activations="uint16", ties=ties), optimize=[amp])
    assert made.encodings["past"].same_grid(made.encodings["new"]) == bool(ties)
