"""The smallest change of encodings that makes a model legal: what is changed, what is kept, and that fewer will not do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from npukit.backend import Backend, OpConstraint, Problem, Program, Rules, Session, Soc
from npukit.encoding import Encoding, encoding_for_range, encoding_for_weights
from npukit.graph import Graph, Node, Tensor, make_graph
from npukit.legalize import Change
from npukit.legalize import search as module
from npukit.legalize.search import repair
from npukit.plugins import Registry

REGISTRY = Registry.load()
EIGHT, WIDE = ("uint8", "int8"), ("uint8", "int8", "uint16")


class Toy(Backend):
    """A chip with one rule of each kind. Softmax has an 8-bit form, and a wide one with a caveat; LRN has no form at all."""

    name = "toy"

    def socs(self) -> tuple[Soc, ...]:
        return (Soc("T1", "v1"), Soc("T2", "v2"))

    def constraints(self) -> tuple[OpConstraint, ...]:
        wide, eight = {"dtypes": WIDE}, {"dtypes": EIGHT}
        weight = {"dtypes": EIGHT, "granularity": ("tensor", "channel"), "axis": 0, "symmetric": "channel"}
        wide_weight = {"dtypes": ("int16",), "granularity": ("tensor", "channel"), "axis": 0, "symmetric": "always"}
        bias = {"dtypes": ("int32",), "granularity": ("tensor", "channel"), "derived": True}
        rows: list[dict[str, Any]] = [
            {"op": "Conv", "inputs": [wide, weight, bias], "outputs": [wide]},
            {"op": "Conv", "inputs": [{"dtypes": ("uint16",)}, wide_weight, bias], "outputs": [wide], "min_arch": "v2"},
            {"op": "Relu", "inputs": [eight], "outputs": [eight]},
            {"op": "MaxPool", "inputs": [wide], "outputs": [{**wide, "same_as": "in[0]"}]},
            {"op": "Sigmoid", "inputs": [wide], "outputs": [{**wide, "fixed": {"uint8": (1 / 256, 0), "uint16": (1 / 65536, 0)}}]},
            {"op": "Add", "inputs": [eight, eight], "outputs": [eight]},
            {"op": "Add", "inputs": [{"dtypes": ("uint16",)}] * 2, "outputs": [{"dtypes": ("uint16",)}]},
            {"op": "Concat", "inputs": [wide, {**wide, "same_as": "in[0]"}], "outputs": [{**wide, "same_as": "in[0]"}]},
            {"op": "Softmax", "inputs": [eight], "outputs": [eight]},
            {"op": "Softmax", "inputs": [wide], "outputs": [wide], "caveat": {"rule": "slow", "message": "slow"}},
        ]
        return tuple(OpConstraint(source="a test", **row) for row in rows)

    def compile(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Program:
        return Program(self.name, soc, graph, dict(encodings))

    def open(self, program: Program) -> Session:
        raise NotImplementedError


def rules(soc: str = "T1") -> Rules:
    return Rules.of(Toy(), Toy().soc(soc))


def net(*nodes: Node, inputs: tuple[str, ...] = ("x",), outputs: tuple[str, ...] = ("y",)) -> Graph:
    """A graph of ops on 1x2x4x4 tensors; w and b belong to a 1x1 convolution."""
    rng = np.random.default_rng(3)
    shapes = {"w": (2, 2, 1, 1), "v": (2, 2, 1, 1), "b": (2,), "c": (2,)}
    used = {n for node in nodes for n in node.inputs}
    constants = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items() if n in used}
    return make_graph(nodes, dict.fromkeys(inputs, ("float32", (1, 2, 4, 4))), outputs, constants)


def node(op: str, inputs: str, output: str, **attributes: Any) -> Node:
    given = {"MaxPool": {"kernel_shape": (1, 1)}, "Concat": {"axis": 0}}.get(op, {})
    return Node(op, f"{op.lower()}_{output}", tuple(inputs.split()), (output,), {**given, **attributes})


def grid(dtype: str, low: float = -1.0, high: float = 1.0, **options: Any) -> Encoding:
    return encoding_for_range(low, high, dtype, **options)


def errors(graph: Graph, encodings: Mapping[str, Encoding], soc: str = "T1") -> list[Problem]:
    return [p for p in rules(soc).validate(graph, encodings) if p.severity == "error"]


def mend(graph: Graph, encodings: Mapping[str, Encoding], soc: str = "T1") -> tuple[dict[str, Change], dict[str, Encoding]]:
    """Changes by tensor, and the encodings, which must be legal; what is not in the changes is what it was."""
    changes, after = repair(rules(soc), graph, encodings)
    assert not errors(graph, after, soc)
    by_name = {c.tensor: c for c in changes}
    assert len(by_name) == len(changes)
    assert all(after[n] is e for n, e in encodings.items() if n not in by_name)
    for change in changes:
        assert change.before is encodings.get(change.tensor)
        assert change.after is after.get(change.tensor)
    return by_name, after


def test_a_legal_model_is_left_alone() -> None:
    """Nothing to do, nothing done."""
    assert mend(net(node("Relu", "x", "y")), dict.fromkeys("xy", grid("uint8")))[0] == {}


def test_a_type_is_narrowed_and_keeps_its_range() -> None:
    """16 bits become 8 where the op has no wide form; the real range stays, and so does the sign."""
    graph = net(node("Relu", "x", "y"))
    changes, _ = mend(graph, {"x": grid("uint16", -3, 5), "y": grid("uint8")})
    assert list(changes) == ["x"]
    found = changes["x"]
    assert (found.rule, found.node, found.op) == ("dtype", "relu_y", "Relu")
    assert found.after is not None
    assert found.after.dtype == "uint8"
    assert float(found.after.min) == pytest.approx(-3, abs=0.03)
    assert float(found.after.max) == pytest.approx(5, abs=0.03)


def test_change_stops_at_ops_that_take_both_widths() -> None:
    """A tie carries a change on, a convolution that takes both widths does not; its bias follows, its weight stays."""
    graph = net(node("Relu", "x", "r"), node("MaxPool", "r", "p"), node("Conv", "p w b", "y"))
    wide = grid("uint16")
    weight = encoding_for_weights(graph.constant("w"), "int8", granularity="channel", axis=0)  # type: ignore[arg-type]
    bias = Encoding("int32", wide.steps * weight.steps, axis=0, origin="derived")
    changes, after = mend(graph, dict.fromkeys("xrpy", wide) | {"w": weight, "b": bias})
    assert set(changes) == {"x", "r", "p", "b"}
    assert changes["p"].rule == "same-grid"
    assert changes["b"].rule == "derived"
    assert np.allclose(after["b"].steps, after["p"].steps * weight.steps, rtol=1e-6)


def test_a_stated_tie_carries_a_change_on() -> None:
    """To tensors that no node has in common with the refused one, and from there on to those that rules tie to them."""
    graph = net(node("Relu", "x", "y"), node("MaxPool", "p", "q"), inputs=("x", "p"), outputs=("y", "q"))
    encodings = dict.fromkeys("xpq", grid("uint16")) | {"y": grid("uint8")}
    changes, after = repair(rules(), graph, encodings, ties=[("p", "x")])
    assert not errors(graph, after)
    assert {c.tensor for c in changes} == {"x", "p", "q"}
    assert after["x"].same_grid(after["p"])
    assert {c.tensor: c.rule for c in changes}["p"] in ("tie", "same-grid")
    assert {c.tensor for c in repair(rules(), graph, encodings)[0]} == {"x"}


def test_weight_is_made_from_its_data() -> None:
    """int16 weights on a chip without them: 8 bits, one symmetric scale per channel as before, from the data."""
    graph = net(node("Conv", "x w b", "y"))
    data = graph.constant("w")
    assert data is not None
    before = encoding_for_weights(data, "int16", granularity="channel", axis=0)
    changes, after = mend(graph, dict.fromkeys("xy", grid("uint16")) | {"w": before, "b": Encoding("int32", [0.1, 0.1], axis=0)})
    assert set(changes) == {"w", "b"}
    assert after["w"].same_grid(encoding_for_weights(data, "int8", granularity="channel", axis=0))
    assert not errors(graph, {**after, "w": before, "b": bias_of(after["x"], before)}, "T2")  # where int16 weights exist


def test_asymmetric_channels_become_symmetric() -> None:
    """Per-channel weights must be symmetric: they keep their type and channels."""
    graph = net(node("Conv", "x w b", "y"))
    before = Encoding("uint8", [0.1, 0.2], [3, 200], axis=0)
    changes, after = mend(graph, dict.fromkeys("xy", grid("uint8")) | {"w": before, "b": Encoding("int32", [0.1, 0.1], axis=0)})
    assert set(changes) == {"w", "b"}
    assert changes["w"].rule == "symmetric"
    assert (after["w"].dtype, after["w"].axis, list(after["w"].zeros)) == ("uint8", 0, [128, 128])


def test_wrong_axis_is_turned() -> None:
    """Scales on another axis than the op has are made again on its axis."""
    graph = net(node("Conv", "x w b", "y"))
    before = Encoding("int8", [0.1, 0.2], axis=1, symmetric=True)
    changes, after = mend(graph, dict.fromkeys("xy", grid("uint8")) | {"w": before, "b": Encoding("int32", [0.1, 0.1], axis=0)})
    assert changes["w"].rule == "axis"
    assert (after["w"].axis, after["w"].dtype) == (0, "int8")


def test_fixed_grid_wins() -> None:
    """An override beside the only grid of an op is dropped for it; 16 bits stay 16."""
    graph = net(node("Sigmoid", "x", "y"))
    changes, after = mend(graph, {"x": grid("uint16"), "y": grid("uint16", 0, 2, origin="override")})
    assert set(changes) == {"y"}
    assert changes["y"].rule == "fixed-grid"
    assert (after["y"].dtype, float(after["y"].steps), int(after["y"].zeros)) == ("uint16", 1 / 65536, 0)


def test_tie_takes_the_grid_that_covers() -> None:
    """Of two grids that must be one, the wider range is kept: a coarser step costs less than saturation."""
    graph = net(node("MaxPool", "x", "y"))
    changes, _ = mend(graph, {"x": grid("uint8", -2, 2), "y": grid("uint8", 0, 1)})
    assert set(changes) == {"y"}
    assert changes["y"].rule == "same-grid"


def test_overrides_are_kept_where_the_count_is_equal() -> None:
    """What the user gave stays and what was calibrated moves, even at the price of range."""
    graph = net(node("MaxPool", "x", "y"))
    changes, _ = mend(graph, {"x": grid("uint8", -2, 2), "y": grid("uint8", 0, 1, origin="override")})
    assert set(changes) == {"x"}


def test_majority_of_a_tie_stays() -> None:
    """Fewest tensors move, be they overrides."""
    graph = net(node("Concat", "x z", "y"), inputs=("x", "z"))
    same = grid("uint8", 0, 1)
    changes, _ = mend(graph, {"x": grid("uint8", -2, 2, origin="override"), "z": same, "y": same})
    assert set(changes) == {"x"}


def test_wide_types_are_preferred() -> None:
    """Two ways of one change each: the one that keeps 16 bits."""
    graph = net(node("Add", "x z", "y"), inputs=("x", "z"))
    changes, after = mend(graph, {"x": grid("uint8"), "z": grid("uint16"), "y": grid("uint16")})
    assert set(changes) == {"x"}
    assert after["x"].dtype == "uint16"


def test_no_error_is_traded_for_a_warning() -> None:
    """Softmax would take x in 16 bits with a caveat: one more tensor is changed instead, and an old warning is none of ours."""
    graph = net(node("Relu", "x", "r"), node("MaxPool", "r", "p"), node("Softmax", "p", "y"))
    eight, wide = grid("uint8"), grid("uint16")
    changes, after = mend(graph, {"x": eight, "r": wide, "p": wide, "y": eight})
    assert set(changes) == {"r", "p"}
    assert not rules().validate(graph, after)
    alone = net(node("Softmax", "x", "y"))
    assert mend(alone, dict.fromkeys("xy", wide))[0] == {}


def test_what_cannot_be_mended_is_left() -> None:
    """An op without a row stays refused; everything else is mended, and nothing changes for its sake."""
    graph = net(node("LRN", "x", "z", size=3), node("Relu", "z", "y"))
    before = {"x": grid("uint16"), "z": grid("uint16"), "y": grid("uint8")}
    changes, after = repair(rules(), graph, before)
    assert [c.tensor for c in changes] == ["z"]
    assert [p.rule for p in errors(graph, after)] == ["unsupported-op"]


def test_fewest_nodes_are_left_illegal() -> None:
    """Demands that contradict each other: one node stays illegal, the one that frees the others."""
    graph = net(node("Sigmoid", "x", "s"), node("MaxPool", "s", "p"), node("Add", "p z", "y"), inputs=("x", "z"))
    wide = Encoding("float16")
    before = {"x": grid("uint8"), "s": grid("uint8"), "p": grid("uint8"), "z": wide, "y": grid("uint8")}
    changes, after = repair(rules(), graph, before)
    assert {p.node for p in errors(graph, after)} == {"add_y"}  # a float input has no range to make a grid of
    assert {c.tensor for c in changes} == {"s", "p"}


def test_float_constants_get_a_grid() -> None:
    """A weight that was left float beside integer activations is quantized from its data."""
    graph = net(node("Conv", "x w b", "y"))
    changes, after = mend(graph, dict.fromkeys("xy", grid("uint8")))
    assert set(changes) == {"w", "b"}
    assert changes["w"].before is None
    assert after["b"].same_grid(bias_of(after["x"], after["w"]))


def test_bias_has_room() -> None:
    """A bias that overflows int32 beside a finer input gets a coarser weight scale, which is listed."""
    graph = net(node("Add", "z z", "x"), node("Conv", "x w b", "y"), inputs=("z",))
    data = graph.constant("w")
    assert data is not None
    graph = graph.with_tensors([Tensor.constant("w", data * np.float32(3e-4))])
    weight = encoding_for_weights(data * 3e-4, "int8", granularity="channel", axis=0)
    before = {"z": grid("uint16"), "x": grid("uint8"), "y": grid("uint8"), "w": weight}
    changes, after = mend(graph, before | {"b": bias_of(before["x"], weight)})
    assert set(changes) == {"x", "b", "w"}
    assert after["x"].dtype == "uint16"
    bias = graph.constant("b")
    assert bias is not None
    assert np.all(np.abs(bias / after["b"].steps) <= 2**30)
    assert np.any(np.abs(bias / (after["x"].steps * weight.steps)) > 2**31)


def bias_of(x: Encoding, w: Encoding) -> Encoding:
    scale = x.steps.astype(np.float64) * w.steps.astype(np.float64)
    return Encoding("int32", scale, axis=None if scale.ndim == 0 else 0, origin="derived")


# ------------------------------------------------------------------------------------------------------- minimality, by brute force


CASES = 50


def random_case(seed: int) -> tuple[Graph, dict[str, Encoding], str]:
    """A chain with branches of three or four ops, every tensor on a random grid out of a few."""
    rng = np.random.default_rng(seed)
    nodes: list[Node] = []
    made = ["x"]
    for index in range(int(rng.integers(2, 5))):
        out = f"t{index}"
        op = str(rng.choice(["Conv", "Relu", "MaxPool", "Sigmoid", "Add", "Concat"]))
        first, second = (str(rng.choice(made[-2:])) for _ in range(2))
        if op == "Conv":
            if any(n.op == "Conv" for n in nodes):
                op = "Relu"
            else:
                nodes.append(node("Conv", f"{first} w b", out))
        if op == "Concat":
            nodes.append(node("Concat", f"{first} {second}", out, axis=0))
        elif op != "Conv":
            nodes.append(node(op, f"{first} {second}" if op == "Add" else first, out))
        made.append(out)
    read = {n for one in nodes for n in one.inputs}
    graph = net(*nodes, outputs=tuple(n for n in made if n not in read))
    pool = [grid("uint8"), grid("uint8", 0, 1), grid("uint16"), grid("int8", symmetric=True), grid("uint16", 0, 2)]
    encodings = {n: pool[int(rng.integers(len(pool)))] for n in made}
    if "w" in graph.tensors:
        weights = list(weight_grids(graph.tensors["w"].data))
        encodings["w"] = weights[int(rng.integers(len(weights)))]
        x = next(one.inputs[0] for one in nodes if one.op == "Conv")
        encodings["b"] = bias_of(encodings[x], encodings["w"])
    return graph, encodings, "T2" if rng.random() < 0.5 else "T1"


def weight_grids(data: Any) -> Iterator[Encoding]:
    for dtype, symmetric in itertools.product(("int8", "uint8", "int16"), (True, False)):
        yield encoding_for_weights(data, dtype, symmetric=symmetric)
        for axis in (0, 1):
            yield encoding_for_weights(data, dtype, granularity="channel", axis=axis, symmetric=symmetric)


def options_of(graph: Graph, encodings: Mapping[str, Encoding], name: str) -> list[Encoding]:
    """All that a tensor might become: its range in every type, the fixed grids, every grid of the model in every type."""
    if graph.tensors[name].is_constant:
        return list(weight_grids(graph.tensors[name].data))
    grids = [e for n, e in encodings.items() if not graph.tensors[n].is_constant]
    ranges = {(float(e.min), float(e.max)) for e in grids}
    made = [grid(d, *r) for d in ("uint8", "int8", "uint16") for r in ranges]
    found = [*grids, *made, Encoding("uint8", 1 / 256, 0), Encoding("uint16", 1 / 65536, 0)]
    return list({(e.dtype, float(e.steps), int(e.zeros)): e for e in found}.values())


def some_smaller_change(graph: Graph, encodings: Mapping[str, Encoding], soc: str, size: int) -> tuple[str, ...] | None:
    """Tensors whose change alone makes the graph legal, at most ``size`` of them, the bias following; None when there are none."""
    names = [n for n in encodings if n != "b"]
    judge = rules(soc)
    for count in range(size + 1):
        for chosen in itertools.combinations(names, count):
            for values in itertools.product(*(options_of(graph, encodings, n) for n in chosen)):
                tried = {**encodings, **dict(zip(chosen, values, strict=True))}
                for one in graph.nodes:
                    if one.op == "Conv":
                        tried["b"] = bias_of(tried[one.inputs[0]], tried["w"])
                if not any(p.severity == "error" for p in judge.validate(graph, tried)):
                    return chosen
    return None


@pytest.mark.parametrize("seed", range(CASES))
def test_no_smaller_change_exists(seed: int) -> None:
    """No choice of fewer tensors, each taking any grid at all, makes the graph legal (tried one by one up to two tensors)."""
    graph, encodings, soc = random_case(seed)
    changes, after = repair(rules(soc), graph, encodings)
    assert not errors(graph, after, soc)
    counted = [c for c in changes if c.tensor != "b"]
    assert some_smaller_change(graph, encodings, soc, min(2, len(counted) - 1)) is None, [c.tensor for c in counted]


def test_random_cases_are_worth_trying() -> None:
    """The cases above need between no and several changes, most of them two or more."""
    sizes = []
    for seed in range(CASES):
        graph, encodings, soc = random_case(seed)
        sizes.append(sum(c.tensor != "b" for c in repair(rules(soc), graph, encodings)[0]))
    assert sum(size >= 2 for size in sizes) > CASES // 2
    assert sum(size >= 3 for size in sizes) > CASES // 6


def test_without_going_back_it_is_legal_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search that gives up on the optimum still ends legal, and most often with the smallest change."""
    equal = 0
    for seed in range(CASES):
        graph, encodings, soc = random_case(seed)
        best, _ = repair(rules(soc), graph, encodings)
        with monkeypatch.context() as patch:
            patch.setattr(module, "LIMIT", 0)
            changes, after = repair(rules(soc), graph, encodings)
        assert not errors(graph, after, soc)
        more = sum(c.tensor != "b" for c in changes) - sum(c.tensor != "b" for c in best)
        assert more >= 0
        equal += not more
    assert equal > 0.9 * CASES
