"""A sweep: its axes, its rows, and what each of them is measured on."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import npukit as nk
from npukit.backend import Kernel, KernelBackend, OpConstraint, Option, Port, Soc
from npukit.calibration import Observer, Range, Seen, open_data
from npukit.diagnosis import outputs_sqnr
from npukit.encoding import Encoding
from npukit.errors import DataError, PluginError, UsageError
from npukit.events import Event
from npukit.graph import Graph, Node, make_graph
from npukit.plugins import Registry, hookimpl
from npukit.report import sweep_csv, sweep_data, sweep_html, sweep_text, to_json
from npukit.trials import Axis, Sweep, SweepRow, sweep
from npukit.trials.axes import combinations, read_axes
from npukit.trials.trial import read_samples, write_samples

REGISTRY = Registry.load()
RNG = np.random.default_rng(0)


def conv_net() -> Graph:
    """Two outputs; the first convolution has a bias, for which htp takes no 4-bit weights."""
    nodes = [
        Node("Conv", "first", ("x", "w", "b"), ("c",), {"pads": (1, 1, 1, 1)}),
        Node("Relu", "relu", ("c",), ("r",)),
        Node("Conv", "second", ("r", "v"), ("y",), {"pads": (1, 1, 1, 1)}),
        Node("Sigmoid", "gate", ("y",), ("z",)),
    ]
    constants = {
        "w": RNG.standard_normal((4, 2, 3, 3)).astype(np.float32),
        "b": RNG.standard_normal(4).astype(np.float32),
        "v": RNG.standard_normal((3, 4, 3, 3)).astype(np.float32),
    }
    return make_graph(nodes, {"x": ("float32", (1, 2, 6, 6))}, ["y", "z"], constants)


GRAPH = conv_net()
DATA = [{"x": np.random.default_rng(i).standard_normal((1, 2, 6, 6)).astype(np.float32) ** 3} for i in range(6)]
OTHER = [{"x": np.random.default_rng(100 + i).standard_normal((1, 2, 6, 6)).astype(np.float32)} for i in range(4)]


def axes(over: Any, backend: str = "htp", options: nk.Options | None = None, **settings: Any) -> tuple[Axis, ...]:
    target = REGISTRY.target(backend, settings=settings)
    return read_axes(over, options or nk.Options(), target, target.prepare(GRAPH), REGISTRY.observers())


def tried(over: Any, **how: Any) -> Sweep:
    return sweep(GRAPH, how.pop("backend", "htp"), over=over, data=how.pop("data", DATA), registry=REGISTRY, **how)


# -------------------------------------------------------------------------------------------------------------------- axes


@pytest.mark.parametrize(
    "over",
    [
        "weights=int8,int4,schema,calibration=mse,percentile:99.9",
        ["weights=int8,int4", "schema", "calibration=mse,percentile:99.9"],
        {"weights": ("int8", "int4"), "schema": (), "calibration": ["mse", "percentile:99.9"]},
    ],
)
def test_axes_in_every_spelling(over: Any) -> None:
    """Flags, texts and mappings say the same; the last axis changes fastest."""
    found = axes(over)
    assert [a.name for a in found] == ["weights", "schema", "calibration"]
    assert found[0].values == ("int8", "int4")
    assert len(found[1].values) == 4
    every = combinations(found)
    assert len(every) == 16
    assert [c["calibration"] for c in every[:3]] == ["mse", "percentile:99.9", "mse"]
    assert [c["weights"] for c in every].count("int8") == 8


def test_a_bare_axis_has_what_the_backend_has() -> None:
    """All methods, all schemas, and of types those that ops of this model take somewhere."""
    found = {a.name: a.values for a in axes("calibration,activations,weights,bias,per-channel")}
    assert found["calibration"] == ("min-max", "percentile", "entropy", "mse", "sqnr")
    assert "KLMinimization" in axes("calibration", "aic")[0].values  # which imitates the compiler of that one
    assert found["activations"] == ("int8", "int16", "uint8", "uint16")
    assert {"int4", "int8", "uint8"} <= set(found["weights"])
    assert "int3" not in found["weights"]  # no row of htp has it
    assert "int3" in axes("weights", "cpu")[0].values
    assert found["bias"] == ("int8", "int32")
    assert found["per-channel"] == ("false", "true")
    assert "symmetric_with_power2_scale" in axes("schema", "aic")[0].values
    with pytest.raises(UsageError, match="no 'unsigned-symmetric'"):
        axes("schema=unsigned-symmetric", "aic")


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("calibratoin", "did you mean 'calibration'"),
        ("calibration=mes", "did you mean 'mse'"),
        ("calibration=percentile:80", "90..100"),
        ("calibration=percentile:x", "90..100"),
        ("calibration=mse:3", "takes no number"),
        ("weights=int7", "did you mean 'int8'"),
        ("schema=symetric", "did you mean 'symmetric'"),
        ("per-channel=maybe", "no 'maybe'"),
        ("set.vtcm", "did you mean 'set.vtcm_mb'"),
        ("set.vtcm_mb", "no list of values"),
        ("set.vtcm_mb=big", "a whole number"),
        ("weights,weights=int8", "named twice"),
        ("", "at least one axis"),
        ({}, "at least one axis"),
    ],
)
def test_what_is_no_axis_is_refused(over: Any, message: str) -> None:
    """Every typo is a usage error that says what there is."""
    with pytest.raises(UsageError) as caught:
        axes(over)
    assert message in str(caught.value)


def test_an_axis_is_not_given_twice() -> None:
    """A flag that an axis would overrule is refused, not ignored."""
    for over, options in (
        ("weights", nk.Options(weights="int8")),
        ("calibration", nk.Options(calibration="mse")),
        ("schema", nk.Options(scheme={"activations": "symmetric"})),
        ("per-channel", nk.Options(per_channel=False)),
    ):
        with pytest.raises(UsageError, match="given by a flag"):
            axes(over, options=options)
    with pytest.raises(UsageError, match="given by a flag"):
        axes("set.vtcm_mb=1,2", vtcm_mb="4")
    assert axes("schema", options=nk.Options(scheme={"weights": "asymmetric"}))


# -------------------------------------------------------------------------------------------------------------------- rows


def test_a_row_is_what_quantize_gives() -> None:
    """SQNR, size and cost are those of the package that the same options make from the data itself, run on the same samples."""
    found = tried("calibration=min-max,percentile:90,schema=asymmetric,symmetric", evaluation=OTHER)
    assert (len(found.rows), found.samples, found.own_samples) == (4, 4, True)
    for row in found.rows:
        method = row.choices["calibration"].partition(":")[0]
        options = nk.Options(calibration=method, percentile=90, scheme={"activations": row.choices["schema"]})
        target = REGISTRY.target("htp")
        made = nk.quantize(GRAPH, target, data=DATA, options=options, registry=REGISTRY)
        alone = outputs_sqnr(made, GRAPH, target, open_data(OTHER, GRAPH), registry=REGISTRY)
        assert dict(row.sqnr) == dict(alone.sqnr)
        assert row.worst == min(alone.sqnr.values())
        assert row.cost is not None
        assert row.cost.macs > 0
    assert len({tuple(row.sqnr.values()) for row in found.rows}) == 4
    assert found.ranked()[0] is found.best
    assert [r.worst for r in found.ranked()] == sorted((r.worst for r in found.rows), reverse=True)


def test_the_float_model_is_profiled_once() -> None:
    """However many combinations there are, calibration sees each sample once."""
    seen: list[Event] = []
    tried("calibration,activations=uint8,uint16", on_event=seen.append)
    assert [e.done for e in seen if e.stage == "calibrate"] == [1, 2, 3, 4, 5, 6]
    assert [(e.done, e.total) for e in seen if e.stage == "sweep"] == [(n, 10) for n in range(11)]


def test_what_is_refused_is_a_row() -> None:
    """The op constraints' word is in the row, which ranks last; the others are there."""
    found = tried("weights=int8,int16")
    good, bad = found.ranked()
    assert (good.choices["weights"], good.refused) == ("int8", "")
    assert "type int16" in bad.refused
    assert any(p.rule == "dtype" for p in bad.problems)
    assert bad.worst != bad.worst
    none = tried("weights=int16")
    assert none.best is None


