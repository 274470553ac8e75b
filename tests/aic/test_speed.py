"""The speed model: its terms, its options, its constants."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npukit.backend import Edge, Soc, count_costs, total
from npukit.encoding import Encoding
from npukit.errors import UsageError
from npukit.graph import Graph, Node, make_graph
from npukit.package import Manifest, Package
from npukit_aic import speed
from npukit_aic.backend import AicBackend
from npukit_aic.speed import Card, Estimate

SOCS = {soc.name: soc for soc in AicBackend().socs()}
STANDARD = speed.card_of(SOCS["Standard"])


def zeros(*shape: int) -> Any:
    """Weights that take no memory."""
    return np.broadcast_to(np.float32(0), shape)


def dense(layers: int = 4, width: int = 512, batch: int = 8) -> Graph:
    """``layers`` products with a Relu behind each, (batch, width) to the same; each has 2 x width^2 bytes of weights in float16."""
    nodes = []
    for i in range(layers):
        nodes += [Node("MatMul", f"m{i}", (f"x{i}", f"w{i}"), (f"h{i}",)), Node("Relu", f"r{i}", (f"h{i}",), (f"x{i + 1}",))]
    weights = {f"w{i}": zeros(width, width) for i in range(layers)}
    return make_graph(nodes, {"x0": ("float32", (batch, width))}, [f"x{layers}"], weights)


def image(channels: int = 64, size: int = 56, *, group: int = 1, op: str = "Relu", batch: int = 1, layers: int = 1) -> Graph:
    """3 x 3 convolutions with ``op`` behind each, then the mean of each channel."""
    attributes = {"group": group, "pads": (1, 1, 1, 1), "kernel_shape": (3, 3)}
    nodes, last = [], "x"
    for i in range(layers):
        nodes += [Node("Conv", f"conv{i}", (last, "w"), (f"h{i}",), attributes), Node(op, f"act{i}", (f"h{i}",), (f"a{i}",))]
        last = f"a{i}"
    nodes.append(Node("GlobalAveragePool", "mean", (last,), ("y",)))
    weights = {"w": zeros(channels, channels // group, 3, 3)}
    return make_graph(nodes, {"x": ("float32", (batch, channels, size, size))}, ["y"], weights)


def of(graph: Graph, card: str = "Standard", kind: str = "float16", **settings: Any) -> Estimate:
    types = {node.name: kind for node in graph.nodes}
    return speed.estimate(graph, {}, types, SOCS[card], settings)


def int8(graph: Graph) -> dict[str, Encoding]:
    return {n: Encoding("int8", 1.0, 0) for n, t in graph.tensors.items() if t.is_float}


def row(found: Estimate, node: str) -> speed.Row:
    return next(r for r in found.rows if r.work.node == node)


# The terms, against figures worked out by hand.


def test_products_run_at_a_share_of_the_documented_peak() -> None:
    macs = 64 * 64 * 9 * 56 * 56
    share = 0.6 * 110e12 / 14
    assert row(of(image()), "conv0").t_mac == pytest.approx(2 * macs / share)
    assert row(of(image(), aic_num_cores=7), "conv0").t_mac == pytest.approx(2 * macs / (7 * share))
    assert row(of(image(), "Pro"), "conv0").t_mac == pytest.approx(2 * macs / (0.6 * 125e12 / 16))


def test_each_type_has_its_own_rate() -> None:
    graph = image()
    half = row(of(graph), "conv0")
    types = {node.name: "int" for node in graph.nodes}
    byte = row(speed.estimate(graph, int8(graph), types, SOCS["Standard"], {}), "conv0")
    wide = {n: Encoding("int16", 1.0, 0) for n in int8(graph)}
    word = row(speed.estimate(graph, wide, types, SOCS["Standard"], {}), "conv0")
    full = row(of(graph, kind="float32"), "conv0")
    assert half.t_mac / byte.t_mac == pytest.approx(325 / 110)
    assert (byte.work.precision, word.work.precision, word.t_mac) == ("int8", "int16", half.t_mac)
    assert full.t_mac == 0
    assert full.t_vec == pytest.approx(64 * 64 * 9 * 56 * 56 / (128 * 1.233e9))
    assert (byte.work.weights, half.work.weights, full.work.weights) == (64 * 64 * 9, 2 * 64 * 64 * 9, 4 * 64 * 64 * 9)


def test_the_vector_unit_takes_elements_and_depthwise_products() -> None:
    found = of(image(group=64, op="Sigmoid"))
    assert row(found, "conv0").work.kind == "depthwise"
    assert row(found, "conv0").t_mac == 0
    assert row(found, "conv0").t_vec == pytest.approx(64 * 9 * 56 * 56 / (256 * 1.233e9))
    assert row(found, "act0").t_vec == pytest.approx(16 * 64 * 56 * 56 / (256 * 1.233e9))


def test_groups_of_several_channels_and_a_single_channel_stay_on_the_tensor_unit() -> None:
    assert row(of(image(group=8)), "conv0").work.kind == "conv"
    assert row(of(image(1)), "conv0").work.kind == "conv"


def test_pools_and_reductions_count_what_they_read() -> None:
    nodes = [
        Node("MaxPool", "pool", ("x",), ("p",), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
        Node("GlobalAveragePool", "mean", ("p",), ("y",)),
    ]
    found = of(make_graph(nodes, {"x": ("float32", (1, 4, 8, 8))}, ["y"]))
    assert (row(found, "pool").work.elements, row(found, "mean").work.elements) == (4 * 4 * 4 * 9, 4 * 4 * 4)


def test_views_shapes_and_fused_activations_cost_nothing() -> None:
    fused = of(image())
    assert (row(fused, "act0").work.kind, row(fused, "act0").seconds) == ("free", 0)
    assert row(of(image(op="Sigmoid")), "act0").work.kind == "vector"
    nodes = [Node("Shape", "shape", ("x",), ("s",)), Node("Reshape", "view", ("x", "s"), ("y",))]
    found = of(make_graph(nodes, {"x": ("float32", (2, 3))}, ["y"]))
    assert [r.seconds for r in found.rows[:2]] == [0, 0]


def test_an_activation_that_two_read_is_not_fused() -> None:
    nodes = [
        Node("Conv", "conv", ("x", "w"), ("h",)),
        Node("Relu", "act", ("h",), ("r",)),
        Node("Add", "sum", ("h", "r"), ("y",)),
    ]
    graph = make_graph(nodes, {"x": ("float32", (1, 4, 8, 8))}, ["y"], {"w": zeros(4, 4, 1, 1)})
    assert row(of(graph), "act").work.kind == "vector"


def test_weights_that_fit_stay_and_others_stream() -> None:
    fits, streams = of(dense(4, 512)), of(dense(4, 1536))  # 2 MB and 19 MB for 8.3 MB
    assert fits.resident
    assert sum(r.ddr_bytes for r in fits.rows) == 0
    assert not streams.resident
    assert row(streams, "m0").ddr_bytes == 2 * 1536**2
    assert row(streams, "m0").t_ddr == pytest.approx(2 * 1536**2 / (0.85 * 137e9))
    assert of(dense(4, 1536), aic_num_cores=4).resident


def test_weights_that_fit_stream_where_that_moves_less() -> None:
    """8 MB of weights leave no room for 5.6 MB of activations; streamed one layer at a time they do."""
    found = of(dense(4, 995, 1400))
    assert not found.resident
    assert sum(r.ddr_bytes for r in found.rows) == 4 * 2 * 995**2


def test_copies_of_the_weights_are_streamed_one_by_one() -> None:
    once = row(of(BIG, aic_num_cores=5, mos=5), "m0").ddr_bytes
    assert row(of(BIG, aic_num_cores=5, mos=2), "m0").ddr_bytes == 3 * once


def test_cores_exchange_what_layers_with_weights_read() -> None:
    moved = 64 * 2048 * 2
    assert row(of(BIG, aic_num_cores=4, mos=1), "m0").t_noc == 0
    assert row(of(BIG, aic_num_cores=4), "m0").t_noc == pytest.approx(0.75 * moved / 186e9)
    depthwise = of(DEPTHWISE, aic_num_cores=4)
    assert {r.t_noc for r in depthwise.rows} == {0}


def test_what_activations_share_is_a_ceiling() -> None:
    streams = of(dense(4, 4096, 1), num_activations=14, set_size=100)
    bytes_per_run = sum(r.ddr_bytes for r in streams.rows)
    assert streams.rate == pytest.approx(0.85 * 137e9 / bytes_per_run)
    exchanged = of(dense(12, 2048, 64), aic_num_cores=2, num_activations=7)
    assert exchanged.ceilings["noc"] == pytest.approx(64 / (12 * 0.5 * 64 * 2048 * 2 / 186e9))
    assert of(image(3, 224), host_preproc=True).ceilings["host"] == pytest.approx(40e9 / (602112 + 12))


def test_only_the_rows_of_a_table_that_are_picked_cross_the_ddr() -> None:
    graph = make_graph(
        [Node("Gather", "words", ("table", "ids"), ("y",))], {"ids": ("int64", (1, 8))}, ["y"], {"table": zeros(30000, 768)}
    )
    found = of(graph)
    assert found.resident
    assert row(found, "words").ddr_bytes == 8 * 768 * 2


def test_the_host_link_carries_what_callers_hand_over() -> None:
    graph = image(3, 224)
    encodings, types = int8(graph), {node.name: "int" for node in graph.nodes}
    full = speed.estimate(graph, encodings, types, SOCS["Standard"], {})
    codes = speed.estimate(graph, encodings, types, SOCS["Standard"], {}, {"x": Edge("int8"), "y": Edge("int8")})
    assert full.ceilings["host link"] == pytest.approx(13e9 / (602112 + 12))
    assert codes.ceilings["host link"] == pytest.approx(13e9 / (150528 + 3))


def test_a_batch_counts_as_its_samples() -> None:
    one, eight = of(image(batch=1)), of(image(batch=8))
    assert (one.batch, eight.batch) == (1, 8)
    assert eight.ceilings["host link"] == pytest.approx(one.ceilings["host link"])
    assert row(eight, "conv0").t_mac == pytest.approx(8 * row(one, "conv0").t_mac)
    assert eight.rate >= one.rate


def test_the_latency_follows_from_the_rate() -> None:
    found = of(dense(8, 1024), num_activations=3, set_size=4)
    assert found.latency == pytest.approx(3 * 4 * found.batch / found.rate)
    tiny = of(image(4, 8), set_size=1)
    assert (tiny.latency, tiny.bound) == (pytest.approx(0.40e-3), "floor")


@pytest.mark.parametrize(
    ("graph", "settings", "bound"),
    [
        (image(3, 224), {"aic_num_cores": 14}, "host link"),
        (dense(4, 4096, 1), {"aic_num_cores": 1, "num_activations": 14}, "ddr"),
        (image(512, 56), {}, "compute"),
        (image(64, 56, group=64, op="Sigmoid", layers=20), {}, "vector"),
        (image(4, 8), {"set_size": 1}, "floor"),
        (dense(1000, 8), {}, "overhead"),
    ],
)
def test_the_bound_is_named(graph: Graph, settings: dict[str, Any], bound: str) -> None:
    assert of(graph, **settings).bound == bound


def test_what_is_not_known_is_named_and_counts_as_nothing() -> None:
    node = Node("Mystery", "odd", ("x",), ("y",), domain="com.example")
    graph = make_graph([node, Node("Relu", "after", ("y",), ("z",))], {"x": ("float32", (1, 4))}, ["z"])
    found = of(graph)
    assert found.unknown == ("odd", "after")
    costs = speed.op_costs(graph, {}, {}, SOCS["Standard"], {})
    assert costs[0].us is None


def test_costs_for_bench_have_a_time_per_node() -> None:
    graph = dense()
    types = {node.name: "float16" for node in graph.nodes}
    costs = speed.op_costs(graph, {}, types, SOCS["Standard"], {"aic_num_cores": 2})
    found = of(graph, aic_num_cores=2)
    assert [c.node for c in costs] == [n.name for n in graph.nodes]
    assert [c.macs for c in costs] == [c.macs for c in count_costs(graph, {})]
    assert total(costs).us == pytest.approx(1e6 * sum(r.seconds for r in found.rows if r.work.kind != "convert"))


def test_a_package_is_estimated_as_its_callers_use_it() -> None:
    """One of its specializations, what its nodes compute in, what callers hand over, its card."""
    graph = make_graph([Node("MatMul", "m", ("x", "w"), ("y",))], {"x": ("float32", ("n", 64))}, ["y"], {"w": zeros(64, 64)})
    edges, sizes = {"x": Edge("float16")}, ({"n": 4}, {"n": 8})
    manifest = Manifest(backend="aic", soc="Pro", settings={"convert_to_fp16": True})
    package = Package(manifest, graph, {}, {}, edges, sizes)
    found = speed.estimate_package(package, {"num_activations": 16})
    assert (found.batch, row(found, "m").work.precision) == (4, "float16")
    assert found.ceilings["host link"] == pytest.approx(13e9 / (2 * 64 + 4 * 64))
    assert speed.estimate_package(package, {}, shapes=1).batch == 8
    forced = speed.estimate_package(attrs.evolve(package, types={"m": "float32"}), {})
    assert row(forced, "m").work.precision == "float32"


# The options. Each changes the figure that it is about, in the direction that the model promises.

BIG = dense(12, 2048, 64)  # 100 MB of weights
WIDE = image(64, 448, layers=4)  # 26 MB from layer to layer
DEPTHWISE = image(64, 56, group=64, op="Sigmoid", layers=20)

OPTIONS: list[tuple[str, Graph, dict[str, Any], dict[str, Any]]] = [
    ("aic_num_cores", BIG, {}, {"aic_num_cores": 4}),
    ("num_activations", image(512, 56), {}, {"num_activations": 4}),
    ("set_size", dense(40, 8), {"set_size": 1}, {"set_size": 4}),
    ("ols", BIG, {}, {"ols": 4}),
    ("mos", BIG, {"aic_num_cores": 4, "mos": 1}, {"aic_num_cores": 4, "mos": 4}),
    ("mos as a list", BIG, {"aic_num_cores": 4, "mos": "1,2"}, {"aic_num_cores": 4, "mos": [1, 4]}),
    ("multicast_weights", BIG, {"aic_num_cores": 4, "mos": 1}, {"aic_num_cores": 4, "mos": 1, "multicast_weights": True}),
    ("sdp_cluster_sizes", BIG, {"aic_num_cores": 4, "sdp_cluster_sizes": [2, 2]}, {"aic_num_cores": 4, "sdp_cluster_sizes": [4]}),
    ("use_producer_dma", BIG, {"aic_num_cores": 4}, {"aic_num_cores": 4, "use_producer_dma": True}),
    ("aic_enable_depth_first", WIDE, {}, {"aic_enable_depth_first": True}),
    ("aic_depth_first_mem", WIDE, {"aic_enable_depth_first": True}, {"aic_enable_depth_first": True, "aic_depth_first_mem": 32}),
    (
        "vtcm_working_set_limit_ratio",
        dense(3, 1024, 1),
        {"vtcm_working_set_limit_ratio": 0.5},
        {"vtcm_working_set_limit_ratio": 1.0},
    ),
    ("combine_outputs", dense(400, 8), {"set_size": 1}, {"set_size": 1, "combine_outputs": True}),
    ("host_preproc", image(3, 224), {"aic_preproc": True}, {"host_preproc": True}),
]


def two_edges(layers: int) -> Graph:
    """``dense`` with a second input and output."""
    graph = dense(layers, 8)
    nodes = [*graph.nodes, Node("Neg", "neg", ("extra",), ("other",))]
    constants = {n: t.data for n, t in graph.tensors.items() if t.data is not None}
    return make_graph(nodes, {"x0": ("float32", (8, 8)), "extra": ("float32", (8, 8))}, [*graph.outputs, "other"], constants)


@pytest.mark.parametrize(("name", "graph", "slow", "fast"), OPTIONS, ids=[o[0] for o in OPTIONS])
def test_an_option_raises_the_rate(name: str, graph: Graph, slow: dict[str, Any], fast: dict[str, Any]) -> None:
    graph = two_edges(400) if name == "combine_outputs" else graph
    assert of(graph, **fast).rate > 1.0001 * of(graph, **slow).rate


def test_combined_inputs_take_one_transfer() -> None:
    separate, combined = (of(two_edges(400), set_size=1, combine_inputs=c) for c in (False, True))
    assert separate.latency - combined.latency == pytest.approx(STANDARD.transfer_s)


def test_a_set_of_one_has_the_lowest_latency() -> None:
    latencies = [of(dense(8, 1024), set_size=n).latency for n in (1, 2, 10)]
    assert latencies == sorted(latencies)
    assert latencies[0] < latencies[-1]


def test_ols_is_a_sum_at_1_and_near_the_longest_unit_when_it_is_high() -> None:
    for ols, share in ((1, 1.0), (4, 0.25)):
        r = row(of(BIG, ols=ols), "m0")
        units = (r.t_mac, r.t_vec, r.t_ddr, r.t_noc)
        assert r.seconds == pytest.approx(max(units) + (sum(units) - max(units)) * share + ols * STANDARD.overhead_s)


def test_conversion_is_charged_where_it_is_done() -> None:
    """On the card by default: float32 crosses the link and the vector unit converts it; the host sends float16."""
    card, host = of(image(3, 224)), of(image(3, 224), host_preproc=True)
    assert host.ceilings["host link"] == pytest.approx(2 * card.ceilings["host link"])
    assert (row(card, "x").t_vec > 0, row(host, "x").t_vec) == (True, 0)


def test_an_activation_on_one_chip_of_ultra_has_the_memory_of_one_chip() -> None:
    huge = dense(4, 5000)  # 200 MB of weights
    one, four = of(huge, "Ultra", aic_num_cores=16), of(huge, "Ultra", aic_num_cores=16, num_activations=4)
    assert row(one, "m0").t_ddr == pytest.approx(row(of(huge, "Pro", aic_num_cores=16), "m0").t_ddr)
    assert four.ceilings["ddr"] == pytest.approx(4 * one.ceilings["ddr"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"aic_num_cores": 8, "num_activations": 2}, "2 activations of 8 cores need 16, the card has 14"),
        ({"aic_num_cores": 4, "mos": 5}, "mos splits over 1 to 4 cores"),
        ({"aic_num_cores": 4, "sdp_cluster_sizes": "3,3"}, "need 6 cores"),
        ({"vtcm_working_set_limit_ratio": 2}, "0 to 1, found 2"),
        ({"host_preproc": True, "aic_preproc": True}, "exclude one another"),
        ({"ols": 0}, "ols is 1 or more, found 0"),
    ],
)
def test_options_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        of(dense(), **settings)


# What the model promises for any network.

WIDTHS = st.integers(1, 1500)
GRAPHS = st.builds(dense, st.integers(1, 6), WIDTHS, st.integers(1, 64)) | st.builds(image, WIDTHS, st.integers(4, 300))


@given(GRAPHS, st.integers(1, 13), st.integers(1, 6))
def test_more_cores_are_never_slower_without_an_exchange(graph: Graph, cores: int, ols: int) -> None:
    rates = [of(graph, aic_num_cores=n, mos=1, multicast_weights=True, ols=ols).rate for n in (cores, cores + 1)]
    assert rates[1] >= rates[0] * (1 - 1e-12)


@given(GRAPHS, st.integers(1, 6), st.integers(1, 20))
def test_more_in_flight_is_never_slower(graph: Graph, activations: int, size: int) -> None:
    base = {"aic_num_cores": 2, "num_activations": activations, "set_size": size}
    rates = [of(graph, **base).rate, of(graph, **{**base, "set_size": size + 1}).rate]
    assert rates[1] >= rates[0]
    assert of(graph, **{**base, "num_activations": activations + 1}).rate >= rates[0] * (1 - 1e-12)


@given(GRAPHS, st.integers(1, 14), st.floats(0, 1), st.floats(0, 1), st.integers(8, 32))
def test_more_memory_never_moves_more(graph: Graph, cores: int, a: float, b: float, depth: int) -> None:
    def moved(ratio: float, **more: Any) -> float:
        return sum(r.ddr_bytes for r in of(graph, aic_num_cores=cores, vtcm_working_set_limit_ratio=ratio, **more).rows)

    assert moved(max(a, b)) <= moved(min(a, b))
    assert moved(a, aic_enable_depth_first=True, aic_depth_first_mem=depth) <= moved(a)


@given(GRAPHS, st.integers(1, 14), st.integers(1, 8))
def test_the_rate_stays_below_every_ceiling(graph: Graph, cores: int, ols: int) -> None:
    found = of(graph, aic_num_cores=cores, ols=ols)
    assert found.rate == min(found.ceilings.values())
    assert found.latency >= STANDARD.floor_s * (1 - 1e-12)


# The constants.


@pytest.mark.parametrize("name", SOCS)
def test_every_constant_has_a_basis_and_a_source_and_is_used(name: str) -> None:
    rows = speed.constants(name)
    assert {*rows, "cores"} == {field.name for field in attrs.fields(Card)}
    assert all(r.value > 0 and r.basis in speed.BASES and len(r.source) > 10 for r in rows.values())


# Whether a higher value makes the model slower (-1) or faster (+1), and a case that it decides.
DIRECTIONS: dict[str, tuple[int, Graph, str, dict[str, Any]]] = {
    "float16_ops_per_s": (1, image(512, 56), "float16", {}),
    "int8_ops_per_s": (1, image(512, 56), "int", {}),
    "ddr_bytes_per_s": (1, BIG, "float16", {}),
    "ddr_efficiency": (1, BIG, "float16", {}),
    "link_bytes_per_s": (1, image(3, 224), "float16", {"aic_num_cores": 14}),
    "noc_bytes_per_s": (1, BIG, "float16", {"aic_num_cores": 4}),
    "conv_efficiency": (1, image(512, 56), "float16", {}),
    "matmul_efficiency": (1, BIG, "float16", {}),
    "int8_lanes": (1, DEPTHWISE, "int", {}),
    "int16_lanes": (1, DEPTHWISE, "int16", {}),
    "float16_lanes": (1, DEPTHWISE, "float16", {}),
    "float32_lanes": (1, DEPTHWISE, "float32", {}),
    "clock_hz": (1, DEPTHWISE, "float16", {}),
    "vtcm_bytes": (1, dense(7, 1024, 1), "float16", {}),
    "floor_s": (-1, image(4, 8), "float16", {"set_size": 1}),
    "overhead_s": (-1, dense(1000, 8), "float16", {}),
    "transfer_s": (-1, dense(400, 8), "float16", {"set_size": 1}),
    "host_bytes_per_s": (1, image(64, 224), "float16", {"set_size": 1, "host_preproc": True}),
    "depth_first_bytes": (1, WIDE, "float16", {"aic_enable_depth_first": True}),
}


@pytest.mark.parametrize("name", [f.name for f in attrs.fields(Card) if f.name not in ("cores", "chips")])
def test_every_constant_changes_a_rate(name: str) -> None:
    direction, graph, kind, settings = DIRECTIONS[name]
    integer = {n: Encoding("int16" if kind == "int16" else "int8", 1.0, 0) for n in int8(graph)} if kind.startswith("int") else {}
    types = {node.name: "int" if integer else kind for node in graph.nodes}
    model, plan = speed.model_of(graph, integer, types), speed.read_plan(settings, 14)
    factor = 2.0 if direction > 0 else 0.5
    better = attrs.evolve(STANDARD, **{name: factor * getattr(STANDARD, name)})
    assert speed.solve(model, better, plan).rate > 1.001 * speed.solve(model, STANDARD, plan).rate


def test_a_chip_without_constants_is_named() -> None:
    with pytest.raises(UsageError, match="card 'Other'"):
        speed.card_of(Soc("Other", "v2.0", features={"cores": 1}))


def test_ten_thousand_nodes_take_well_under_a_second() -> None:
    graph = dense(5000, 8)
    started = time.perf_counter()
    found = of(graph)
    assert len(found.rows) >= 10_000
    assert time.perf_counter() - started < 1.0


def test_the_data_is_in_the_wheel() -> None:
    assert (Path(speed.__file__).parent.parent / "data" / "speed.yaml").is_file()
