"""A small decoder with a key/value cache, made here from random weights: the step of one token, and the prefill of several.

Its layers are those of Llama (H. Touvron and others, "LLaMA: Open and Efficient Foundation Language Models", 2023, and "Llama 2",
2023): RMS normalization, rotary positions (J. Su and others, "RoFormer", 2021), heads of queries that share heads of keys and
values, and a gated MLP.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from npukit.encoding import Array
from npukit.graph import Graph, Node, make_graph, save
from npukit.plugins.known import FLOAT_BACKEND

MASKED = -100.0
"""What the mask adds to the scores of places that hold no token: far below any score, and finite."""


@attrs.frozen
class Sizes:
    """How large a decoder is. ``cache`` is the fixed number of tokens that a cache holds."""

    layers: int = 2
    hidden: int = 64
    heads: int = 4
    key_heads: int = 2
    inner: int = 128
    words: int = 96
    cache: int = 32

    @property
    def head(self) -> int:
        """The numbers per head, which are even."""
        return self.hidden // self.heads


STEP = "decoder_step.onnx"
PREFILL = "decoder_prefill.onnx"
STEPS = "steps.npz"
PROMPTS = "prompts.npz"


def write(folder: Path, sizes: Sizes = Sizes(), *, tokens: int = 32, steps: int = 24, seed: int = 0) -> None:
    """Write what a user of a decoder has: both forms with the same weights, and data for each.

    decoder_step.onnx takes one token, decoder_prefill.onnx ``tokens`` of them. steps.npz holds ``steps`` steps of the float model:
    8 words of a prompt, then the words that it chooses itself, each with the cache before it. prompts.npz holds 4 prompts.
    """
    step, prefill = decoder(sizes, 1, seed), decoder(sizes, tokens, seed)
    save(step, folder / STEP)
    save(prefill, folder / PREFILL)
    rng = np.random.default_rng(seed)
    samples = list(recorded(step, sizes, rng.integers(sizes.words, size=8), steps))
    np.savez(folder / STEPS, **stacked(samples))  # type: ignore[arg-type]
    prompts = [feeds(sizes, rng.integers(sizes.words, size=tokens)) for _ in range(4)]
    np.savez(folder / PROMPTS, **stacked([{**sample, **empty(sizes)} for sample in prompts]))  # type: ignore[arg-type]


def decoder(sizes: Sizes, tokens: int, seed: int = 0) -> Graph:
    """The graph for ``tokens`` tokens at a time.

    Inputs: input_ids [1, tokens] int64; cos and sin [1, 1, tokens, head]; mask [1, 1, tokens, cache + tokens], added to the scores;
    past_key_N and past_value_N [1, key_heads, cache, head] per layer. Outputs: logits [1, tokens, words], new_key_N and
    new_value_N: the caches with the tokens at their end, the oldest ones having moved out at the front.
    """
    made = _Maker(sizes, tokens, weights(sizes, seed))
    state = made.node("Gather", "embedded", "embedding", "input_ids")
    for layer in range(sizes.layers):
        state = made.layer(state, layer)
    made.node("MatMul", "logits", made.normal(state, "final"), "head")
    spread = (1, 1, tokens, sizes.head)
    inputs: dict[str, tuple[str, tuple[int, ...]]] = {"input_ids": ("int64", (1, tokens))}
    inputs |= dict.fromkeys(("cos", "sin"), ("float32", spread))
    inputs |= {"mask": ("float32", (1, 1, tokens, sizes.cache + tokens))}
    inputs |= {name: ("float32", value.shape) for name, value in empty(sizes).items()}
    outputs = ["logits", *(name.replace("past", "new") for name in empty(sizes))]
    return make_graph(made.nodes, inputs, outputs, made.constants, name="decoder")


def weights(sizes: Sizes, seed: int = 0) -> dict[str, Array]:
    """Random weights, float32: those of a matrix have a deviation of 1 / sqrt(its inputs), so that values keep their size."""
    rng = np.random.default_rng(seed)
    shared = sizes.key_heads * sizes.head
    matrices = {"q": (sizes.hidden, sizes.hidden), "k": (sizes.hidden, shared), "v": (sizes.hidden, shared)}
    matrices |= {"o": (sizes.hidden, sizes.hidden), "gate": (sizes.hidden, sizes.inner), "up": (sizes.hidden, sizes.inner)}
    matrices |= {"down": (sizes.inner, sizes.hidden)}
    shapes = {f"{layer}.{name}": shape for layer in range(sizes.layers) for name, shape in matrices.items()}
    shapes |= {"head": (sizes.hidden, sizes.words)}
    found = {n: rng.standard_normal(shape, np.float32) / np.float32(shape[0] ** 0.5) for n, shape in shapes.items()}
    gains = [f"{layer}.{name}" for layer in range(sizes.layers) for name in ("attention", "mlp")]
    found |= {f"{n}.gain": rng.uniform(0.8, 1.2, sizes.hidden).astype(np.float32) for n in (*gains, "final")}
    return found | {"embedding": rng.standard_normal((sizes.words, sizes.hidden), np.float32)}


def feeds(sizes: Sizes, words: Array, before: int = 0) -> dict[str, Array]:
    """The inputs but for the cache for ``words``, whose first one has ``before`` words in front of it.

    Angles are those of "RoFormer", with the halves of a head turned against one another, as Llama's exporters have them.
    """
    count = len(words)
    frequencies = 10000.0 ** (-np.arange(0, sizes.head, 2) / sizes.head)
    angles = np.tile(np.outer(before + np.arange(count), frequencies), 2)[None, None].astype(np.float32)
    place = np.arange(sizes.cache + count) - sizes.cache  # from the first of the new words
    seen = (place >= -before) & (place <= np.arange(count)[:, None])
    mask = np.where(seen, 0.0, MASKED).astype(np.float32)[None, None]
    return {"input_ids": np.asarray(words, np.int64)[None], "cos": np.cos(angles), "sin": np.sin(angles), "mask": mask}


def empty(sizes: Sizes) -> dict[str, Array]:
    """The caches before the first word."""
    names = [f"past_{kind}_{layer}" for layer in range(sizes.layers) for kind in ("key", "value")]
    return {name: np.zeros((1, sizes.key_heads, sizes.cache, sizes.head), np.float32) for name in names}


def recorded(step: Graph, sizes: Sizes, prompt: Sequence[int] | Array, steps: int) -> Iterator[dict[str, Array]]:
    """The inputs of ``steps`` steps of the float model, which chooses the words behind the prompt itself."""
    from npukit.quantization import open_session

    cache, words = empty(sizes), [int(word) for word in prompt]
    with open_session(step, FLOAT_BACKEND) as session:
        for index in range(steps):
            sample = {**feeds(sizes, np.array(words[index : index + 1]), index), **cache}
            yield sample
            found = session.run(sample)
            cache = {name: found[name.replace("past", "new")] for name in cache}
            if index + 1 == len(words):
                words.append(int(found["logits"].argmax()))


def stacked(samples: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Samples as one array per input, as an .npz file for ``--data`` holds them."""
    return {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}


