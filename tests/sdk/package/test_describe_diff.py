"""What is in a model, and what differs between two."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

from npukit.encoding import Encoding
from npukit.graph import Graph, Node, Tensor, make_graph
from npukit.package import Manifest, Package, describe, diff_packages
from npukit.report import diff_text, info_text


def weights(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("node", "shape", "constants", "macs"),
    [
        (Node("Conv", "n", ("x", "w"), ("y",)), (1, 4, 8, 8), {"w": weights(6, 4, 3, 3)}, 6 * 36 * 36),
        (Node("Conv", "n", ("x", "w"), ("y",), {"group": 4}), (1, 4, 8, 8), {"w": weights(8, 1, 3, 3)}, 8 * 36 * 9),
        (Node("ConvTranspose", "n", ("x", "w"), ("y",), {"group": 2}), (1, 4, 5, 5), {"w": weights(4, 3, 2, 2)}, 100 * 12),
        (Node("Gemm", "n", ("x", "w"), ("y",), {"transB": 1}), (3, 5), {"w": weights(7, 5)}, 3 * 5 * 7),
        (Node("MatMul", "n", ("x", "w"), ("y",)), (2, 3, 4, 5), {"w": weights(5, 6)}, 2 * 3 * 4 * 5 * 6),
        (Node("Relu", "n", ("x",), ("y",)), (2, 3), {}, 0),
        (Node("MatMul", "n", ("x", "w"), ("y",)), ("n", 5), {"w": weights(5, 6)}, 30),
        (Node("Einsum", "n", ("x", "w"), ("y",), {"equation": "bij,jk->bik"}), (2, 3, 4), {"w": weights(4, 5)}, 120),
        (
            Node("LSTM", "n", ("x", "w", "r"), ("y",), {"hidden_size": 6}),
            (7, 2, 5),
            {"w": weights(1, 24, 5), "r": weights(1, 24, 6)},
            7 * 2 * 24 * (5 + 6),
        ),
    ],
)
def test_macs(node: Node, shape: tuple[Any, ...], constants: dict[str, Any], macs: int) -> None:
    """Multiply-accumulates by hand; an open batch counts as one."""
    graph = make_graph([node], {"x": ("float32", shape)}, ["y"], constants)
    assert describe(graph).macs == macs


def model() -> Graph:
    nodes = [Node("MatMul", "mm", ("x", "w"), ("h",)), Node("Relu", "r", ("h",), ("y",))]
    return make_graph(nodes, {"x": ("float32", (1, 4))}, ["y"], {"w": weights(4, 3)})


def test_describe() -> None:
    """Types are spelled as the vendor does, parameters and stored bytes follow the encodings."""
    encodings = {"x": Encoding("uint8", 0.1), "w": Encoding("int4", [0.1, 0.2, 0.3], axis=1), "y": Encoding("float16")}
    info = describe(model(), encodings, Manifest("htp", "SM8750"))
    first = info.layers[0]
    assert [t.type for t in (*first.inputs, *first.outputs)] == ["uFxp_8", "sFxp_4", "Float_32"]
    assert info.outputs[0].type == "Float_16"
    assert (info.parameters, info.weight_bytes, info.macs_by_type) == (12, 6, {"uFxp_8 x sFxp_4": 12})
    text = info_text(info)
    assert "uFxp_8" in text
    assert "made for htp:SM8750" in text


def test_diff() -> None:
    """Every kind of difference is found, and a package does not differ from itself."""
    graph = model()
    one = Package(Manifest("htp", "SM8750"), graph, {"x": Encoding("uint8", 0.1)})
    assert diff_packages(one, one) == ()
    assert diff_text(()) == "no differences"
    changed = graph.with_tensors([Tensor.constant("w", weights(4, 3) + 1), attrs.evolve(graph.tensor("y"), shape=(1, 9))])
    relu = attrs.evolve(changed.nodes[1], op="Sigmoid")
    extra = Node("Relu", "more", ("y",), ("z",))
    changed = changed.evolve(nodes=(changed.nodes[0], relu, extra), outputs=("z",)).with_tensors([Tensor("z", "float32", (1, 9))])
    found = diff_packages(one, Package(Manifest("aic", "SM8750"), changed, {"x": Encoding("uint8", 0.2)}))
    assert {d.kind for d in found} == {"manifest", "layer", "attribute", "output", "shape", "weight", "encoding"}
    assert "12 of 12 values differ" in diff_text(found)


def test_unknown_macs() -> None:
    """An op outside the standard domain has an unknown cost, and the total says that it is a lower bound."""
    graph = model()
    graph = graph.evolve(nodes=(graph.nodes[0], attrs.evolve(graph.nodes[1], domain="custom")))
    info = describe(graph)
    assert [layer.macs for layer in info.layers] == [12, None]
    assert "at least 12 MACs" in info_text(info)


def test_hostile_names() -> None:
    """Escape sequences in the manifest do not reach the terminal."""
    text = info_text(describe(model(), {}, Manifest("htp", history=("\x1b[2J",), source_name="\x1b[31m")))
    assert "\x1b" not in text


def test_diff_of_nan() -> None:
    """NaN weights equal themselves; a subgraph that differs is seen."""
    graph = model().with_tensors([Tensor.constant("w", np.full((4, 3), np.nan, np.float32))])
    one = Package(Manifest(), graph, {})
    assert diff_packages(one, one) == ()
    body = model()
    other = body.evolve(nodes=(body.nodes[0], attrs.evolve(body.nodes[1], op="Sigmoid")))
    first, second = (
        Package(Manifest(), graph.evolve(nodes=(attrs.evolve(graph.nodes[0], attributes={"body": inner}),)), {})
        for inner in (body, other)
    )
    assert [(d.name, d.first, d.second) for d in diff_packages(first, second)] == [("mm: body: r: op", "Relu", "Sigmoid")]


def test_differences_read_differently() -> None:
    """Options are compared one by one, and grids that print alike say what differs."""
    grids = [Encoding("int8", [0.1, 0.2, scale], axis=1) for scale in (0.15, 0.16)]
    manifests = [Manifest("htp", "SM8750", options={"limit": limit, "strict": True}) for limit in (None, 2)]
    first, second = (Package(m, model(), {"w": e}) for m, e in zip(manifests, grids, strict=True))
    found = {d.name: (d.first, d.second) for d in diff_packages(first, second)}
    assert found["options: limit"] == ("-", "2")
    assert found["w"][0] != found["w"][1]
    assert "1 of 3 values differ" in found["w"][1]
    assert set(found) == {"options: limit", "w"}
