"""A small decoder with a key/value cache as LLM libraries export them for the card, and what numpy computes for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from npukit.encoding import Array
from npukit.graph import Node, make_graph, save
from npukit_aic.compiler import compile_model
from npukit_aic.qpc import write_qpc

WORDS, HEADS, HEAD, CACHE = 16, 2, 4, 8
HIDDEN = HEADS * HEAD
RNG = np.random.default_rng(7)
WEIGHTS = {name: RNG.standard_normal((HIDDEN, HIDDEN)).astype(np.float32) / 3 for name in ("q", "k", "v")}
WEIGHTS |= {
    "head": RNG.standard_normal((HIDDEN, WORDS)).astype(np.float32),
    "words": RNG.standard_normal((WORDS, HIDDEN)).astype(np.float32),
}


def numpy_decoder(input_ids: Array, position_ids: Array, key: Array, value: Array) -> tuple[Array, Array, Array]:
    """Logits of the last token (1, 1, WORDS), and the caches (1, HEADS, CACHE, HEAD) with the tokens at their positions."""

    def heads(name: str) -> Array:
        return (WEIGHTS["words"][input_ids] @ WEIGHTS[name]).reshape(1, -1, HEADS, HEAD).transpose(0, 2, 1, 3)

    key, value = key.copy(), value.copy()
    key[:, :, position_ids[0]], value[:, :, position_ids[0]] = heads("k"), heads("v")
    scores = heads("q") @ key.transpose(0, 1, 3, 2)
    scores = np.where(np.arange(CACHE) <= position_ids[0][:, None], scores, np.float32(-1e4))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = weights / weights.sum(-1, keepdims=True) @ value
    logits = mixed.transpose(0, 2, 1, 3).reshape(1, -1, HIDDEN) @ WEIGHTS["head"]
    return logits[:, -1:], key, value


def write_decoder(folder: Path, cache: str = "float32", cores: int = 2) -> Path:
    """A QPC of the decoder: input_ids and position_ids (1, seq_len) int64, past_key.0 and past_value.0 in the type ``cache``."""
    constants = {**WEIGHTS, "axes": np.array([1, 3]), "shape": np.array([1, -1, HEADS, HEAD]), "flat": np.array([1, -1, HIDDEN])}
    constants |= {"ones": np.zeros((1, HEADS, 1, HEAD), np.int64), "places": np.arange(CACHE)[None, None, None]}
    constants |= {"masked": np.float32(-1e4), "last": np.array([-1]), "end": np.array([1 << 30]), "one": np.array([1])}
    nodes = [Node("Gather", "embed", ("words", "input_ids"), ("state",), {})]
    for name in ("q", "k", "v"):
        nodes += [
            Node("MatMul", f"{name}_proj", ("state", name), (f"{name}_flat",), {}),
            Node("Reshape", f"{name}_split", (f"{name}_flat", "shape"), (f"{name}_split",), {}),
            Node("Transpose", f"{name}_turn", (f"{name}_split",), (f"{name}_heads",), {"perm": [0, 2, 1, 3]}),
        ]
    nodes += [
        Node("Unsqueeze", "column", ("position_ids", "axes"), ("positions",), {}),
        Node("Add", "spread", ("positions", "ones"), ("index",), {}),
    ]
    for kind, name in (("key", "k"), ("value", "v")):
        inputs = (f"past_{kind}.0", "index", f"{name}_heads")
        nodes.append(Node("ScatterElements", f"store_{kind}", inputs, (f"past_{kind}.0_RetainedState",), {"axis": 2}))
    nodes += [
        Node("Transpose", "key_turn", ("past_key.0_RetainedState",), ("key_turned",), {"perm": [0, 1, 3, 2]}),
        Node("MatMul", "scores", ("q_heads", "key_turned"), ("scores",), {}),
        Node("LessOrEqual", "seen", ("places", "positions"), ("seen",), {}),
        Node("Where", "mask", ("seen", "scores", "masked"), ("masked_scores",), {}),
        Node("Softmax", "weigh", ("masked_scores",), ("weights",), {"axis": -1}),
        Node("MatMul", "mix", ("weights", "past_value.0_RetainedState"), ("mixed",), {}),
        Node("Transpose", "mix_turn", ("mixed",), ("mixed_turned",), {"perm": [0, 2, 1, 3]}),
        Node("Reshape", "mix_flat", ("mixed_turned", "flat"), ("mixed_flat",), {}),
        Node("Slice", "newest", ("mixed_flat", "last", "end", "one"), ("newest",), {}),
        Node("MatMul", "choose", ("newest", "head"), ("logits",), {}),
    ]
    inputs = dict.fromkeys(("input_ids", "position_ids"), ("int64", (1, "seq_len")))
    inputs |= dict.fromkeys(("past_key.0", "past_value.0"), ("float32", (1, HEADS, CACHE, HEAD)))
    outputs = ["logits", "past_key.0_RetainedState", "past_value.0_RetainedState"]
    save(make_graph(nodes, inputs, outputs, constants), folder / "decoder.onnx")
    (folder / "sizes.json").write_text(json.dumps({"specializations": [{"seq_len": "4"}, {"seq_len": "1"}]}))
    options: dict[str, Any] = {"network_specialization_config": str(folder / "sizes.json"), "aic_num_cores": cores}
    if cache != "float32":
        rows = [{"IOName": name, "Precision": cache} for name in (*inputs, *outputs) if name.startswith("past_")]
        (folder / "io.yaml").write_text(json.dumps(rows))
        options["custom_io_list_file"] = str(folder / "io.yaml")
    package = compile_model(folder / "decoder.onnx", options)
    return write_qpc(package, folder / "qpc").parent
