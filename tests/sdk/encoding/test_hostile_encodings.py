"""Encodings files with anything in any place: they read, or one EncodingError names the tensor."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from npukit.encoding import Encoding, encoding_for_range, encoding_for_weights, fake_quantize
from npukit.encoding.formats import VERSIONS, read_encodings, write_encodings
from npukit.errors import EncodingError
from npukit.graph import Graph, Node, make_graph

SHAPES = {"w": (4, 2, 3, 3), "t": (4, 3, 2, 2), "g": (48, 4), "m": (4, 2)}
HOSTILE = [
    *(
        None,
        True,
        0,
        -1,
        1.5,
        3,
        1e300,
        -1e308,
        2**70,
        10**400,
        "",
        "x",
        "int8",
        "INT",
        "FLOAT",
        "PER_BLOCK",
        "LPBQ",
        "PER_CHANNEL",
    ),
    *([], [1], [[1, 2], [3]], {}, [None], "a\nb"),
]


def model() -> Graph:
    """One op of every kind that has weights."""
    rng = np.random.default_rng(0)
    nodes = [
        Node("Conv", "conv", ("x", "w"), ("c",)),
        Node("ConvTranspose", "up", ("c", "t"), ("u",), {"strides": (2, 2)}),
        Node("MaxPool", "pool", ("u",), ("p",), {"kernel_shape": (2, 2), "strides": (2, 2)}),
        Node("Flatten", "flat", ("p",), ("f",)),
        Node("Gemm", "gemm", ("f", "g"), ("h",)),
        Node("MatMul", "mm", ("h", "m"), ("y",)),
    ]
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    return make_graph(nodes, {"x": ("float32", (1, 2, 6, 6))}, ["y"], constants)


GRAPH = model()


def weight(name: str) -> Any:
    return GRAPH.tensor(name).data


ENCODINGS = {
    "x": encoding_for_range(-1, 2, "uint8"),
    "c": Encoding("float16"),
    "w": encoding_for_weights(weight("w"), "int8", granularity="channel", axis=0),
    "t": encoding_for_weights(weight("t"), "int16", granularity="channel", axis=1),
    "g": encoding_for_weights(weight("g"), "int4", granularity="block", axis=0, block_size=24),
    "m": encoding_for_weights(weight("m"), "int4", granularity="lpbq", axis=0, block_size=2),
    "y": encoding_for_range(-1, 2, "uint16"),
}


def document(version: str) -> Any:
    return json.loads(write_encodings({n: e for n, e in ENCODINGS.items() if version != "0.6.1" or n != "m"}, GRAPH, version))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key and (up to two) list index of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:7] if len(path) < 2 else value[:2])
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, (dict, list)):
            yield from places(inner, (*path, key))


@pytest.mark.parametrize("version", VERSIONS)
def test_own_files_round_trip_through_every_op(version: str) -> None:
    """Channel and block axes follow from the op that reads the weight, in every version."""
    read = read_encodings(json.dumps(document(version)).encode(), GRAPH).encodings
    assert all(read[name].same_grid(ENCODINGS[name]) for name in read)
    assert set(read) == {
        n for n, e in ENCODINGS.items() if not ((n == "m" and version == "0.6.1") or (version == "2.0.0" and e.is_float))
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_any_value_in_any_place(version: str) -> None:
    """Whatever stands anywhere in the file: what reads is usable on its tensor, and the rest is one EncodingError of one line."""
    original = document(version)
    refused = accepted = many_lines = 0
    for path in places(original):
        for value in [*HOSTILE, "DELETE"]:
            changed = copy.deepcopy(original)
            holder = changed
            for key in path[:-1]:
                holder = holder[key]
            if value == "DELETE":
                del holder[path[-1]]
            else:
                holder[path[-1]] = value
            try:
                read = read_encodings(json.dumps(changed).encode(), GRAPH, lenient=True)
            except EncodingError as error:
                many_lines += "\n" in str(error)
                refused += 1
                continue
            accepted += 1
            for name in set(read.encodings) & set(SHAPES):
                assert np.all(np.isfinite(fake_quantize(weight(name), read.encodings[name])))
    assert refused > 300
    assert accepted > 100
    assert not many_lines


@pytest.mark.parametrize(
    ("version", "section", "index", "change", "words"),
    [
        ("0.6.1", "param_encodings", "w", [], "'w': a list of encodings"),
        ("0.6.1", "activation_encodings", "x", [{"dtype": "float", "bitwidth": 8}], "'x': a float of 8 bits"),
        ("1.0.0", "activation_encodings", "x", {"bw": 2**40}, "'x'.*uint1099511627776"),
        ("1.0.0", "activation_encodings", "x", {"scale": [1e300]}, "'x': a scale must be finite"),
        ("1.0.0", "activation_encodings", "x", {"offset": [1e300]}, "'x': zero points"),
        ("1.0.0", "param_encodings", "g", {"block_size": 0}, "'g': a block size is at least 1"),
        ("1.0.0", "param_encodings", "g", {"block_size": 7}, "'g': .* do not fit shape"),
        ("1.0.0", "param_encodings", "m", {"compressed_bw": 5}, "'m': integers of 5 bits"),
        ("1.0.0", "param_encodings", "m", {"per_block_int_scale": [0] * 4}, "'m': a scale must be finite and above 0"),
        ("2.0.0", "encodings", "g", {"block_size": 3}, "'g': blocks of shape"),
        ("2.0.0", "encodings", "g", {"block_size": "16"}, "'g': axis and block size are integers"),
        ("2.0.0", "encodings", "w", {"axis": 9}, "'w': axis 9 does not exist"),
        ("2.0.0", "encodings", "w", {"axis": 1}, "'w': 4 scales do not fit the 2 channels"),
        ("2.0.0", "encodings", "x", {"y_zero_point": 1e300}, "'x': zero points"),
    ],
)
def test_the_error_names_tensor_and_reason(version: str, section: str, index: str, change: Any, words: str) -> None:
    """The one line says which tensor and which value, also for a tensor whose name is a letter of the message."""
    changed = document(version)
    if version == "0.6.1":
        changed[section][index] = change
    else:
        next(e for e in changed[section] if e["name"] == index).update(change)
    with pytest.raises(EncodingError, match=words):
        read_encodings(json.dumps(changed).encode(), GRAPH)


def test_two_entries_for_one_tensor() -> None:
    """A tensor that stands there twice is refused: none of the two wins in silence."""
    changed = document("1.0.0")
    changed["activation_encodings"].append(dict(changed["activation_encodings"][0]))
    with pytest.raises(EncodingError, match="two encodings"):
        read_encodings(json.dumps(changed).encode(), GRAPH)
