"""The roofline of the HTP: figures with sources, rules by hand, and 16 bits that never come cheaper than 8."""

from __future__ import annotations

import numpy as np
import pytest

from npukit.backend import OpCost, Soc, total
from npukit.encoding import Encoding, encoding_for_range
from npukit.graph import Graph, Node, make_graph
from npukit_htp.backend import HtpBackend
from npukit_htp.cost import Figure, figures, product_cost

HTP = HtpBackend()
ELITE = HTP.soc("SC8380XP")


def chain(channels: int = 4, side: int = 8) -> Graph:
    """Conv, Relu, Conv."""
    nodes = [
        Node("Conv", "first", ("x", "v"), ("c",)),
        Node("Relu", "relu", ("c",), ("r",)),
        Node("Conv", "second", ("r", "w"), ("y",)),
    ]
    weights = {n: np.ones((channels, channels, 1, 1), np.float32) for n in "vw"}
    return make_graph(nodes, {"x": ("float32", (1, channels, side, side))}, ["y"], weights)


def encoded(activation: str, weight: str) -> dict[str, Encoding]:
    grid = Encoding("float16") if activation == "float16" else encoding_for_range(-1, 1, activation)
    return dict.fromkeys("xcry", grid) | dict.fromkeys("vw", Encoding(weight, 0.1, symmetric=True))


def costs(graph: Graph, activation: str = "uint8", weight: str = "int8", soc: Soc = ELITE) -> tuple[OpCost, ...]:
    return HTP.estimate(graph, encoded(activation, weight), soc)


def all_figures() -> list[tuple[object, Figure]]:
    tables = (figures().peaks, figures().memories, figures().products)
    return [pair for table in tables for pair in table.items()]


def test_every_figure_has_a_source() -> None:
    """Each figure is positive, names a page to look it up (the unit of the rates aside), and has a known confidence."""
    for key, figure in all_figures():
        assert figure.value > 0
        assert figure.confidence in ("high", "medium", "low")
        assert "https://" in figure.source or key == ("8", "8")


def test_every_figure_is_used() -> None:
    """Each SoC with a peak rate has all that a time needs."""
    assert set(figures().peaks) == set(figures().memories)
    for name in figures().peaks:
        assert total(costs(chain(), soc=HTP.soc(name))).us is not None


def test_no_time_without_public_figures() -> None:
    """A SoC without a published peak rate gets counts and residency, no time; one of unknown memory neither."""
    whole = total(costs(chain(), soc=HTP.soc("SM8750")))
    assert (whole.us, whole.ddr_bytes) == (None, 2 * 16 + 2 * 256)
    assert {c.fits for c in costs(chain(), soc=HTP.soc("SM8975"))} == {None}
    assert total(costs(chain(), soc=HTP.soc("SM8975"))).ddr_bytes is None


def test_resident_tensors_cost_no_traffic() -> None:
    """What fits stays: only inputs, outputs and constants of the model cross the memory."""
    assert [(c.fits, c.ddr_bytes) for c in costs(chain())] == [(True, 256 + 16), (True, 0), (True, 16 + 256)]


def test_a_node_that_does_not_fit_spills() -> None:
    """What a node that is too large reads and writes crosses the memory, for its neighbours as well."""
    tight = Soc("SC8380XP", "v73", memory_mb=520 / 2**20)  # relu needs 512 bytes, each conv 528
    first, relu, second = costs(chain(), soc=tight)
    assert (first.fits, relu.fits, second.fits) == (False, True, False)
    assert (first.ddr_bytes, relu.ddr_bytes, second.ddr_bytes) == (256 + 16 + 256, 256 + 256, 256 + 16 + 256)


def test_time_by_hand() -> None:
    """The longer one of products at the peak rate and bytes at the memory's rate."""
    first, relu, _ = costs(chain(channels=512, side=32))
    macs = 32 * 32 * 512 * 512
    assert first.us == pytest.approx(max(2 * macs / 45e12, (512 * 32 * 32 + 512 * 512) / 135e9) * 1e6)
    assert first.us == pytest.approx(2 * macs / 45e12 * 1e6)
    assert relu.us == 0
    small = costs(chain())[0]
    assert small.us == pytest.approx((256 + 16) / 135e9 * 1e6)


@pytest.mark.parametrize(
    ("operands", "cost"),
    [
        ("uint8 x int8", 1),
        ("uint8 x int4", 1),
        ("uint16 x int8", 2),
        ("int8 x uint16", 2),
        ("uint16 x int16", 4),
        ("float16 x int8", 2),
    ],
)
def test_product_costs(operands: str, cost: float) -> None:
    """Narrow operands count as 8 bit, wide ones by their halves."""
    assert product_cost(operands) == cost


SHAPES = [(4, 8), (64, 64), (256, 96), (512, 256)]
WIDER = [(("uint8", "int8"), ("uint16", "int8")), (("uint16", "int8"), ("uint16", "int16")), (("uint8", "int4"), ("uint8", "int8"))]


@pytest.mark.parametrize("soc", ["SC8380XP", "SM8550", "QCM6490", "SM8750"])
@pytest.mark.parametrize("shape", SHAPES)
def test_wider_types_never_cost_less(soc: str, shape: tuple[int, int]) -> None:
    """Node by node and in sum, 16 bits cost at least what 8 bits cost, and more work in sum."""
    graph = chain(*shape)
    for narrow, wide in WIDER:
        a, b = (costs(graph, *types, soc=HTP.soc(soc)) for types in (narrow, wide))
        for x, y in zip(a, b, strict=True):
            for name in ("bit_ops", "bytes", "ddr_bytes", "us"):
                assert (getattr(x, name) or 0) <= (getattr(y, name) or 0)
            assert (x.fits or False) >= (y.fits or False)
        assert total(a).bit_ops < total(b).bit_ops
        assert total(a).work <= total(b).work
        if narrow[0] != wide[0]:
            assert total(a).work < total(b).work


def test_float_is_float16_on_the_chip() -> None:
    """A float32 tensor costs what a float16 tensor costs."""
    graph = chain()
    assert HTP.estimate(graph, {}, ELITE) == HTP.estimate(graph, dict.fromkeys(graph.tensors, Encoding("float16")), ELITE)