def test_rows_with_the_same_encodings_say_so() -> None:
    """A setting that changes no encoding makes equal rows, which are run and shown all the same."""
    found = tried("set.vtcm_mb=1,2,calibration=min-max,percentile:90")
    assert [row.same_as for row in found.rows] == [None, None, 1, 2]
    assert found.rows[2].sqnr == found.rows[0].sqnr


def test_the_best_package_is_written(tmp_path: Path) -> None:
    """What is written is the best row: the same SQNR when it is read and run."""
    path = tmp_path / "best.dlc"
    found = tried("weights=int8,int4,activations=uint8,int16", output=path, options=nk.Options(legalize=True))
    assert found.best is not None
    alone = outputs_sqnr(path, GRAPH, REGISTRY.target("htp"), open_data(DATA, GRAPH), registry=REGISTRY)
    assert dict(alone.sqnr) == dict(found.best.sqnr)


def test_an_evaluator_ranks() -> None:
    """The score is that of the opened package; the float model has one too."""

    def error(session: Any) -> float:
        return -float(np.abs(session.run(DATA[0])["y"]).max())

    found = tried("calibration=min-max,percentile:90", evaluate=error)
    assert found.float_score is not None
    scores = [row.score for row in found.rows]
    assert len(set(scores)) == 2
    assert found.best is max(found.rows, key=lambda row: row.score or 0.0)
    for value, message in ((None, "NoneType, not a number"), (float("nan"), "not a finite number")):
        with pytest.raises(UsageError, match=message):
            tried("weights=int8", evaluate=lambda session, value=value: value)
    with pytest.raises(UsageError, match="raised KeyError"):
        tried("weights=int8", evaluate=lambda session: session.run(DATA[0])["nothing"])


