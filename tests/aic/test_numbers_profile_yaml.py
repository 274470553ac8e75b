"""Profiles in Glow's YAML form: there and back, as others write them, and damaged ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import npukit as nk
from npukit.encoding import Array
from npukit.errors import DataError, NpukitError, UsageError
from npukit.graph import Graph, Node, make_graph
from npukit_aic.observers import CALIBRATIONS, observer
from npukit_aic.profile_yaml import dump_profile, graph_hash, load_profile, make_profile


def model() -> Graph:
    """x (1, 64) times a weight, cut into two parts under names that Glow would not leave alone."""
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    nodes = [
        Node("MatMul", "product", ("x", "w"), ("/layer.0/out:h",), {}),
        Node("Split", "split", ("/layer.0/out:h",), ("a", "b"), {"axis": 1, "num_outputs": 2}),
        Node("Relu", "clamp", ("b",), ("y",), {}),
    ]
    return make_graph(nodes, {"x": ("float32", (1, 64))}, ["a", "y"], {"w": weight})


def samples() -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 64)).astype(np.float32) * scale} for scale in (1, 2, 1, 3)]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    dump_profile(make_profile(model(), samples()), model(), tmp_path / "p.yaml")
    return tmp_path / "p.yaml"


def rewrite(path: Path, change: Any) -> Path:
    """The file as PyYAML writes it after ``change`` of its documents, with the types that PyYAML reads."""
    documents = list(yaml.safe_load_all(path.read_text()))
    change(documents)
    path.write_text(yaml.safe_dump_all(documents))
    return path


def test_there_and_back(written: Path) -> None:
    made, found = make_profile(model(), samples()), load_profile(written, model())
    assert (found.notes, found.bins, found.profile.samples) == ((), 512, 4)
    assert found.profile.tensors.keys() == made.tensors.keys()
    for name, seen in made.tensors.items():
        back = found.profile.tensors[name]
        assert (back.low, back.high, back.count) == (seen.low, seen.high, seen.count)
        assert np.array_equal(back.memory["glow-512"]["counts"], seen.memory["glow-512"]["counts"])


def test_the_published_layout(written: Path) -> None:
    """Three documents; results of a node by its first output; constants with their counts once per batch."""
    version, graph, entries = yaml.safe_load_all(written.read_text())
    assert list(version) == ["GlowToolsVersion"]
    assert graph == {"GraphPreLowerHash": graph_hash(model())}
    by_name = {entry["NodeOutputName"]: entry for entry in entries}
    assert by_name.keys() == {"x:0", "w:0", "/layer.0/out:h:0", "a:0", "a:1", "y:0"}
    weight = model().tensor("w").data
    assert weight is not None
    assert by_name["w:0"]["Min"] == pytest.approx(weight.min())
    assert sum(by_name["w:0"]["Histogram"]) == 4 * weight.size
    assert [len(entry["Histogram"]) for entry in entries] == [512] * 6


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_every_calibration_takes_a_file(written: Path, calibration: str) -> None:
    """The same grids as from the samples themselves."""
    method = observer(calibration)
    options = nk.Options(calibration=method, percentile=99)
    found = nk.quantize(model(), "cpu", data=load_profile(written, model()).profile, options=options).encodings
    expected = nk.quantize(model(), "cpu", data=samples(), options=options).encodings
    assert found.keys() == expected.keys()
    assert all(found[name].same_grid(expected[name]) for name in found)


def test_names_and_numbers_of_others(written: Path) -> None:
    """Glow's names, dates and numbers that YAML reads as such, counts as floats, tensors that are not here, another hash."""

    def change(documents: list[Any]) -> None:
        documents[1]["GraphPreLowerHash"] = 0x47A0C8E9
        for entry in documents[2]:
            entry["NodeOutputName"] = entry["NodeOutputName"].replace("/layer.0/out:h", "_layer_0_out_h")
            entry["Histogram"] = [float(count) for count in entry["Histogram"]]
            entry["Min"] = str(entry["Min"])  # 1e-05 is text for YAML 1.1
        documents[2].append({"NodeOutputName": "gone:0", "Min": 0, "Max": 1, "Histogram": [0] * 512})

    found = load_profile(rewrite(written, change), model())
    assert found.profile.tensors.keys() == {"x", "/layer.0/out:h", "a", "b", "y"}
    other, gone = found.notes
    assert "of another graph (hash 0x47A0C8E9, here 0x" in other
    assert gone == "1 tensor of the profile are not in the model: gone:0"


