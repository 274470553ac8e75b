"""A sequence compared step by step: the state of each model is its own, the tokens are those of the float model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npukit as nk
from npukit.cli import main
from npukit.demo import decoder
from npukit.diagnosis import Generation, compare_steps
from npukit.diagnosis.sqnr import decibels_of, powers
from npukit.errors import DataError, UsageError
from npukit.graph import Graph, Node, Tensor, make_graph
from npukit.plugins import Registry
from npukit.quantization import open_session

REGISTRY = Registry.load()
SIZES = decoder.Sizes(1, 16, 2, 1, 16, 12, 8)
STEP = decoder.decoder(SIZES, 1, seed=7)
DATA = list(decoder.recorded(STEP, SIZES, [1, 2, 3], 8))
TOKENS = ("input_ids", "logits")
TIES = {"past_*": "new_*"}
FOUR = nk.Options(activations="uint16", weights="int4", ties=TIES)


@pytest.fixture(scope="module")
def rough() -> Any:
    """A model with other weights at the end, so that its choices part from those of the float model some steps on."""
    head = STEP.constant("head")
    assert head is not None
    noise = np.random.default_rng(5).normal(0, 0.2 * head.std(), head.shape).astype(np.float32)
    other = STEP.with_tensors([Tensor.constant("head", head + noise)])
    return nk.quantize(other, "htp", data=DATA, options=nk.Options(activations="uint16", ties=TIES), registry=REGISTRY)


def by_hand(model: Any, backend: str, words: list[int] | None, prompt: int) -> tuple[list[int], list[np.ndarray]]:
    """The tokens on top and the scores of a model that runs on ``words``, or with None on its own choices behind the prompt."""
    state = {n: DATA[0][n] for n in DATA[0] if n.startswith("past")}
    tops: list[int] = []
    scores = []
    with open_session(model, backend, registry=REGISTRY) as session:
        for index, sample in enumerate(DATA):
            token = int(sample["input_ids"].item()) if index < prompt else tops[-1] if words is None else words[index]
            found = session.run({**sample, **state, "input_ids": np.array([[token]])})
            state = {n: found[n.replace("past", "new")] for n in state}
            tops.append(int(found["logits"].argmax()))
            scores.append(found["logits"])
    return tops, scores


@pytest.mark.parametrize("generate", [0, 5, 7])
def test_the_numbers_are_those_of_a_loop_by_hand(rough: Any, generate: int) -> None:
    """SQNR per step, tokens on top, and how long a backend on its own stays with the float model."""
    prompt = len(DATA) - generate
    found = compare_steps(
        rough, ["htp"], data=DATA, tokens=TOKENS, generate=generate, reference=STEP, options=nk.Options(), registry=REGISTRY
    )
    tops, scores = by_hand(STEP, "cpu", None, prompt)
    fed = [int(s["input_ids"].item()) for s in DATA[:prompt]] + tops[prompt - 1 : -1]
    forced, noisy = by_hand(rough, "htp", fed, prompt)
    alone, _ = by_hand(rough, "htp", None, prompt)
    assert [s.fed for s in found.steps] == fed
    assert [s.wanted for s in found.steps] == tops
    assert [s.got["htp"] for s in found.steps] == forced
    levels = [decibels_of(*powers("logits", a, b)) for a, b in zip(scores, noisy, strict=True)]
    assert [s.sqnr["htp"] for s in found.steps] == pytest.approx(levels)
    assert found.agreement["htp"] == sum(a == b for a, b in zip(tops, forced, strict=True))
    same = [a == b for a, b in zip(tops[prompt - 1 :], alone[prompt - 1 :], strict=True)]
    assert found.together["htp"] == [*same, False].index(False)
    assert found.chosen == generate + 1
    assert not generate or found.together["htp"] < found.chosen  # the models do part


def test_equal_models_do_not_part() -> None:
    """The float backend beside itself."""
    found = compare_steps(STEP, ["cpu"], data=DATA, tokens=TOKENS, generate=5, options=FOUR, registry=REGISTRY)
    assert found.together == {"cpu": 6}
    assert found.agreement == {"cpu": 8}
    assert found.sqnr == {"cpu": float("inf")}


def test_a_float_model_is_quantized_first() -> None:
    """For each backend, with the ties that are given, which say what the state is."""
    found = compare_steps(STEP, ["cpu:qdq", "htp"], data=DATA, tokens=TOKENS, generate=5, options=FOUR, registry=REGISTRY)
    assert found.backends == ("cpu:qdq", "htp")
    assert 5 < found.sqnr["htp"] < 60


CACHE, ROW = (1, 2, 8, 4), (1, 2, 1, 4)
UPDATES = {
    "ScatterElements": (
        [
            Node("Expand", "e", ("place", "row"), ("places",)),
            Node("ScatterElements", "s", ("past", "places", "x"), ("new",), {"axis": 2}),
        ],
        {"x": ("float32", ROW), "place": ("int64", (1, 1, 1, 1))},
    ),
    "ScatterND": (
        [Node("ScatterND", "s", ("past", "place", "x"), ("new",))],
        {"x": ("float32", (2, 4)), "place": ("int64", (2, 3))},
    ),
    "a mask": (
        [
            Node("Mul", "m", ("past", "keep"), ("old",)),
            Node("Mul", "p", ("x", "place"), ("put",)),
            Node("Add", "a", ("old", "put"), ("new",)),
        ],
        {"x": ("float32", ROW), "keep": ("float32", (1, 1, 8, 1)), "place": ("float32", (1, 1, 8, 1))},
    ),
}


@pytest.mark.parametrize("form", UPDATES)
def test_ways_to_update_a_cache(form: str) -> None:
    """At a place that the data gives: what was put in comes back at later steps, on the grid of the cache."""
    nodes, more = UPDATES[form]
    inputs = {"past": ("float32", CACHE), "token": ("int64", (1, 1)), **more}
    nodes = [*nodes, Node("ReduceMax", "r", ("new", "axes"), ("scores",), {"keepdims": 0})]
    graph = make_graph(nodes, inputs, ["scores", "new"], {"row": np.array(ROW), "axes": np.array([1, 3])})
    rng, data = np.random.default_rng(0), []
    for index in range(4):
        place = {"place": np.full((1, 1, 1, 1), index)}
        if form == "ScatterND":
            place = {"place": np.array([[0, 0, index], [0, 1, index]])}
        elif form == "a mask":
            one = np.eye(8, dtype=np.float32)[index].reshape(1, 1, 8, 1)
            place = {"place": one, "keep": 1 - one}
        values = rng.normal(2, 1, more["x"][1]).astype(np.float32)
        past = rng.normal(2, 1, CACHE) * (index > 0)  # what calibration sees; the sequence takes the first one only
        data.append({"past": past.astype(np.float32), "token": np.ones((1, 1), np.int64), "x": values, **place})
    options = nk.Options(activations="uint16", ties={"past": "new"})
    found = compare_steps(graph, ["htp"], data=data, tokens=("token", "scores"), options=options, registry=REGISTRY)
    assert found.sqnr["htp"] > 60
    assert [s.got["htp"] for s in found.steps] == [s.wanted for s in found.steps]
    assert len({s.wanted for s in found.steps}) > 1 or found.steps[-1].wanted == 0


def column() -> Graph:
    """A model that gives back the newest part of its state only."""
    nodes = [Node("Concat", "c", ("past", "x"), ("y",), {"axis": 1}), Node("Neg", "n", ("x",), ("new",))]
    nodes += [Node("Cast", "cast", ("token",), ("t",), {"to": 1}), Node("Add", "a", ("y", "t"), ("scores",))]
    inputs = {"past": ("float32", (1, 3)), "x": ("float32", (1, 1)), "token": ("int64", (1, 1))}
    return make_graph(nodes, inputs, ["scores", "new"])


@pytest.mark.parametrize(
    ("model", "tokens", "ties", "message"),
    [
        (STEP, ("input_id", "logits"), TIES, "'input_id' is no input of the model"),
        (STEP, ("input_ids", "embedded"), TIES, "'embedded' is no output of the model"),
        (STEP, ("mask", "logits"), TIES, r"input 'mask' is float32 of shape \[1, 1, 1, 9\]: a step takes one token"),
        (STEP, TOKENS, {}, "no input of the model is tied to an output"),
        (column(), ("token", "scores"), {"past": "new"}, r"output 'new' has shape \[1, 1\], input 'past' takes \[1, 3\]"),
    ],
)
def test_what_is_no_sequence(model: Graph, tokens: tuple[str, str], ties: Any, message: str) -> None:
    """One line that names the tensor."""
    with pytest.raises(UsageError, match=message):
        compare_steps(model, ["cpu"], data=DATA, tokens=tokens, options=nk.Options(ties=ties), registry=REGISTRY)


def test_the_first_token_comes_from_the_data() -> None:
    """As many generated steps as there are samples leave none for the prompt."""
    with pytest.raises(DataError, match="8 steps of data, 8 of them to generate"):
        compare_steps(STEP, ["cpu"], data=DATA, tokens=TOKENS, generate=8, options=FOUR, registry=REGISTRY)


def test_a_chunk_is_no_step() -> None:
    """The prefill form takes several tokens at once."""
    prefill = decoder.decoder(SIZES, 4)
    with pytest.raises(UsageError, match="a step takes one token"):
        compare_steps(prefill, ["cpu"], data=DATA, tokens=TOKENS, options=FOUR, registry=REGISTRY)


def test_worst_steps() -> None:
    """Those with the lowest SQNR on the last backend, in order of time."""
    from npukit.diagnosis import Step

    steps = tuple(Step(n, 0, 0, {"a": 0}, {"a": level}) for n, level in enumerate([9.0, 3.0, 8.0, 1.0]))
    assert [s.index for s in Generation("", ("a",), 4, steps, {}).worst(2)] == [1, 3]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole trip on the command line; flags that do nothing are refused."""
    decoder.write(tmp_path, SIZES, tokens=4, steps=8)
    step, data, package = (str(tmp_path / name) for name in (decoder.STEP, decoder.STEPS, "step.dlc"))
    precision = ["--activations", "uint16", "--weights", "int4", "--lpbq", "8", "--tie", "past_*=new_*"]
    assert main(["quantize", step, "--data", data, "-o", package, "-q", *precision]) == 0
    capsys.readouterr()
    compare = ["compare", package, "--backend", "cpu:qdq,htp", "--reference", step, "--data", data, "-q"]
    assert main([*compare, "--tokens", "input_ids=logits", "--generate", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (len(found["steps"]), found["prompt"], found["chosen"]) == (8, 3, 6)
    assert found["sqnr"].keys() == {"cpu:qdq", "htp"}
    assert main([*compare, "--tokens", "input_ids=logits", "--worst", "2"]) == 0
    shown = capsys.readouterr().out
    assert "8 steps fed with the same tokens, the last 0 of them" in shown
    assert "worst 2 steps on htp" in shown
    assert main([*compare, "--generate", "5"]) == 2
    assert main([*compare, "--tokens", "input_ids=logits", "--write-overrides", str(tmp_path / "x.json")]) == 2
    assert main([*compare, "--tokens", "input_ids"]) == 2
