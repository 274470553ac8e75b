"""What mixed precision promises holds for the finished package, as its backend computes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest

import npukit as nk
from npukit.backend import Backend, OpConstraint, Port, Program, Soc
from npukit.diagnosis import mean_sqnr, total_powers
from npukit.encoding import Array, Encoding
from npukit.errors import ConstraintError, UsageError
from npukit.graph import Graph, Node, make_graph
from npukit.quantization import Quantized
from npukit_aimet.amp.groups import Candidate
from npukit_aimet.amp.optimizer import Amp
from npukit_aimet.amp.run import Run
from npukit_cpu.backend import CpuBackend

WIDE, NARROW, NIBBLE = Candidate("uint16", "int8"), Candidate("uint8", "int8"), Candidate("uint8", "int4")
DATA = [{"x": np.random.default_rng(s).standard_normal((1, 3, 8, 8), np.float32)} for s in range(24)]


def network() -> Graph:
    """Convolutions with biases in front of ten scores; activations with a far outlier channel hurt in 8 bits."""
    rng = np.random.default_rng(7)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape, np.float32)

    bias = normal(8)
    bias[0] = 300
    last = normal(8, 10)
    last[0] = 0
    nodes = [
        Node("Conv", "a", ("x", "wa", "ba"), ("ta",), {"pads": (1, 1, 1, 1)}),
        Node("Relu", "ra", ("ta",), ("ra",)),
        Node("Conv", "b", ("ra", "wb", "bb"), ("tb",), {"pads": (1, 1, 1, 1)}),
        Node("Add", "add", ("tb", "ra"), ("sum",)),
        Node("GlobalAveragePool", "p", ("sum",), ("tp",)),
        Node("Flatten", "f", ("tp",), ("tf",)),
        Node("MatMul", "m", ("tf", "wm"), ("y",)),
    ]
    constants = {"wa": normal(8, 3, 3, 3), "ba": normal(8), "wb": normal(8, 8, 3, 3), "bb": bias, "wm": last}
    return make_graph(nodes, inputs={"x": ("float32", (1, 3, 8, 8))}, outputs=["y"], constants=constants)


def float_outputs() -> list[Mapping[str, Array]]:
    with nk.Session(network(), "cpu") as session:
        return [session.run(feeds) for feeds in DATA]


MEAN = np.mean([o["y"] for o in float_outputs()], axis=0)
LABELS = [int((o["y"] - MEAN).argmax()) for o in float_outputs()]


def right(outputs: Sequence[Mapping[str, Array]]) -> float:
    """The share of samples that have the answer of the float model, in percent; the mean hides no error."""
    return 100 * float(np.mean([(o["y"] - MEAN).argmax() == label for o, label in zip(outputs, LABELS, strict=True)]))


def outputs_of(model: Any) -> list[dict[str, Array]]:
    with nk.Session(model) as session:
        return [session.run(feeds) for feeds in DATA]


def mixed(backend: str = "htp", **settings: Any) -> Quantized:
    return nk.quantize(network(), backend, data=DATA, optimize=[Amp(**settings)])


def registry(backend: Backend) -> nk.Registry:
    class Plugin:
        @staticmethod
        @nk.plugins.hookimpl
        def register_backends() -> Backend:
            return backend

    found = nk.Registry.load()
    found.add(backend.name, Plugin)
    return found


def noted_score(model: Quantized) -> float:
    return next(float(note.split("scores ")[1]) for note in model.report.notes if "the package scores" in note)


@pytest.mark.parametrize("backend", ["htp", "cpu:qdq"])
@pytest.mark.parametrize("order", [(WIDE, NARROW, NIBBLE), (NIBBLE, NARROW, WIDE)], ids=["wide-first", "narrow-first"])
@pytest.mark.parametrize("search", ["binary", "brute-force"])
def test_the_package_keeps_the_promise(backend: str, order: tuple[Candidate, ...], search: str) -> None:
    """Whatever the order of the candidates: the package itself loses no more than is allowed, and the report has its score."""
    model = mixed(backend, candidates=order, allowed_accuracy_drop=5.0, evaluate=right, search=search)
    score = right(outputs_of(model))
    assert score >= 95.0
    assert noted_score(model) == pytest.approx(score, abs=1e-3)
    assert {"uint8"} < {model.encodings[n].dtype for n in ("x", "ra", "sum", "tb", "tf", "y")}  # both types are needed


def test_the_order_of_candidates_does_not_count() -> None:
    """The result is the same whichever candidate comes first."""
    found = [mixed(candidates=c, allowed_accuracy_drop=3.0) for c in ((WIDE, NARROW), (NARROW, WIDE))]
    assert {n: e.dtype for n, e in found[0].encodings.items()} == {n: e.dtype for n, e in found[1].encodings.items()}
    assert found[0].report.notes == found[1].report.notes


def test_a_drop_of_just_as_much_is_kept() -> None:
    """The rounding of a subtraction breaks no promise: 0.8 - 0.1 is more than 0.7 in floating point."""

    def evaluate(outputs: Sequence[Mapping[str, Array]]) -> float:
        return 0.8 if np.allclose(outputs[0]["y"], float_outputs()[0]["y"], rtol=1e-4, atol=1e-4) else 0.7

    assert 0.8 - 0.1 > 0.7
    assert noted_score(mixed(candidates=(WIDE, NARROW), allowed_accuracy_drop=0.1, evaluate=evaluate)) == 0.7


def test_saving_converts_never_costs_more_than_the_dearest_candidate() -> None:
    """A good score is not enough for a change in phase 3."""
    for cost, expected in ((1.0, True), (1.01, False)):
        run: Any = SimpleNamespace(target=30.0, cost=lambda choice, cost=cost: cost, score=lambda choice: 40.0)
        assert Run.keeps_target(run, {}, {}) == expected


def test_what_cannot_be_kept_is_an_error() -> None:
    """The error says what is asked for, what is reachable, and which drop would do."""
    with pytest.raises(UsageError, match=r"cannot keep within 0 of the float model's 100: .*uint8/int8.* reaches [\d.]+") as caught:
        mixed(candidates=(NIBBLE, NARROW), allowed_accuracy_drop=0.0, evaluate=right)
    best = float(str(caught.value).split("reaches ")[1].split()[0])
    assert best == pytest.approx(right(outputs_of(nk.quantize(network(), "htp", data=DATA))), abs=1e-3)
    assert "allow a drop of 4.1667" in caught.value.hint
    kept = mixed(candidates=(NIBBLE, NARROW), allowed_accuracy_drop=4.1667, evaluate=right)
    assert right(outputs_of(kept)) == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("backend", ["htp", "cpu:qdq"])
@pytest.mark.parametrize("drop", [None, 10.0])
def test_every_point_reproduces_from_its_overrides(tmp_path: Path, backend: str, drop: float | None) -> None:
    """The score of each row of the Pareto list is that of a package made with its overrides; no cost is above 100 %."""
    mixed(backend, candidates=(WIDE, NARROW, NIBBLE), allowed_accuracy_drop=drop, results_dir=tmp_path)
    rows = json.loads((tmp_path / "pareto_list.json").read_text())
    assert len(rows) > 2
    for row in rows:
        again = nk.quantize(nk.Request(network(), overrides=tmp_path / row["overrides"]), backend, data=DATA)
        assert row["score"] == pytest.approx(mean_sqnr(*total_powers(float_outputs(), outputs_of(again))), abs=1e-3)
        assert row["cost"] <= 1


def test_a_type_that_all_candidates_have_is_simulated_and_kept() -> None:
    """16-bit activations in all candidates are 16-bit activations in the package, whatever the default is."""
    model = mixed(candidates=(WIDE, Candidate("uint16", "int4")))
    assert {model.encodings[n].dtype for n in ("x", "ra", "tb", "sum", "tp", "tf", "y")} == {"uint16"}
    sqnr = mean_sqnr(*total_powers(float_outputs(), outputs_of(model)))
    assert noted_score(model) == pytest.approx(sqnr, abs=1e-3)


def test_convolutions_with_bias_get_four_bits() -> None:
    """A bias follows from its input and weight: it is judged with the type that it then has."""
    model = mixed(candidates=(NARROW, NIBBLE))
    assert {model.encodings[n].dtype for n in ("wa", "wb")} == {"int4"}
    assert {model.encodings[n].dtype for n in ("ba", "bb")} == {"int32"}


def test_a_float_candidate_takes_no_choice_away() -> None:
    """Where integers and floats cannot meet at a node, the integer candidates are still mixed, and the promise is theirs."""
    model = mixed(candidates=(Candidate("float16", "float16"), WIDE, NARROW), allowed_accuracy_drop=3.0)
    assert {model.encodings[n].dtype for n in ("x", "ra", "tb", "sum", "tf", "y")} == {"uint8", "uint16"}
    assert noted_score(model) == pytest.approx(mean_sqnr(*total_powers(float_outputs(), outputs_of(model))), abs=1e-3)


@pytest.mark.parametrize(("dtype", "drop"), [("float16", 25.0), ("float32", 5.0)])
def test_a_float_group_stays_float(dtype: str, drop: float) -> None:
    """A group that gets a float type has it in the package: the default types do not come back."""
    model = mixed("cpu:qdq", candidates=(Candidate(dtype, dtype), NARROW), allowed_accuracy_drop=drop)
    kinds = {getattr(model.encodings.get(n), "dtype", "float32") for n in ("x", "ra", "tb", "sum", "tp", "tf", "y")}
    assert kinds == {dtype, "uint8"}
    assert noted_score(model) == pytest.approx(mean_sqnr(*total_powers(float_outputs(), outputs_of(model))), abs=1e-3)


class Few(CpuBackend):
    """A chip that refuses some choices as a whole: those with more than four 8-bit activations."""

    name, default_soc = "few", "qdq"

    def compile(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Program:
        if sum(e.dtype == "uint8" for e in encodings.values()) > 4:
            raise ConstraintError("too many")
        return super().compile(graph, encodings, soc)


@pytest.mark.parametrize("drop", [None, 100.0])
def test_a_choice_that_is_refused_as_a_whole_is_stepped_back_from(tmp_path: Path, drop: float | None) -> None:
    """Groups that may be lowered one by one, but not all of them: the result is one that the backend takes."""
    amp = Amp(candidates=(WIDE, NARROW), allowed_accuracy_drop=drop, results_dir=tmp_path)
    model = nk.quantize(network(), "few", registry=registry(Few()), data=DATA, optimize=[amp])
    assert 1 <= sum(e.dtype == "uint8" for e in model.encodings.values()) <= 4
    assert "Infinity" not in (tmp_path / "pareto_list.json").read_text()


class Eight(CpuBackend):
    """A chip with 8 bits only."""

    name = "eight"

    def constraints(self) -> tuple[OpConstraint, ...]:
        free, bias = Port(dtypes=("uint8",)), Port(dtypes=("int32",), constant=True)
        weight = Port(dtypes=("int8",), granularity=("tensor", "channel"), axis=0, constant=True)
        rows = [OpConstraint(op, (free,), (free,), "test", variadic=True) for op in ("Relu", "GlobalAveragePool", "Flatten", "Add")]
        rows.append(OpConstraint("Conv", (free, weight, bias), (free,), "test"))
        rows.append(OpConstraint("MatMul", (free, attrs.evolve(weight, axis=1)), (free,), "test"))
        return tuple(rows)


@pytest.mark.parametrize("candidates", [(), (WIDE, NARROW), (NARROW, WIDE)])
def test_a_chip_with_one_precision(candidates: tuple[Candidate, ...]) -> None:
    """The error says that there is no choice, and what the chip accepts."""
    expected = r"of uint16/int8 and uint8/int8 the backend accepts uint8/int8: .*type uint16, allowed is uint8"
    with pytest.raises(ConstraintError, match=expected):
        nk.quantize(network(), "eight", registry=registry(Eight()), data=DATA, optimize=[Amp(candidates=candidates)])
