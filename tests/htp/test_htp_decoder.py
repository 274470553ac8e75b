"""The decoder that npukit makes: its two forms agree, and both run with 16-bit activations and 4-bit weights."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from npukit.demo import decoder
from npukit.encoding import Array
from npukit.graph import Graph
from npukit.quantization import Options, Quantized, check, open_session, quantize

SIZES = decoder.Sizes(layers=2, hidden=32, heads=4, key_heads=2, inner=48, words=40, cache=32)
WORDS = np.random.default_rng(5).integers(SIZES.words, size=32)
STEP, PREFILL = (decoder.decoder(SIZES, tokens) for tokens in (1, 32))
TIES = {"past_*": "new_*"}
WEIGHTS = {"channel": Options(activations="uint16", weights="int4", ties=TIES)}
WEIGHTS["lpbq"] = Options(activations="uint16", weights="int4", lpbq=16, ties=TIES)
WEIGHTS["block"] = Options(activations="uint16", weights="int4", per_block=16, ties=TIES)


def data(graph: Graph) -> list[dict[str, Array]]:
    if graph is PREFILL:
        return [{**decoder.feeds(SIZES, words), **decoder.empty(SIZES)} for words in (WORDS, WORDS[::-1])]
    return list(decoder.recorded(STEP, SIZES, WORDS[:4], 8))


def test_a_prefill_is_its_steps() -> None:
    """In float: logits and caches of 32 tokens at once are those of 32 steps, and of two chunks of 16."""
    with open_session(PREFILL, "cpu") as session:
        whole = session.run({**decoder.feeds(SIZES, WORDS), **decoder.empty(SIZES)})
    for tokens in (1, 16):
        cache, logits = decoder.empty(SIZES), []
        with open_session(decoder.decoder(SIZES, tokens), "cpu") as session:
            for place in range(0, len(WORDS), tokens):
                found = session.run({**decoder.feeds(SIZES, WORDS[place : place + tokens], place), **cache})
                cache = {name: found[name.replace("past", "new")] for name in cache}
                logits.append(found["logits"])
        np.testing.assert_allclose(np.concatenate(logits, 1), whole["logits"], atol=2e-5)
        for name, values in cache.items():
            np.testing.assert_allclose(values, whole[name.replace("past", "new")], atol=2e-5)


def test_a_long_sequence_leaves_the_cache_at_the_front() -> None:
    """Behind a full cache the oldest token is dropped, and the mask sees every place."""
    sample = decoder.feeds(SIZES, WORDS[:2], before=100)
    assert sample["mask"].shape == (1, 1, 2, 34)
    assert (sample["mask"][0, 0, 0] == decoder.MASKED).nonzero()[0].tolist() == [33]
    assert not sample["mask"][0, 0, 1].any()
    early = decoder.feeds(SIZES, WORDS[:1], before=3)["mask"][0, 0, 0]
    assert (early == 0).nonzero()[0].tolist() == [29, 30, 31, 32]


@pytest.mark.parametrize("graph", [STEP, PREFILL], ids=["step", "prefill"])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_four_bit_weights(graph: Graph, kind: str) -> None:
    """Accepted without a finding; the emulator is as near to the float model as rounding alone, in both of its forms."""
    made = quantize(graph, "htp", data=data(graph), options=WEIGHTS[kind])
    matrices = [name for name in decoder.weights(SIZES) if "gain" not in name and name != "embedding"]
    assert {made.encodings[name].granularity for name in matrices} == {kind}
    assert check(made, "htp").problems == ()
    for layer in range(SIZES.layers):
        assert made.encodings[f"past_key_{layer}"].same_grid(made.encodings[f"new_key_{layer}"])
    sample = data(graph)[-1]
    logits = {form: run(made, sample, *form) for form in (("cpu:qdq", ""), ("htp", "numpy"), ("htp", "fast"))}
    rounding = np.abs(logits["cpu:qdq", ""] - logits["htp", "numpy"]).max()
    assert rounding < 0.05 * np.abs(logits["cpu:qdq", ""]).max()
    np.testing.assert_array_equal(logits["htp", "numpy"], logits["htp", "fast"])


def run(made: Quantized, sample: dict[str, Array], backend: str, kernels: str) -> Array:
    with open_session(made, backend, kernels=kernels) as session:
        return session.run(sample)["logits"]


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime_qnn") is None, reason="the package onnxruntime-qnn is not installed")
@pytest.mark.parametrize(
    ("graph", "kind"), [(PREFILL, "channel"), (STEP, "lpbq"), (STEP, "block")], ids=["prefill", "step-lpbq", "step-block"]
)
def test_the_vendors_simulator_agrees(graph: Graph, kind: str) -> None:
    """It takes the whole model, and its logits are those of the emulator but for noise far below that of the weights."""
    made = quantize(graph, "htp", data=data(graph), options=WEIGHTS[kind])
    assert check(made, "qnn").verdict == "accepted"
    sample = data(graph)[-1]
    ours, theirs = (run(made, sample, backend, "") for backend in ("htp", "qnn"))
    assert np.square(ours - theirs).sum() < 1e-3 * np.square(ours).sum()
