"""Tables, numbers and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npukit.report import count, decibels, number, percent, shape, size, table, to_json


def test_table_aligns() -> None:
    """Text is left-aligned, columns of numbers right-aligned, and a cell with two lines takes two lines."""
    lines = table(["name", "dB"], [("a", 1.5), ("long", 40.25), ("x\ny", None)]).splitlines()
    assert lines == ["name     dB", "----  -----", "a       1.5", "long  40.25", "x         -", "y"]


@given(st.lists(st.tuples(st.text(max_size=60), st.text(max_size=60), st.integers()), max_size=5), st.integers(40, 80))
def test_table_width(rows: list[tuple[Any, ...]], width: int) -> None:
    """No line is wider than asked, and nothing but printable characters comes out."""
    lines = table(["first", "second", "third"], rows, width=width).split("\n")
    assert all(len(line) <= width for line in lines)
    assert all(line.isprintable() for line in lines)


def test_table_is_whole_when_piped() -> None:
    """Without a terminal nothing is cut; with a width the start and the end of a name stay."""
    name = "layer" + "x" * 200 + "conv"
    assert name in table(["name"], [(name,)])
    assert table(["name"], [(name,)], width=20).splitlines()[2] == "layerxxxx..xxxxxconv"


def test_table_refuses_ragged_rows() -> None:
    """A row of another length is an error of the caller."""
    with pytest.raises(ValueError, match="1 cells for 2 headers"):
        table(["a", "b"], [("x",)])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (count(999), "999"),
        (count(1234), "1.23k"),
        (count(999_600), "1M"),
        (count(8_000_000), "8M"),
        (count(None), "?"),
        (size(12_345_678), "12.3 MB"),
        (size(12), "12 B"),
        (decibels(41.26), "41.3 dB"),
        (percent(0.1234), "12.34%"),
        (number(True), "True"),
        (number(0.1 + 0.2), "0.3"),
        (number(float("nan")), "nan"),
        (shape(("n", 3, None)), "[n,3,?]"),
        (shape(None), "?"),
    ],
)
def test_numbers(text: str, wanted: str) -> None:
    """Numbers as people read them."""
    assert text == wanted


@attrs.frozen
class Point:
    x: float
    _hidden: int = 0


def test_to_json() -> None:
    """Classes, arrays of every type, NaN, sets, paths and bytes become strict JSON; what has no form is a TypeError."""
    given_ = {"p": Point(float("inf")), 2: np.array([1.5, np.nan]), "s": {"b", "a"}, "f": Path("a/b"), "r": b"\xff"}
    data = to_json({**given_, "h": np.array([1, 2], ml_dtypes.bfloat16), "i": np.int64(3)})
    assert json.loads(json.dumps(data, allow_nan=False)) == {
        "p": {"x": None},
        "2": [1.5, None],
        "s": ["a", "b"],
        "f": "a/b",
        "r": "\\xff",
        "h": [1.0, 2.0],
        "i": 3,
    }
    with pytest.raises(TypeError, match="object"):
        to_json(object())
