"""Encodings files of AIMET: entry by entry, and by what the encodings compute."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npukit.backend.ort import OrtModel
from npukit.encoding import Encoding, encoding_for_range, encoding_for_weights
from npukit.encoding.formats import VERSIONS, extract_qdq, insert_qdq, read_encodings, write_encodings
from npukit.errors import EncodingError, UsageError
from npukit.graph import Graph, Node, load, make_graph

INT_CONFIGURATIONS = (
    *("w8a8_default", "w8a8_htp_v73", "w8a8_htp_v66", "w8a16_htp_v81", "w4a8_default", "w4a16_tfe", "w8a8_signed_act"),
    *("w8asym_a8", "mixed_fp16", "fp16_all", "lpbq_w4a16_b16", "lpbq_conv_b8", "perblock_w4a16_b16", "int2_zpshift"),
    "w4a8_adaround50",
)
# Outputs on 16-bit grids: AIMET rounds halves up and computes in float32, so its own Q/DQ export is up to 5 steps from it too.
STEPS_16_BIT = 6


def files(shared: Path, suffix: str) -> Iterator[tuple[str, Path]]:
    """(configuration, file) of everything AIMET wrote with a suffix."""
    for name in INT_CONFIGURATIONS:
        for path in sorted((shared / "aimet_encodings").glob(f"{name}.{suffix}")):
            yield name, path


def model_of(shared: Path, name: str) -> Graph:
    """The model of a configuration: AdaRound has changed its weights."""
    own = shared / "aimet_encodings" / f"{name}.model.onnx"
    return load(own if own.exists() else shared / "aimet_encodings" / "tiny.onnx")


def entries(document: dict[str, Any]) -> dict[str, Any]:
    """Section and name -> entry."""
    found = {}
    for section in ("activation_encodings", "param_encodings", "encodings"):
        value = document.get(section, {})
        pairs = value.items() if isinstance(value, dict) else ((entry["name"], entry) for entry in value)
        found |= {f"{section}/{name}": entry for name, entry in pairs}
    return found


def assert_same(ours: Any, theirs: Any, where: str) -> None:
    """Equal structure; numbers equal to 1e-6."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{where}/{index}")
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-6), where
    else:
        assert ours == theirs, where


def simulated(shared: Path, graph: Graph, encodings: dict[str, Encoding]) -> Any:
    """The outputs of the Q/DQ graph on AIMET's calibration data."""
    with np.load(shared / "aimet_encodings" / "tiny_calib.npz") as archive:
        samples = archive["x"]
    with OrtModel(insert_qdq(graph, encodings), optimize=False) as model:
        return np.concatenate([model.run({"x": x})["y"] for x in samples])


def assert_simulates(shared: Path, name: str, graph: Graph, encodings: dict[str, Encoding]) -> None:
    """The outputs are within one step of AIMET's simulator (see STEPS_16_BIT for wider grids)."""
    # AIMET's simulator adds biases in float.
    known = {n: e for n, e in encodings.items() if e.dtype != "int32"}
    with np.load(shared / "aimet_encodings" / f"{name}.sim_outputs.npz") as archive:
        theirs = archive[archive.files[0]]
    ours = simulated(shared, graph, known)
    out = known.get("y")
    widest = max((e.bits for n, e in known.items() if not e.is_float and not graph.tensor(n).is_constant), default=16)
    step = 2.0**-10 if out is None or out.is_float else float(out.steps)
    steps = 1 if widest <= 8 else STEPS_16_BIT
    assert np.rint(np.abs(ours - theirs.reshape(ours.shape)) / step).max() <= steps