def test_a_profile_needs_samples_of_its_own() -> None:
    """A profile stands for the data, but cannot be run."""
    profile = nk.profile(GRAPH, "htp", data=DATA, registry=REGISTRY)
    with pytest.raises(UsageError, match="no samples to run"):
        tried("calibration", data=profile)
    direct = tried("calibration", evaluation=OTHER)
    assert tried("calibration", data=profile, evaluation=OTHER).rows == direct.rows


def test_what_cannot_be_swept() -> None:
    """A package, a backend in float, jobs that are none."""
    made = nk.quantize(GRAPH, "htp", data=DATA, registry=REGISTRY)
    with pytest.raises(UsageError, match="begins with a float model"):
        sweep(made, over="weights", data=DATA, registry=REGISTRY)
    with pytest.raises(UsageError, match="computes in float"):
        tried("weights", backend="cpu:float32")
    with pytest.raises(UsageError, match="no effect with one job"):
        tried("weights", joblib_backend="loky")
    with pytest.raises(UsageError, match="1 job or more"):
        tried("weights", jobs=0)
    with pytest.raises(DataError, match="empty"):
        tried("weights", data=[])


class Npu(KernelBackend):
    """A backend with a setting that changes how a model is prepared: a Relu behind two Negs, so with tensors that others lack."""

    name = "npu"
    title = "for tests"

    def options(self) -> tuple[Option, ...]:
        return (Option("longer", bool, False, effect="encodings"), Option("gain", float, 1.0, (1.0, 2.0)))

    def socs(self) -> tuple[Soc, ...]:
        return (Soc("one", "v1"),)

    def constraints(self) -> tuple[OpConstraint, ...]:
        return tuple(OpConstraint(op, (Port(),), (Port(),), "a test") for op in ("Relu", "Neg"))

    def prepare(self, graph: Graph) -> Graph:
        if not self.settings["longer"]:
            return graph
        nodes = (Node("Neg", "n", ("x",), ("a",)), Node("Neg", "m", ("a",), ("b",)), Node("Relu", "r", ("b",), ("y",)))
        return make_graph(nodes, {"x": ("float32", (1, 8))}, ["y"], {})

    def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
        gain = np.float32(self.settings["gain"])
        return {
            "Relu": lambda call: [np.asarray(gain * np.maximum(call.value(0).real(), 0))],
            "Neg": lambda call: [-call.value(0).real()],
        }


