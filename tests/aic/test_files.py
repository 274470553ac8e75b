"""The files of the compiler: what they mean, and what is said of wrong ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npukit.backend import Edge
from npukit.errors import UsageError
from npukit.graph import Graph, Node, make_graph
from npukit_aic.files.io_list import read_io_list, write_io_template
from npukit_aic.files.mdp import read_partitions, write_partition_template
from npukit_aic.files.node_precision import read_node_precision
from npukit_aic.files.specializations import read_specializations


@pytest.fixture
def graph() -> Graph:
    """image (1, 3, 4, 4) -> Relu -> Relu -> y, beside ids (int64) that go out again."""
    nodes = [
        Node("Relu", "first", ("image",), ("h",)),
        Node("Relu", "second", ("h",), ("y",)),
        Node("Identity", "same", ("ids",), ("z",)),
    ]
    return make_graph(nodes, {"image": ("float32", (1, 3, 4, 4)), "ids": ("int64", (2,))}, ["y", "z"], {})


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def to_file(text: str) -> Path:
        (tmp_path / "file").write_text(text)
        return tmp_path / "file"

    return to_file


WILD = """# Model Inputs

- IOName: image

  Precision: int8
  Layout: NHWC
  Scale: 0.5
  Offset: -3

# Model Outputs

- IOName: y
  Precision: float16