def test_json_round_trip_and_simulation(shared: Path) -> None:
    """Every file AIMET wrote reads, writes back the same entries, and computes what AIMET computed."""
    count = 0
    for name, path in files(shared, "v*.json"):
        document = json.loads(path.read_text())
        graph = model_of(shared, name)
        read = read_encodings(path, graph)
        assert all(e.origin == "override" for e in read.encodings.values())
        again = json.loads(write_encodings(read.encodings, graph, document["version"]))
        assert_same(entries(again), entries(document), path.name)
        assert_simulates(shared, name, graph, dict(read.encodings))
        count += 1
    assert count == 41


def test_qdq_models(shared: Path) -> None:
    """Q/DQ models AIMET exported give a float graph and encodings that compute what AIMET computed."""
    count = 0
    for name, path in files(shared, "qdq*.onnx"):
        graph, encodings = extract_qdq(load(path))
        assert not [n.op for n in graph.nodes if "Linear" in n.op]
        assert set(encodings) <= set(load(shared / "aimet_encodings" / "tiny.onnx").tensors)
        if "preq" not in path.name:  # those carry quantized biases, which the simulator does not have
            assert_simulates(shared, name, graph, encodings)
        count += 1
    assert count == 24


def test_fp8_is_refused(shared: Path) -> None:
    """A type npukit does not have is named."""
    path = shared / "aimet_encodings" / "fp8_w.v200.json"
    with pytest.raises(EncodingError, match=r"c1_w.*float8e4m3fn"):
        read_encodings(path, model_of(shared, "fp8_w"))


@pytest.fixture
def graph() -> Graph:
    """Conv and Gemm with biases."""
    rng = np.random.default_rng(0)
    nodes = [
        Node("Conv", "conv", ("x", "w", "b"), ("c",)),
        Node("Flatten", "flat", ("c",), ("f",)),
        Node("Gemm", "gemm", ("f", "g"), ("y",)),
    ]
    arrays = {"w": (4, 2, 3, 3), "b": (4,), "g": (64, 32)}
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in arrays.items()}
    return make_graph(nodes, {"x": ("float32", (1, 2, 6, 6))}, ["y"], constants)


def own_encodings(graph: Graph) -> dict[str, Encoding]:
    """One of every kind."""
    w, g = graph.tensor("w").data, graph.tensor("g").data
    assert w is not None
    assert g is not None
    return {
        "x": encoding_for_range(-1, 2, "uint8"),
        "c": encoding_for_range(-4, 4, "uint16"),
        "w": encoding_for_weights(w, "int8", granularity="channel", axis=0),
        "g": encoding_for_weights(g, "int4", granularity="block", axis=0, block_size=16),
        "y": Encoding("float16"),
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_own_round_trip(graph: Graph, version: str) -> None:
    """What npukit writes it reads back to the same grids (2.0.0 leaves float tensors out)."""
    encodings = own_encodings(graph)
    read = read_encodings(write_encodings(encodings, graph, version).encode(), graph).encodings
    expected = {n for n, e in encodings.items() if version != "2.0.0" or not e.is_float}
    assert set(read) == expected
    assert all(read[n].same_grid(encodings[n]) for n in expected)


def test_lpbq(graph: Graph) -> None:
    """LPBQ survives 1.0.0 and 2.0.0, block scales included; 0.6.1 cannot express it and says so."""
    g = graph.tensor("g").data
    assert g is not None
    encodings = {"g": encoding_for_weights(g, "int4", granularity="lpbq", axis=0, block_size=16)}
    for version in ("1.0.0", "2.0.0"):
        read = read_encodings(write_encodings(encodings, graph, version).encode(), graph).encodings["g"]
        assert read.same_grid(encodings["g"])
        assert np.array_equal(read.block_scale, encodings["g"].block_scale)
    with pytest.raises(EncodingError, match=r"'g'.*LPBQ"):
        write_encodings(encodings, graph, "0.6.1")


GOOD = {"name": "x", "dtype": "INT", "bw": 8, "enc_type": "PER_TENSOR", "is_sym": False, "scale": [0.1], "offset": [-3.0]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": [0.1, 0.2]}, "'x'.*2 scales, but 1 offsets"),
        ({"scale": [0.0]}, "'x'.*above 0"),
        ({"scale": "big"}, "'x'"),
        ({"bw": 7}, "'x'.*uint7"),
        ({"enc_type": "PER_MOON"}, "'x'.*PER_MOON"),
        ({"enc_type": "PER_CHANNEL", "name": "w"}, "'w'.*1 scales.*4 channels"),
        ({"offset": [5000.0]}, "'x'.*zero point"),
        ({"name": "z"}, "'z'"),
        ({"scale": None}, "'x'"),
    ],
)
def test_malformed_entries(graph: Graph, change: dict[str, Any], words: str) -> None:
    """A malformed entry is one error that names the tensor and what is wrong."""
    document = {"version": "1.0.0", "activation_encodings": [GOOD | change], "param_encodings": []}
    with pytest.raises(EncodingError, match=words):
        read_encodings(json.dumps(document).encode(), graph)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"version": "3.0"}', "'3.0' is not known"),
        ('{"version": "1.0.0", "activation_encodings": {}}', "must be a list"),
        ('{"version": "0.6.1", "activation_encodings": {"x": {"bitwidth": 8}}}', "'x': a list"),
        ('{"version": "0.6.1", "activation_encodings": {"x": [{"bitwidth": 8}]}}', "'x': the key 'scale' is missing"),
        ('{"version": "2.0.0", "encodings": [{"name": "x", "output_dtype": "uint8", "y_scale": NaN}]}', "NaN"),
        ('{"version": "2.0.0", "encodings": [{"name": "x", "output_dtype": "uint8", "y_scale": [1, 2]}]}', "need an axis"),
        ("[" * 100000, "not valid JSON"),
    ],
)
def test_malformed_files(graph: Graph, text: str, words: str) -> None:
    """A malformed file is one error."""
    with pytest.raises(EncodingError, match=words):
        read_encodings(text.encode(), graph)