class _Maker:
    """Collects the nodes and constants of a decoder."""

    def __init__(self, sizes: Sizes, tokens: int, constants: dict[str, Array]) -> None:
        self.sizes, self.tokens, self.nodes, self.constants = sizes, tokens, list[Node](), constants
        self.constant("epsilon", np.float32(1e-5))
        self.constant("scale", np.float32(sizes.head**-0.5))

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def node(self, op: str, output: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(Node(op, output, inputs, (output,), attributes))
        return output

    def normal(self, x: str, name: str) -> str:
        """x / sqrt(mean of x^2 + epsilon), times a gain."""
        squares = self.node("Mul", f"{name}.squares", x, x)
        mean = self.node("ReduceMean", f"{name}.mean", squares, self.constant("last", np.array([-1])), keepdims=1)
        root = self.node("Sqrt", f"{name}.root", self.node("Add", f"{name}.raised", mean, "epsilon"))
        return self.node("Mul", f"{name}.normal", self.node("Div", f"{name}.even", x, root), f"{name}.gain")

    def split(self, x: str, name: str, heads: int) -> str:
        """[1, tokens, heads * head] -> [1, heads, tokens, head]."""
        shape = self.constant(f"{heads}.heads", np.array([1, self.tokens, heads, self.sizes.head]))
        return self.node("Transpose", f"{name}.turned", self.node("Reshape", f"{name}.split", x, shape), perm=(0, 2, 1, 3))

    def rotated(self, x: str, name: str) -> str:
        """Rotary positions: x cos + (-second half, first half) sin."""
        half, full = self.constant("half", np.array([self.sizes.head // 2])), self.constant("full", np.array([self.sizes.head]))
        start, axis = self.constant("zero", np.array([0])), self.constant("last", np.array([-1]))
        first = self.node("Slice", f"{name}.first", x, start, half, axis)
        second = self.node("Neg", f"{name}.minus", self.node("Slice", f"{name}.second", x, half, full, axis))
        other = self.node("Concat", f"{name}.other", second, first, axis=-1)
        parts = self.node("Mul", f"{name}.cos", x, "cos"), self.node("Mul", f"{name}.sin", other, "sin")
        return self.node("Add", f"{name}.rotated", *parts)

    def cached(self, x: str, kind: str, layer: int) -> str:
        """The cache with the new tokens behind it, for every head of the queries; the new cache leaves out the oldest."""
        sizes, name = self.sizes, f"{kind}_{layer}"
        whole = self.node("Concat", f"{name}.whole", f"past_{name}", x, axis=2)
        start, end = self.constant("tokens", np.array([self.tokens])), self.constant("end", np.array([sizes.cache + self.tokens]))
        self.node("Slice", f"new_{name}", whole, start, end, self.constant("places", np.array([2])))
        places, times = sizes.cache + self.tokens, sizes.heads // sizes.key_heads
        if times == 1:
            return whole
        apart = self.node("Unsqueeze", f"{name}.apart", whole, self.constant("places", np.array([2])))
        shape = self.constant("repeated", np.array([1, sizes.key_heads, times, places, sizes.head]))
        repeated = self.node("Expand", f"{name}.repeated", apart, shape)
        return self.node(
            "Reshape", f"{name}.every", repeated, self.constant("every", np.array([1, sizes.heads, places, sizes.head]))
        )

    def layer(self, state: str, layer: int) -> str:
        """Attention and MLP, each behind a normalization and added to its input."""
        sizes = self.sizes

        def times(weight: str, x: str) -> str:
            return self.node("MatMul", f"{layer}.{weight}.out", x, f"{layer}.{weight}")

        normal = self.normal(state, f"{layer}.attention")
        queries = self.rotated(self.split(times("q", normal), f"{layer}.q", sizes.heads), f"{layer}.q")
        keys = self.rotated(self.split(times("k", normal), f"{layer}.k", sizes.key_heads), f"{layer}.k")
        keys = self.cached(keys, "key", layer)
        values = self.cached(self.split(times("v", normal), f"{layer}.v", sizes.key_heads), "value", layer)
        scores = self.node("MatMul", f"{layer}.qk", queries, self.node("Transpose", f"{layer}.kt", keys, perm=(0, 1, 3, 2)))
        scores = self.node("Add", f"{layer}.masked", self.node("Mul", f"{layer}.scores", scores, "scale"), "mask")
        mixed = self.node("MatMul", f"{layer}.mixed", self.node("Softmax", f"{layer}.shares", scores, axis=-1), values)
        mixed = self.node("Transpose", f"{layer}.back", mixed, perm=(0, 2, 1, 3))
        together = self.constant("together", np.array([1, self.tokens, sizes.hidden]))
        mixed = self.node("Reshape", f"{layer}.together", mixed, together)
        state = self.node("Add", f"{layer}.attended", state, times("o", mixed))

        normal = self.normal(state, f"{layer}.mlp")
        gate = times("gate", normal)
        silu = self.node("Mul", f"{layer}.silu", gate, self.node("Sigmoid", f"{layer}.open", gate))
        inner = self.node("Mul", f"{layer}.inner", silu, times("up", normal))
        return self.node("Add", f"{layer}.state", state, times("down", inner))
