"""The search over options, and what the speed of emulated networks is judged by."""

from __future__ import annotations

import numpy as np
import pytest

from npukit.errors import UsageError
from npukit.graph import Graph, Node, make_graph
from npukit_aic import speed
from npukit_aic.backend import AicBackend

STANDARD = next(soc for soc in AicBackend().socs() if soc.name == "Standard")
TYPES = {"m0": "float16", "m1": "float16"}
SPACE = {"aic_num_cores": [1, 2, 7, 14], "num_activations": [1, 2, 7, 14], "ols": [1, 2], "set_size": [1, 10], "batch": [1, 8]}


def network(batch: int | str = "n") -> Graph:
    weight = np.broadcast_to(np.float32(0), (2048, 2048))
    nodes = [Node("MatMul", f"m{i}", (f"x{i}", "w"), (f"x{i + 1}",)) for i in range(2)]
    return make_graph(nodes, {"x0": ("float32", (batch, 2048))}, ["x2"], {"w": weight})


def test_the_best_comes_first() -> None:
    fast = speed.search(network(), {}, TYPES, STANDARD, SPACE)
    rates = [found.rate for _, found in fast.found]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]
    quick = speed.search(network(), {}, TYPES, STANDARD, SPACE, "latency")
    latencies = [found.latency for _, found in quick.found]
    assert latencies == sorted(latencies)
    options, found = quick.found[0]
    assert (options["num_activations"], options["set_size"], found.batch) == (1, 1, options["batch"])


def test_each_combination_is_found_or_refused_with_a_reason() -> None:
    result = speed.search(network(), {}, TYPES, STANDARD, SPACE)
    assert len(result.found) + len(result.refused) == 4 * 4 * 2 * 2 * 2
    for options, found in result.found:
        assert options["aic_num_cores"] * options["num_activations"] <= 14
        assert found.batch == options["batch"]
    reasons = {(o["aic_num_cores"], o["num_activations"]): why for o, why in result.refused}
    assert reasons[7, 7] == "7 activations of 7 cores need 49, the card has 14"


def test_a_found_estimate_is_the_one_of_its_options() -> None:
    options, found = speed.search(network(4), {}, TYPES, STANDARD, {"ols": [2], "aic_num_cores": [2]}).found[0]
    again = speed.estimate(network(4), {}, TYPES, STANDARD, options)
    assert (found.rate, found.latency, found.bound) == (again.rate, again.latency, again.bound)


def test_a_fixed_batch_has_no_other() -> None:
    result = speed.search(network(4), {}, TYPES, STANDARD, {"batch": [1, 4]})
    assert [o for o, _ in result.found] == [{"batch": 4}]
    assert result.refused == (({"batch": 1}, "the first input has a fixed batch of 4"),)


def test_settings_hold_for_all() -> None:
    result = speed.search(network(4), {}, TYPES, STANDARD, {"ols": [1, 2]}, settings={"aic_num_cores": 3})
    assert [found.plan.cores for _, found in result.found] == [3, 3]


def test_another_objective_is_refused() -> None:
    with pytest.raises(UsageError, match="throughput, latency"):
        speed.search(network(), {}, TYPES, STANDARD, SPACE, "energy")
