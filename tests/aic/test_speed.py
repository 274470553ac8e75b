"""The terms of the speed model, against figures worked out by hand."""

from __future__ import annotations

import time
from typing import Any

import attrs
import pytest

from npukit.backend import Edge, count_costs, total
from npukit.encoding import Encoding
from npukit.graph import Graph, Node, make_graph
from npukit.package import Manifest, Package
from npukit_aic import speed

from .speed_nets import BIG, DEPTHWISE, SOCS, dense, image, int8, of, row, zeros


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


def test_weights_that_several_layers_read_take_room_once_and_stream_each_time() -> None:
    shared = [Node("MatMul", f"m{i}", (f"x{i}", "w"), (f"x{i + 1}",)) for i in range(4)]
    inputs = {"x0": ("float32", (1, 1536))}
    found = of(make_graph(shared, inputs, ["x4"], {"w": zeros(1536, 1536)}))  # 4.7 MB of 8.3
    assert found.resident
    tight = of(make_graph(shared, inputs, ["x4"], {"w": zeros(1536, 1536)}), vtcm_working_set_limit_ratio=0.5)
    assert sum(r.ddr_bytes for r in tight.rows) >= 4 * 2 * 1536**2


def test_weights_that_fit_stream_where_that_moves_less() -> None:
    """8 MB of weights leave no room for 5.6 MB of activations; streamed one layer at a time they do."""
    found = of(dense(4, 995, 1400))
    assert not found.resident
    assert sum(r.ddr_bytes for r in found.rows) == 4 * 2 * 995**2


def test_copies_of_the_weights_are_streamed_one_by_one() -> None:
    once = row(of(BIG, aic_num_cores=5, mos=5), "m0").ddr_bytes
    assert row(of(BIG, aic_num_cores=5, mos=2), "m0").ddr_bytes == 3 * once


def test_mxfp6_packs_the_weights_of_products() -> None:
    plain, packed = (of(dense(12, 1024), mxfp6_matmul=m) for m in (False, True))
    saved = row(plain, "m0").ddr_bytes - row(packed, "m0").ddr_bytes
    assert saved == 1024 * 1024 * (16 - 6.25) / 8
    assert packed.rate > plain.rate


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
    assert (costs[0].operands, costs[0].bytes) == ("float16 x float16", 2 * (512 * 512 + 2 * 8 * 512))
    assert {c.fits for c in costs} == {True}
    tight = speed.op_costs(graph, {}, types, SOCS["Standard"], {"vtcm_working_set_limit_ratio": 0.05})
    assert (tight[0].fits, tight[1].fits) == (False, True)
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


def test_ten_thousand_nodes_take_well_under_a_second() -> None:
    graph = dense(5000, 8)
    started = time.process_time()
    found = of(graph)
    assert len(found.rows) >= 10_000
    assert time.process_time() - started < 1.0