def test_lenient(graph: Graph) -> None:
    """Unknown names and activations among the parameters are errors, and tolerated when that is asked for."""
    document = {"version": "1.0.0", "activation_encodings": [GOOD | {"name": "ghost"}], "param_encodings": [GOOD]}
    text = json.dumps(document).encode()
    with pytest.raises(EncodingError, match="param_encodings"):
        read_encodings(text, graph)
    read = read_encodings(text, graph, lenient=True)
    assert read.ignored == ("ghost",)
    assert list(read.encodings) == ["x"]


def test_unreadable(graph: Graph, tmp_path: Path) -> None:
    """A file that is not there is a usage error."""
    with pytest.raises(UsageError, match=r"none\.json"):
        read_encodings(tmp_path / "none.json", graph)


@pytest.mark.parametrize("weights", ["int2", "int3", "int4", "int8", "int16"])
def test_insert_extract(graph: Graph, weights: str) -> None:
    """insert_qdq and extract_qdq are inverse: the same grids, the same weights' codes, the same outputs."""
    encodings = own_encodings(graph)
    w = graph.tensor("w").data
    assert w is not None
    encodings["w"] = encoding_for_weights(w, weights, granularity="channel", axis=0)
    lowered = insert_qdq(graph, encodings)
    assert lowered.outputs == graph.outputs
    again, found = extract_qdq(lowered)
    assert set(found) == set(encodings)
    kinds = {n: e for n, e in encodings.items() if n != "w" or weights not in ("int2", "int3")}  # those are stored in 4 bits
    assert all(found[n].same_grid(e) for n, e in kinds.items())
    feeds = {"x": np.random.default_rng(1).normal(size=(1, 2, 6, 6)).astype(np.float32)}
    with OrtModel(lowered, optimize=False) as a, OrtModel(insert_qdq(again, found), optimize=False) as b:
        assert np.array_equal(a.run(feeds)["y"], b.run(feeds)["y"])