def test_a_file_without_histograms_has_ranges(written: Path) -> None:
    found = load_profile(rewrite(written, lambda d: [e.update(Histogram=[]) for e in d[2]]), model())
    assert found.bins == 0
    assert nk.quantize(model(), "cpu", data=found.profile).encodings["y"].zeros == 0
    with pytest.raises(DataError, match="without calibration method 'KLMinimization'"):
        nk.quantize(model(), "cpu", data=found.profile, options=nk.Options(calibration="KLMinimization"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[2][0].update(Min=2.0, Max=1.0), "'x:0': Min must be at most Max and both finite, found 2 and 1"),
        (lambda d: d[2][0].update(Max="inf"), "both finite"),
        (lambda d: d[2][0].update(Max=1e39), "both finite"),
        (lambda d: d[2][0].update(Min="low"), "'x:0': Min, Max and Histogram are numbers"),
        (lambda d: d[2][0].pop("Max"), "'x:0': Min, Max and Histogram are numbers, found 'Max'"),
        (lambda d: d[2][0]["Histogram"].__setitem__(3, -1), "counts of a histogram are 0 or more"),
        (lambda d: d[2][0]["Histogram"].__setitem__(3, "nan"), "counts of a histogram are 0 or more"),
        (lambda d: d[2][0]["Histogram"].__setitem__(3, [1, 2]), "are numbers"),
        (lambda d: d[2][0]["Histogram"].pop(), "histograms of 511 and 512 bins"),
        (lambda d: d[2][0].pop("NodeOutputName"), "entry without NodeOutputName"),
        (lambda d: d[2].append(d[2][0] | {}), "tensor 'x' twice|alias"),
        (lambda d: d[2].clear(), "knows no tensor of the model, found none"),
        (lambda d: d.pop(0), "three documents are expected"),
        (lambda d: d[1].update(GraphPreLowerHash="mine"), "is not a quantization profile"),
    ],
)
def test_what_is_impossible_is_named(written: Path, change: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_profile(rewrite(written, change), model())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff\xfe binary",
        b"[" * 100_000,
        b"--- {GlowToolsVersion: 1}\n--- {GraphPreLowerHash: 0x1}\n--- " + b"- " * 50_000,
        b"a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]",
        b"--- !!python/object/apply:os.system ['false']",
        b"--- {GlowToolsVersion: 1}\n--- {GraphPreLowerHash: 0x1}\n--- {? [a] : b}",
        b"- NodeOutputName: 'x:0",
    ],
)
def test_hostile_files_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(DataError, match="is not a quantization profile") as caught:
        load_profile(tmp_path / "bad.yaml", model())
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.yaml"):
        with pytest.raises(UsageError, match="cannot read quantization profile"):
            load_profile(path, model())
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(1 << 29)
    with pytest.raises(DataError, match="536870912 bytes, more than"):
        load_profile(tmp_path / "huge.yaml", model())


def test_a_profile_of_npukit_without_histograms_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="no histogram of 1024 bins of tensor 'x'"):
        dump_profile(make_profile(model(), samples()), model(), tmp_path / "out" / "p.yaml", bins=1024)
    with pytest.raises(NpukitError):
        dump_profile(make_profile(model(), samples()), model(), tmp_path / "absent" / "p.yaml")
    assert not list((tmp_path / "out").iterdir())


def test_the_hash_is_that_of_the_structure() -> None:
    graph = model()
    assert graph_hash(graph) == graph_hash(model())
    other = graph.evolve(nodes=(*graph.nodes[:2], Node("Sigmoid", "clamp", ("b",), ("y",), {})))
    assert graph_hash(graph) != graph_hash(other)