class Half(Observer):
    """A calibration method of a test."""

    name = "half"
    needs_histogram = False

    def range(self, seen: Seen, dtype: str, percentile: float = 99.99) -> Range:
        return Range(seen.low / 2, seen.high / 2)


class Plugin:
    """What a plugin registers."""

    @hookimpl
    def register_backends(self) -> Npu:
        return Npu()

    @hookimpl
    def register_observers(self) -> Half:
        return Half()


def test_settings_of_a_backend_are_axes() -> None:
    """Bare ones take true and false or their choices; a setting that changes the graph has its tensors profiled as well."""
    registry = Registry.load()
    registry.add("test", Plugin())
    graph = make_graph([Node("Relu", "r", ("x",), ("y",))], {"x": ("float32", (1, 8))}, ["y"], {})
    data = [{"x": np.linspace(-1, 2, 8, dtype=np.float32)[None]}]
    found = sweep(graph, "npu", over="set.longer,set.gain", data=data, registry=registry)
    assert [axis.values for axis in found.axes] == [("false", "true"), ("1.0", "2.0")]
    assert not any(row.refused for row in found.rows)
    assert [row.same_as for row in found.rows] == [None, 1, None, 3]
    plain, double = found.rows[0].worst, found.rows[1].worst
    assert plain > 40
    assert double < 10  # twice the signal, cut by the grid of the output
    assert found.rows[3].worst == double


def test_a_method_of_a_plugin_is_among_all() -> None:
    """The bare axis has it, and its row differs."""
    registry = Registry.load()
    registry.add("test", Plugin())
    found = sweep(GRAPH, "htp", over="calibration", data=DATA, registry=registry)
    rows = {row.choices["calibration"]: row for row in found.rows}
    assert "half" in rows
    assert rows["half"].encodings != rows["min-max"].encodings


# -------------------------------------------------------------------------------------------------------------------- jobs


def test_jobs_change_nothing() -> None:
    """Two processes give the rows of one, refused ones among them; overrides and the chip get there too."""
    pytest.importorskip("joblib")
    model = nk.Request(GRAPH, overrides={"r": Encoding("uint8", 0.25, 0, origin="override")})
    how: dict[str, Any] = {"over": "weights=int8,int16,calibration=min-max,entropy", "data": DATA, "evaluation": OTHER}
    alone = sweep(model, "htp:sm8550", **how, registry=REGISTRY)
    assert alone.best is not None
    assert alone.best.sqnr != tried("weights=int8", evaluation=OTHER).rows[0].sqnr
    assert any("SM8550" in row.refused for row in alone.rows)
    spread = sweep(model, "htp:sm8550", **how, registry=REGISTRY, jobs=2)
    assert (spread.rows, spread.axes) == (alone.rows, alone.axes)


def test_jobs_know_the_settings() -> None:
    """What --set says holds in every job: here all of them refuse it."""
    pytest.importorskip("joblib")
    target = REGISTRY.target("htp", settings={"vtcm_mb": 1000})
    found = tried("weights=int8,uint8", backend=target, jobs=2, joblib_backend="threading")
    assert all("'vtcm_mb' is 1000" in row.refused for row in found.rows)