"""


def test_io_list(graph: Graph, write: Callable[[str], Path]) -> None:
    """Types, layouts and grids of the ends, from a file with headings and blank lines."""
    found = read_io_list(write(WILD), graph)
    assert found.edges == {"image": Edge("int8", "NHWC"), "y": Edge("float16")}
    grid = found.encodings["image"]
    assert (grid.dtype, float(grid.steps), int(np.asarray(grid.zero_point)), grid.origin) == ("int8", 0.5, -3, "override")
    assert read_io_list(write("# nothing\n"), graph).edges == {}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"IOName": "imagee", "Precision": "float"}, "entry 1: the model has no input or output 'imagee' (did you mean 'image'?)"),
        ({"IOName": "image", "Precission": "float"}, "entry 1: 'Precission' is not known (did you mean 'Precision'?)"),
        ({"IOName": "image"}, "entry 1: 'Precision' is missing"),
        ({"IOName": "image", "Precision": "flot16"}, "no Precision 'flot16' (did you mean 'float16'?)"),
        ({"IOName": "image", "Precision": "mxint8"}, "Precision mxint8 is not emulated"),
        ({"IOName": "ids", "Precision": "float16"}, "'ids' is int64, only float ends"),
        ({"IOName": "image", "Precision": "int8", "Scale": 1.0}, "needs Scale and Offset, found Scale"),
        ({"IOName": "image", "Precision": "int8", "Scale": 0, "Offset": 0}, "Scale is a number above 0, found 0"),
        ({"IOName": "image", "Precision": "int8", "Scale": 1, "Offset": 128}, "Offset is a whole number in -128..127, found 128"),
        ({"IOName": "image", "Precision": "float", "Scale": 1.0}, "Scale is for Precision int8"),
        ({"IOName": "image", "Precision": "float", "Layout": "NWHC"}, "no Layout 'NWHC'"),
        ("image", "entry 1 is text, not a mapping"),
    ],
)
def test_io_list_says_what_is_wrong(graph: Graph, write: Callable[[str], Path], entry: Any, message: str) -> None:
    path = write(yaml.safe_dump([entry]))
    with pytest.raises(UsageError) as caught:
        read_io_list(path, graph)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_io_template_is_read_back(graph: Graph, tmp_path: Path) -> None:
    write_io_template(tmp_path / "io.yaml", graph)
    assert read_io_list(tmp_path / "io.yaml", graph).edges == {"image": Edge("float32"), "y": Edge("float32")}
    assert "Layout: NCHW" in (tmp_path / "io.yaml").read_text()


def test_node_precision(write: Callable[[str], Path]) -> None:
    """Lists in both styles; numbers that are names of tensors."""
    found = read_node_precision(write("FP16NodeInstanceNames: [h, 123]\nFP32NodeInstanceNames:\n - y\nenableFP32Bias: true\n"))
    assert found.types == {"h": "float16", "123": "float16", "y": "float32"}
    assert found.wide_bias
    assert read_node_precision(write("FP16NodeInstanceNames:\n")).types == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FP16NodeInstanceName: [h]", "'FP16NodeInstanceName' is not known (did you mean 'FP16NodeInstanceNames'?)"),
        ("{FP16NodeInstanceNames: [h], FP32NodeInstanceNames: [h]}", "'h' is in FP16NodeInstanceNames and in FP32Node"),
        ("FP16NodeInstanceNames: h", "FP16NodeInstanceNames is text, not a list"),
        ("FP16NodeInstanceNames: [[h]]", "FP16NodeInstanceNames has a list where"),
        ("enableFP32Bias: 3", "enableFP32Bias is true or false, found 3"),
        ("- h", "is a list, not a mapping"),
        ("{", "is not YAML"),
    ],
)
def test_node_precision_says_what_is_wrong(write: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_node_precision(write(text))
    assert message in str(caught.value)


def test_specializations_in_both_forms(write: Callable[[str], Path]) -> None:
    rows = [{"batch": "1", "seq": "32"}, {"batch": "1", "seq": 1}]
    expected = ({"batch": 1, "seq": 32}, {"batch": 1, "seq": 1})
    assert read_specializations(write(json.dumps({"specializations": rows}))) == expected
    named = {"prefill": rows[0], "decode": rows[1], "again": rows[1]}
    assert read_specializations(write(json.dumps({"specializations": named}))) == expected
    listed = [{"name": name, "symbols": row} for name, row in named.items()]
    assert read_specializations(write(json.dumps({"specializations": listed}))) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"specialization": []}, "'specialization' is not known (did you mean 'specializations'?)"),
        ({"specializations": []}, "'specializations' is empty"),
        ({"specializations": [{"a": "x"}]}, "specializations[0]: 'a' is a whole number above 0, found 'x'"),
        ({"specializations": [{"a": "9" * 5000}]}, "'a' is a whole number above 0, found '999"),
        ({"specializations": [{"a": 0}]}, "'a' is a whole number above 0, found 0"),
        ({"specializations": {"one": {"a": True}}}, "specializations['one']: 'a' is a whole number above 0"),
        ({"specializations": [{"a": 1}, {"b": 2}]}, "specializations[0]: 'b' is missing, which others have"),
        ({"specializations": [3]}, "specializations[0] is 3"),
    ],
)
def test_specializations_say_what_is_wrong(write: Callable[[str], Path], content: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_specializations(write(json.dumps(content)))
    assert message in str(caught.value)


def test_partitions(graph: Graph, write: Callable[[str], Path], tmp_path: Path) -> None:
    parts = [
        {"name": "a", "devices": [{"deviceId": 0, "numCores": 4}], "nodeList": ["first", "z"]},
        {"name": "b", "devices": [{"deviceId": 1, "numCores": 2}], "nodeList": ["y"]},
    ]
    content = {"connections": [{"devices": [0, 1], "type": "p2p"}], "partitions": parts}
    found = read_partitions(write(json.dumps(content)), graph, devices=(0, 1), cores=14)
    assert found.links == ((0, 1),)
    assert [(p.name, p.devices) for p in found.parts] == [("a", {0: 4}), ("b", {1: 2})]
    write_partition_template(tmp_path / "parts.json", graph, 3)
    (part,) = read_partitions(tmp_path / "parts.json", graph, devices=(0,), cores=14).parts
    assert part.devices == {0: 3}
    assert part.nodes == ("first", "second", "same")


def _parts(*nodes: list[str], device: int = 0, cores: int = 1) -> dict[str, Any]:
    devices = [{"deviceId": device, "numCores": cores}]
    return {"partitions": [{"name": f"p{i}", "devices": devices, "nodeList": n} for i, n in enumerate(nodes)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_parts([], device=9), "partitions[0], devices[0]: there is no device 9"),
        (_parts([], cores=15), "numCores of device 0 is 1..14, found 15"),
        (_parts(["first", "second"], ["same", "first"]), "node 'first' (Relu) is in 2 node lists"),
        (_parts(["first", "h", "second", "same"]), "node 'first' (Relu) is in 2 node lists"),
        (_parts(["first", "second"]), "node 'same' (Identity) is in 0 node lists"),
        (_parts(["frist"]), "no node 'frist' (did you mean 'first'?)"),
        (_parts([], []), "2 partitions without a nodeList"),
        ({"partitions": [{"name": "a", "device": []}]}, "'device' is not known (did you mean 'devices'?)"),
        ({"partitions": [], "connections": []}, "partitions is empty"),
        ({**_parts([]), "connections": [{"devices": [0], "type": "pcie"}]}, "type is p2p, found 'pcie'"),
    ],
)
def test_partitions_say_what_is_wrong(graph: Graph, write: Callable[[str], Path], content: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_partitions(write(json.dumps(content)), graph, devices=(0, 1), cores=14)
    assert message in str(caught.value)


_WORDS = st.sampled_from(["image", "y", "ids", "first", "int8", "float16", "NHWC", "p2p", "1", ""]) | st.text(max_size=3)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | _WORDS
_JUNK = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3), max_leaves=6)


def _some(**fields: Any) -> Any:
    """A mapping whose values are right, or junk."""
    return st.fixed_dictionaries({}, optional={name: value | _JUNK for name, value in fields.items()})


_END = _some(IOName=_WORDS, Precision=_WORDS, Layout=_WORDS, Scale=st.floats(), Offset=st.integers(-200, 200))
_NODES = _some(FP16NodeInstanceNames=st.lists(_WORDS), FP32NodeInstanceNames=st.lists(_WORDS), enableFP32Bias=st.booleans())
_SIZES = st.dictionaries(_WORDS, st.integers() | _WORDS, max_size=3)
_DEVICE = _some(deviceId=st.integers(-1, 2), numCores=st.integers(0, 20))
_PART = _some(name=_WORDS, devices=st.lists(_DEVICE, max_size=2), nodeList=st.lists(_WORDS, max_size=3))
_LINK = _some(type=_WORDS, devices=st.lists(st.integers(0, 2), max_size=2))
_FILES = (
    st.lists(_END, max_size=3)
    | _NODES
    | _some(
        specializations=st.lists(_SIZES | _some(name=_WORDS, symbols=_SIZES), max_size=3)
        | st.dictionaries(_WORDS, _SIZES, max_size=3)
    )
    | _some(partitions=st.lists(_PART, max_size=2), connections=st.lists(_LINK, max_size=2))
    | _JUNK
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_FILES)
def test_whatever_a_file_says_there_is_one_line(graph: Graph, write: Callable[[str], Path], content: Any) -> None:
    path = write(json.dumps(content))
    readers: list[Callable[[], Any]] = [
        lambda: read_io_list(path, graph),
        lambda: read_node_precision(path),
        lambda: read_specializations(path),
        lambda: read_partitions(path, graph, devices=(0, 1), cores=14),
    ]
    for read in readers:
        said = _said(read)
        assert not said or (str(path) in said and "\n" not in said)


def _said(read: Callable[[], Any]) -> str:
    try:
        read()
    except UsageError as error:
        return str(error)
    return ""
