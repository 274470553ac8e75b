"""What the options and the constants of the speed model change, and what it promises for any network."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npukit.backend import Soc
from npukit.encoding import Encoding
from npukit.errors import UsageError
from npukit.graph import Graph
from npukit_aic import speed
from npukit_aic.speed import Card

from .speed_nets import BIG, DEPTHWISE, SOCS, STANDARD, WIDE, dense, image, int8, of, row, two_edges

# The options. Each changes the figure that it is about, in the direction that the model promises.

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
    ("combine_outputs", two_edges(400), {"set_size": 1}, {"set_size": 1, "combine_outputs": True}),
    ("host_preproc", image(3, 224), {"aic_preproc": True}, {"host_preproc": True}),
]


@pytest.mark.parametrize(("name", "graph", "slow", "fast"), OPTIONS, ids=[o[0] for o in OPTIONS])
def test_an_option_raises_the_rate(name: str, graph: Graph, slow: dict[str, Any], fast: dict[str, Any]) -> None:
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
    assert {*rows, "cores"} == {field.name for field in attrs.fields(Card) if field.default is attrs.NOTHING}
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
    "mxfp6_bits": (-1, BIG, "float16", {"mxfp6_matmul": True}),
    "depth_first_bytes": (1, WIDE, "float16", {"aic_enable_depth_first": True}),
}


@pytest.mark.parametrize(
    "name", [f.name for f in attrs.fields(Card) if f.name not in ("cores", "chips") and f.default is attrs.NOTHING]
)
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