def test_an_unknown_joblib_backend_is_told_first() -> None:
    """Nothing is calibrated before that."""
    pytest.importorskip("joblib")
    seen: list[Event] = []
    with pytest.raises(UsageError, match="no backend 'daks'"):
        tried("weights", jobs=2, joblib_backend="daks", on_event=seen.append)
    assert not seen


def test_jobs_without_joblib(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setattr("npukit.trials.spread.find_spec", lambda name: None)
    with pytest.raises(PluginError, match=r"npukit\[sweep\]"):
        tried("weights", jobs=2)


# ------------------------------------------------------------------------------------------------------------------ reports


def rows() -> Sweep:
    first = SweepRow(1, {"calibration": "min-max"}, {"a": 20.0, "<b>": float("inf")}, size=1000, encodings="x")
    second = SweepRow(2, {"calibration": "mse"}, {"a": 30.0, "<b>": 25.0}, size=1000, encodings="y", notes=("cut <here>",))
    third = attrs.evolve(second, number=3, choices={"calibration": "=1+1"}, same_as=2)
    last = SweepRow(4, {"calibration": "sqnr"}, refused="no such\nform")
    return Sweep("htp:X", (Axis("calibration", ("min-max", "mse", "=1+1", "sqnr")),), 6, False, (first, second, third, last))


def test_the_table_says_all() -> None:
    """Best first; what was refused and why, what is the same, and the samples."""
    text = sweep_text(rows())
    assert "4 combinations on htp:X, 3 ran" in text
    assert "the calibration samples themselves (6)" in text
    assert [line.split()[0] for line in text.splitlines()[4:8]] == ["2", "3", "1", "4"]
    assert "same encodings as row 2" in text
    assert r"refused, row 4: no such\nform" in text
    assert "note, rows 2, 3: cut <here>" in text
    assert "... and 3 more" in sweep_text(rows(), 1)


def test_csv_and_json_hold_the_same_numbers() -> None:
    """One line per row, best first; what is infinite is null in JSON and inf in CSV."""
    table = list(csv.DictReader(io.StringIO(sweep_csv(rows()))))
    assert [line["row"] for line in table] == ["2", "3", "1", "4"]
    assert (table[0]["sqnr a"], table[0]["sqnr worst"], table[2]["sqnr <b>"]) == ("30.0", "25.0", "inf")
    assert (table[1]["same_as"], table[3]["sqnr a"]) == ("2", "")
    data = json.loads(json.dumps(to_json(sweep_data(rows())), allow_nan=False))
    assert [row["number"] for row in data["rows"]] == [2, 3, 1, 4]
    assert data["rows"][2]["sqnr"] == {"a": 20.0, "<b>": None}


def test_the_page_is_whole_and_escaped() -> None:
    """A plot with one bar per result, no scripts, nothing from elsewhere, names escaped."""
    page = sweep_html(rows(), "m<script>.onnx")
    assert page.count("<rect") == 3
    assert page.count('class="same"') == 1
    assert "<script" not in page
    assert "<b>" not in page
    assert "http" not in page
    assert not re.search(r'width="-|="(nan|inf)', page)


def test_samples_come_back_as_they_were(tmp_path: Path) -> None:
    """Any name and type that a model has, in order; nothing is pickled."""
    names = ("x", "a/b:0", "c.npy", "file", "größe", "")
    first = {name: np.arange(3, dtype=dtype) for name, dtype in zip(names, "fdeilB", strict=True)}
    pairs = [(first, {"y": np.float32([[np.inf, -0.0]])}), ({"x": np.array([True])}, {})]
    assert write_samples(tmp_path, pairs) == 2
    (tmp_path / "profile.npz").write_bytes(b"is no sample")
    found = list(read_samples(tmp_path))
    assert [[list(feeds) for feeds in pair] for pair in found] == [[list(feeds) for feeds in pair] for pair in pairs]
    for pair, other in zip(pairs, found, strict=True):
        for feeds, again in zip(pair, other, strict=True):
            assert all(np.array_equal(again[n], v) and again[n].dtype == v.dtype for n, v in feeds.items())
