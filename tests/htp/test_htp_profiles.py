"""Arithmetic profiles: float islands compute in float16 from v73 on, in float32 before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from npukit.encoding import Array, Encoding, encoding_for_range, quantize
from npukit.graph import Graph, Node, make_graph
from npukit_htp.backend import HtpBackend
from npukit_htp.profile import FLOAT_ISLANDS, profile_of

SHAPE = (4, 64)
IN, OUT = encoding_for_range(-1, 1, "uint16"), encoding_for_range(-2, 2, "uint16")


def run(graph: Graph, encodings: Mapping[str, Encoding], feeds: Mapping[str, Array], soc: str) -> dict[str, Array]:
    backend = HtpBackend()
    with backend.open(backend.compile(graph, encodings, backend.soc(soc))) as session:
        return session.run(feeds)


@pytest.fixture
def x() -> Array:
    return np.random.default_rng(3).uniform(-1, 1, SHAPE).astype(np.float32)


def codes(values: Array, encoding: Encoding) -> Array:
    return np.asarray(quantize(values, encoding), np.int64)


def test_profiles_split_at_v73() -> None:
    """v66 to v69 are one family, v73 to v81 the other."""
    backend = HtpBackend()
    families = {soc.arch: profile_of(soc).float_dtype for soc in backend.socs()}
    assert {arch for arch, kind in families.items() if kind == "float32"} == {"v66", "v68", "v69"}
    assert {"v73", "v75", "v79", "v81"} <= {arch for arch, kind in families.items() if kind == "float16"}


def test_a_reshape_that_requantizes_goes_through_float16(x: Array) -> None:
    """On v73 the result is the input rounded to float16, then to the grid; on v68 rounded to the grid only."""
    node = Node("Reshape", "r", ("x", "shape"), ("y",))
    graph = make_graph([node], {"x": ("float32", SHAPE)}, ["y"], {"shape": np.array([64, 4])})
    grids = {"x": IN, "y": OUT}
    rounded = (codes(x, IN) - int(IN.zeros)).astype(np.float32) * np.float32(IN.steps)
    old, new = (codes(run(graph, grids, {"x": x}, soc)["y"], OUT) for soc in ("v68", "v79"))
    np.testing.assert_array_equal(old.ravel(), codes(rounded, OUT).ravel())
    np.testing.assert_array_equal(new.ravel(), codes(rounded.astype(np.float16).astype(np.float32), OUT).ravel())
    assert (old != new).any()


def test_a_reshape_on_one_grid_is_exact(x: Array) -> None:
    """Without a change of grid nothing is rounded on any chip."""
    node = Node("Reshape", "r", ("x", "shape"), ("y",))
    graph = make_graph([node], {"x": ("float32", SHAPE)}, ["y"], {"shape": np.array([64, 4])})
    old, new = (run(graph, {"x": IN, "y": IN}, {"x": x}, soc)["y"] for soc in ("v68", "v79"))
    np.testing.assert_array_equal(old, new)


def test_topk_rounds_values_and_keeps_indices(x: Array) -> None:
    """Values pass through float16, the order and the indices are those of the given values."""
    node = Node("TopK", "t", ("x", "k"), ("y", "i"))
    graph = make_graph([node], {"x": ("float32", SHAPE)}, ["y", "i"], {"k": np.array([5])})
    old, new = (run(graph, {"x": IN, "y": IN}, {"x": x}, soc) for soc in ("v68", "v79"))
    np.testing.assert_array_equal(old["i"], new["i"])
    np.testing.assert_array_equal(codes(new["y"], IN), codes(old["y"].astype(np.float16).astype(np.float32), IN))
    assert (new["y"] != old["y"]).any()


@pytest.mark.parametrize("op", ["Selu", "Tan", "ThresholdedRelu"])
def test_float_models_are_left_alone(op: str, x: Array) -> None:
    """A model without grids has no islands: both families give the float32 result of the kernel."""
    attributes = {"alpha": 0.5} if op == "ThresholdedRelu" else {}
    graph = make_graph([Node(op, "n", ("x",), ("y",), attributes)], {"x": ("float32", SHAPE)}, ["y"])
    old, new = (run(graph, {}, {"x": x}, soc)["y"] for soc in ("v68", "v79"))
    np.testing.assert_array_equal(old, new)
    grids = {"x": IN, "y": encoding_for_range(float(old.min()), float(old.max()), "uint16")}
    assert op in FLOAT_ISLANDS
    old, new = (run(graph, grids, {"x": x}, soc)["y"] for soc in ("v68", "v79"))
    assert (old != new).any()
