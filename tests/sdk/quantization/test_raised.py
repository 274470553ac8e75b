"""Overrides that raise the sources of the error: what is written is accepted, helps, and is worth what was said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npukit as nk
from npukit.diagnosis import Raised, compare, raise_sources
from npukit.encoding import encoding_for_weights
from npukit.encoding.formats import read_encodings
from npukit.graph import Graph, Node, make_graph
from npukit.plugins import Registry

RNG = np.random.default_rng(0)
REGISTRY = Registry.load()
DATA = [{"x": RNG.standard_normal((1, 4, 8, 8)).astype(np.float32)} for _ in range(4)]


def chain(*ops: Node, **constants: Any) -> Graph:
    return make_graph(list(ops), {"x": ("float32", (1, 4, 8, 8))}, [ops[-1].outputs[0]], constants)


def weight(*shape: int, scale: float = 1.0) -> Any:
    return (scale * np.random.default_rng(1).standard_normal(shape)).astype(np.float32)


CONV = {"pads": (1, 1, 1, 1)}
CONVS = chain(
    Node("Conv", "one", ("x", "w1"), ("a",), CONV),
    Node("Relu", "relu", ("a",), ("r",)),
    Node("Conv", "two", ("r", "w2"), ("y",), CONV),
    w1=weight(4, 4, 3, 3),
    w2=weight(4, 4, 3, 3),
)
PRELU = chain(
    Node("Conv", "one", ("x", "w1"), ("a",), CONV),
    Node("PRelu", "prelu", ("a", "slope"), ("p",)),
    Node("Conv", "two", ("p", "w2"), ("y",), CONV),
    w1=weight(4, 4, 3, 3),
    slope=np.full((4, 1, 1), 0.25, np.float32),
    w2=weight(4, 4, 3, 3),
)


def raised(graph: Graph, backend: str = "htp", **how: Any) -> Raised:
    return raise_sources(graph, backend, data=DATA, registry=REGISTRY, **how)


@pytest.mark.parametrize("graph", [CONVS, PRELU], ids=["convs", "prelu"])
@pytest.mark.parametrize("backend", ["htp", "htp:v69", "htp:v66"])
@pytest.mark.parametrize("worst", [1, 2, 5])
def test_the_file_is_accepted_and_gains_what_was_said(graph: Graph, backend: str, worst: int, tmp_path: Path) -> None:
    """The next quantization takes the file, strictly, and has the SQNR that was promised: never less than before."""
    found = raised(graph, backend, worst=worst)
    if not found.text:
        assert found.why
        assert found.raised == ()
        return
    (tmp_path / "up.json").write_text(found.text)
    model = nk.quantize(nk.Request(graph, overrides=tmp_path / "up.json"), backend=backend, data=DATA, registry=REGISTRY)
    seen = compare(model, [backend], data=DATA, registry=REGISTRY)
    assert {r.name: r.sqnr[backend] for r in seen.outputs} == pytest.approx(dict(found.after))
    assert found.gain >= 0.5
    assert len(found.layers) <= worst


def test_wider_types_help_where_the_chip_has_them() -> None:
    """The cases above do write files."""
    assert raised(CONVS).gain > 3
    assert raised(PRELU, worst=1).text == raised(PRELU, worst=1).text


def test_the_source_rises_and_not_what_inherits_its_error() -> None:
    """A coarse weight at the start spoils every tensor behind it; it alone is raised."""
    coarse = {"w1": encoding_for_weights(weight(4, 4, 3, 3), "int4", granularity="channel", axis=0)}
    found = raise_sources(nk.Request(CONVS, overrides=coarse), "htp", data=DATA, worst=1, registry=REGISTRY)
    assert found.layers == ("one",)
    assert found.raised == ("w1",)
    assert found.gain > 5
    assert read_encodings(found.text.encode(), CONVS).encodings["w1"].dtype == "int8"


def test_nothing_is_written_where_nothing_is_gained() -> None:
    """A chip without 16 bits; one layer of many that cost as much as it does."""
    assert "accepted" in raised(CONVS, "htp:v66").why
    names = [f"t{index}" for index in range(12)]
    nodes = [Node("Conv", b, (a, "w"), (b,), CONV) for a, b in zip(["x", *names], names, strict=False)]
    found = raised(chain(*nodes, w=weight(4, 4, 3, 3, scale=0.2)), worst=1)
    assert found.text == ""
    assert found.raised == ()
    assert "gain +0." in found.why


def test_what_was_overridden_before_stays_in_the_file() -> None:
    """The file replaces the one before it."""
    before = nk.quantize(CONVS, backend="htp", data=DATA, registry=REGISTRY).encodings["x"]
    found = raise_sources(nk.Request(CONVS, overrides={"x": before}), "htp", data=DATA, worst=1, registry=REGISTRY)
    assert "x" in read_encodings(found.text.encode(), CONVS).encodings
