"""Small networks as scripts for Cloud AI 100 compile them: an encoder, a classifier, a decoder, a detector of two parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from npukit.encoding import Array
from npukit.graph import Node, make_graph, save

WORDS, HIDDEN, HEADS, CONTEXT = 32, 16, 2, 16
_HEAD = HIDDEN // HEADS


class _Builder:
    """Nodes and random constants of a network."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._nodes: list[Node] = []
        self._constants: dict[str, Array] = {}

    def constant(self, value: Any) -> str:
        name = f"constant.{len(self._constants)}"
        self._constants[name] = np.asarray(value)
        return name

    def noise(self, *shape: int, gain: float = 1.0) -> str:
        """Values that keep the scale of activations: of variance ``gain`` squared by the inputs of an output."""
        fan = np.prod(shape[1:] if len(shape) == 4 else shape[:1])
        return self.constant((gain / np.sqrt(fan) * self._rng.standard_normal(shape)).astype(np.float32))

    def add(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Append a node; the name of its output."""
        output = name or f"{op.lower()}.{len(self._nodes)}"
        self._nodes.append(Node(op, f"/{output}", inputs, (output,), attributes))
        return output

    def save(self, path: Path, inputs: dict[str, tuple[str, tuple[Any, ...]]], outputs: list[str]) -> Path:
        save(make_graph(self._nodes, inputs, outputs, self._constants), path)
        return path

    def heads(self, state: str) -> str:
        """(batch, seq, HIDDEN) through a layer, as (batch, HEADS, seq, _HEAD)."""
        flat = self.add("MatMul", state, self.noise(HIDDEN, HIDDEN))
        return self.add("Transpose", self.add("Reshape", flat, self.constant([0, -1, HEADS, _HEAD])), perm=(0, 2, 1, 3))

    def attend(self, query: str, key: str, value: str, hidden: str) -> str:
        """Attention with an additive mask, back as (batch, seq, HIDDEN)."""
        scores = self.add("MatMul", query, self.add("Transpose", key, perm=(0, 1, 3, 2)))
        scaled = self.add("Div", scores, self.constant(np.float32(np.sqrt(_HEAD))))
        weights = self.add("Softmax", self.add("Add", scaled, hidden), axis=-1)
        mixed = self.add("Transpose", self.add("MatMul", weights, value), perm=(0, 2, 1, 3))
        return self.add("Reshape", mixed, self.constant([0, -1, HIDDEN]))

    def normed(self, state: str) -> str:
        ones, zeros = self.constant(np.ones(HIDDEN, np.float32)), self.constant(np.zeros(HIDDEN, np.float32))
        return self.add("LayerNormalization", state, ones, zeros, axis=-1)

    def forward(self, state: str) -> str:
        """The layer after attention, with its residual."""
        wide = self.add("Relu", self.add("MatMul", self.normed(state), self.noise(HIDDEN, 2 * HIDDEN, gain=1.4)))
        return self.add("Add", state, self.add("MatMul", wide, self.noise(2 * HIDDEN, HIDDEN)))


def write_encoder(path: Path) -> Path:
    """input_ids and attention_mask (batch, seq) int64 -> logits (batch, seq, WORDS)."""
    net = _Builder(1)
    state = net.add("Gather", net.noise(WORDS, HIDDEN, gain=4), "input_ids")
    mask = net.add("Unsqueeze", net.add("Cast", "attention_mask", to=1), net.constant([1, 2]))
    hidden = net.add("Mul", net.add("Sub", net.constant(np.float32(1)), mask), net.constant(np.float32(-10000)))
    for _ in range(2):
        normed = net.normed(state)
        mixed = net.attend(net.heads(normed), net.heads(normed), net.heads(normed), hidden)
        state = net.forward(net.add("Add", state, net.add("MatMul", mixed, net.noise(HIDDEN, HIDDEN))))
    net.add("MatMul", net.normed(state), net.noise(HIDDEN, WORDS), name="logits")
    return net.save(path, dict.fromkeys(("input_ids", "attention_mask"), ("int64", ("batch", "seq"))), ["logits"])


def write_classifier(path: Path) -> Path:
    """image (batch, 3, 32, 32) -> scores (batch, 10), probabilities."""
    net = _Builder(2)
    state, width = "image", 3
    for wider in (8, 16, 32):
        state = net.add("Conv", state, net.noise(wider, width, 3, 3, gain=1.4), pads=(1, 1, 1, 1), strides=(2, 2))
        state, width = net.add("Relu", state), wider
    pooled = net.add("Flatten", net.add("GlobalAveragePool", state))
    net.add("Softmax", net.add("Gemm", pooled, net.noise(width, 10, gain=4), net.noise(10)), name="scores", axis=-1)
    return net.save(path, {"image": ("float32", ("batch", 3, 32, 32))}, ["scores"])


def write_decoder(path: Path) -> Path:
    """input_ids and position_ids (1, seq_len) int64, caches past_key.i and past_value.i (1, HEADS, ctx_len, _HEAD) of two layers ->
    logits (1, seq_len, WORDS) and the caches with the new tokens at their positions."""
    net = _Builder(3)
    places = net.constant(np.arange(CONTEXT)[None, None])
    column = net.add("Unsqueeze", "position_ids", net.constant([2]))
    taken = net.add("Cast", net.add("Equal", column, places), to=1)  # (1, seq_len, CONTEXT): where each token goes
    written = net.add("Unsqueeze", net.add("ReduceMax", taken, net.constant([1]), keepdims=0), net.constant([1, 3]))
    kept = net.add("Sub", net.constant(np.float32(1)), written)
    put = net.add("Unsqueeze", net.add("Transpose", taken, perm=(0, 2, 1)), net.constant([1]))
    later = net.add("Cast", net.add("Greater", places, column), to=1)
    hidden = net.add("Unsqueeze", net.add("Mul", later, net.constant(np.float32(-10000))), net.constant([1]))
    state = net.add("Gather", net.noise(WORDS, HIDDEN, gain=4), "input_ids")
    caches = []
    for layer in range(2):
        normed = net.normed(state)
        for kind in ("key", "value"):
            past = net.add("Mul", f"past_{kind}.{layer}", kept)
            new = net.add("MatMul", put, net.heads(normed))
            caches.append(net.add("Add", past, new, name=f"past_{kind}.{layer}_RetainedState"))
        mixed = net.attend(net.heads(normed), caches[-2], caches[-1], hidden)
        state = net.forward(net.add("Add", state, net.add("MatMul", mixed, net.noise(HIDDEN, HIDDEN))))
    net.add("MatMul", net.normed(state), net.noise(HIDDEN, WORDS, gain=3), name="logits")
    inputs: dict[str, tuple[str, tuple[Any, ...]]] = dict.fromkeys(("input_ids", "position_ids"), ("int64", (1, "seq_len")))
    inputs |= {name.removesuffix("_RetainedState"): ("float32", (1, HEADS, CONTEXT, _HEAD)) for name in caches}
    return net.save(path, inputs, ["logits", *caches])


def write_detector(backbone: Path, head: Path) -> tuple[Path, Path]:
    """image (1, 3, 32, 32) -> features (1, 16, 8, 8), objectness (1, 1, 8, 8); rois (count, 16, 2, 2) -> classes (count, 4)."""
    net = _Builder(4)
    state = net.add("Relu", net.add("Conv", "image", net.noise(8, 3, 3, 3, gain=1.4), pads=(1, 1, 1, 1), strides=(2, 2)))
    conv = net.add("Conv", state, net.noise(16, 8, 3, 3, gain=1.4), pads=(1, 1, 1, 1), strides=(2, 2))
    features = net.add("Relu", conv, name="features")
    net.add("Sigmoid", net.add("Conv", features, net.noise(1, 16, 1, 1, gain=2)), name="objectness")
    net.save(backbone, {"image": ("float32", (1, 3, 32, 32))}, ["features", "objectness"])
    net = _Builder(5)
    net.add("Gemm", net.add("Flatten", "rois"), net.noise(64, 4), net.noise(4), name="classes")
    net.save(head, {"rois": ("float32", ("count", 16, 2, 2))}, ["classes"])
    return backbone, head
