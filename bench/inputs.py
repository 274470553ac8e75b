"""The other inputs of an op, given the shape of its data and its attributes; ``families`` says which op has which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from grid import Arg

Shape: TypeAlias = tuple[int, ...]
Attributes: TypeAlias = Mapping[str, Any]
Inputs: TypeAlias = Callable[[Shape, np.random.Generator, Attributes], list[Arg]]


def plain(*values: Any, dtype: Any = np.int64) -> Arg:
    return Arg(kind="plain", value=np.array(values, dtype))


def one(rng: np.random.Generator, *choices: Any) -> Any:
    return choices[rng.integers(len(choices))]


def scalar(value: Any) -> Arg:
    return Arg(kind="plain", value=np.asarray(value))


def maybe(rng: np.random.Generator, *args: Arg) -> list[Arg]:
    return list(args) if rng.random() < 0.5 else []


def same(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    """A second operand: of the same shape, of one that broadcasts, or a constant."""
    other = one(rng, shape, (1,) * (len(shape) - 1) + shape[-1:], shape[-1:], ())
    return [Arg(other, 0.2, 2, one(rng, "const", "act", "act"))]


def several(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    return [Arg(shape, -2, 2, one(rng, "const", "act", "act")) for _ in range(rng.integers(0, 4))]


def masks(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    return [Arg(one(rng, shape, shape[-1:]), kind="mask")]


def chosen(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    other = one(rng, shape, shape[-1:])
    return [Arg(shape, -1, 1), Arg(other, -2, 2, one(rng, "const", "act"))]


def axes(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    count = int(rng.integers(1, len(shape) + 1))
    chosen = sorted(int(a) for a in rng.choice(len(shape), count, replace=False))
    return one(rng, [plain(*chosen)], [plain(*chosen)], [plain(-1)], [])


def kernel(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    size = given.get("kernel_shape", (one(rng, 1, 3),) * (len(shape) - 2))
    outputs = one(rng, 8, 16)
    return [
        Arg((outputs, shape[1] // given.get("group", 1), *size), -0.5, 0.5, "weight"),
        *maybe(rng, Arg((outputs,), kind="bias")),
    ]


def turned_kernel(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    size, group = given.get("kernel_shape", (3,) * (len(shape) - 2)), given.get("group", 1)
    return [Arg((shape[1], 8 // group, *size), -0.5, 0.5, "weight"), *maybe(rng, Arg((8,), kind="bias"))]


def slope(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    last = len(shape) - 2
    return [Arg(one(rng, (), (1,), (1,) * (last + 1), (shape[1], *(1,) * last), (shape[1], *(1,) * last)), 0.1, 0.5, "const")]


def matrix(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    full = (*shape[:-2], shape[-1], 8)
    return [one(rng, Arg(full, -1, 1.5), Arg(full, -1, 1.5), Arg(full[-2:], -1, 1.5), Arg(full[-2:], -1, 1.5, "weight"),
                 Arg(full[-2:], -1, 1.5, "weight"), Arg(full, -1, 1.5, "const"))]  # fmt: skip


def fused(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    inner = shape[-2] if given.get("transA") else shape[-1]
    return [Arg((*shape[:-2], *((8, inner) if given.get("transB") else (inner, 8))), -1, 1.5)]


def gemm(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    rows, inner = shape[::-1] if given.get("transA") else shape
    c = one(
        rng, [], [Arg((8,), kind="bias")], [Arg((8,), kind="bias")], [Arg((rows, 8), -0.5, 0.5, "const")], [Arg((8,), -0.5, 0.5)]
    )
    return [Arg((8, inner) if given.get("transB") else (inner, 8), -0.5, 0.5, one(rng, "weight", "weight", "act")), *c]


def einsum(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    first, *others = given["equation"].split("->")[0].split(",")
    sizes = dict(zip(first, shape, strict=True))
    return [Arg(tuple(sizes.get(letter, 8) for letter in term), -1, 1.5) for term in others]


def pads(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    pads = plain(*(int(rng.integers(0, 2)) for _ in range(2 * len(shape))))
    value = scalar(np.float32(one(rng, 0, 0.5)))
    return one(rng, [pads], [pads, value], [plain(1, 1), Arg(kind="absent"), plain(len(shape) - 1)])


def scales(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    factors = rng.choice([0.5, 2.0, 1.5], len(shape) - 2)
    lead = [] if "axes" in given else [1.0, 1.0]
    if "keep_aspect_ratio_policy" in given or rng.random() < 0.2:
        sizes = [int(n) for n in (*(shape[:2] if lead else ()), *np.multiply(shape[2:], factors))]
        return [Arg(kind="absent"), Arg(kind="absent"), plain(*sizes)]
    roi = Arg(kind="absent")
    if given.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        roi = plain(*[0.1] * (len(lead) + len(factors)), *[0.9] * (len(lead) + len(factors)), dtype=np.float32)
    return [roi, plain(*lead, *factors, dtype=np.float32)]


def norm(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    over = shape[given.get("axis", -1) :]
    shift = one(rng, [], [Arg(over, -0.5, 0.5, "const")], [Arg(over, kind="bias")] if len(over) == 1 else [])
    return [Arg(over, 0.5, 1.5, "const"), *shift]


def rms(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    return norm(shape, rng, given)[:1]


def per_channel(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    return [Arg(shape[1:2], 0.5, 1.5, "const"), Arg(shape[1:2], -0.5, 0.5, one(rng, "const", "bias"))]


def batch(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    return [*per_channel(shape, rng, given), Arg(shape[1:2], -0.5, 0.5, "const"), Arg(shape[1:2], 0.5, 1.5, "const")]


def groups(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    return [Arg(shape[1:2], 0.5, 1.5, "const"), Arg(shape[1:2], -0.5, 0.5, "const")]


def indices(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    found = one(rng, np.array([0, 0]), np.array(0), np.array([[0, 0], [0, 0]]), np.array([-1]))
    return [Arg(kind=one(rng, "plain", "plain", "fed"), value=found)]


def elements(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    return [Arg(kind=one(rng, "plain", "fed"), value=np.zeros((1, *shape[1:]), np.int64))]


def tuples(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    batch = shape[: given.get("batch_dims", 0)]
    return [Arg(kind=one(rng, "plain", "fed"), value=np.zeros((*batch, 3, one(rng, 1, len(shape) - len(batch))), np.int64))]


def scattered(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    return [scalar(np.zeros((1,) * len(shape), np.int64)), Arg((1,) * len(shape), -1, 1.2)]


def scattered_rows(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    depth = one(rng, 1, len(shape))
    return [scalar(np.zeros((1, depth), np.int64)), Arg((1, *shape[depth:]), -1, 1.2)]


def grid(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    return [Arg((shape[0], *(5,) * (len(shape) - 2), len(shape) - 2), -1, 1)]


def limits(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    low, high = scalar(np.float32(one(rng, 0, -0.5))), scalar(np.float32(1.0))
    return one(rng, [low, high], [low], [Arg(kind="absent"), high], [])


def slices(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    last = len(shape) - 1
    return one(rng, [plain(1), plain(3), plain(last)], [plain(0), plain(4), plain(last), plain(2)],
                [plain(-1), plain(-4), plain(last), plain(-1)], [plain(*[0] * len(shape)), plain(*shape)])  # fmt: skip


def target(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    return [one(rng, plain(-1), plain(shape[0], -1), plain(1, *shape), plain(*(() if given.get("allowzero") else (0,)), -1, 2, 2))]


def ones(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    return one(rng, [plain(0)], [])


def new_axes(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    return [one(rng, plain(0), plain(-1), plain(1), plain(0, 2))]


def wider(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    return [one(rng, plain(1, *shape), plain(3, *shape), plain(*shape))]


def repeats(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    return [plain(*(int(rng.integers(1, 3)) for _ in shape))]


def parts(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    size = shape[given.get("axis", 0)]
    return [] if "num_outputs" in given else [plain(1, size - 1)]


def regions(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    boxes = np.array([[0, 0, 4, 4], [1, 1, 5, 5]], np.float32)
    return [one(rng, scalar(boxes), Arg((2, 4), 0, 5)), plain(0, 0)]


def gates(count: int) -> Inputs:
    def made(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
        runs, hidden = 2 if given.get("direction") == "bidirectional" else 1, given["hidden_size"]
        weights = [Arg((runs, count * hidden, n), -0.5, 0.5, "weight") for n in (shape[2], hidden)]
        return [*weights, *maybe(rng, Arg((runs, 2 * count * hidden), -0.1, 0.1, "const"))]

    return made


def blocks(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    blocks = -(-given["K"] // given["block_size"])
    packed = rng.integers(0, 256, (given["N"], blocks, given["block_size"] * given["bits"] // 8)).astype(np.uint8)
    return [scalar(packed), scalar(rng.uniform(0.01, 0.1, given["N"] * blocks).astype(np.float32))]


def rotation(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    half = (given.get("rotary_embedding_dim") or (shape[-1] if len(shape) == 4 else shape[-1] // given["num_heads"])) // 2
    cache = Arg((8, half), -1, 1, "const")
    return one(rng, [cache, cache, scalar(np.arange(8)[None])], [Arg((1, 8, half), -1, 1, "const")] * 2)


def frames(shape: Shape, rng: np.random.Generator, given: Attributes) -> list[Arg]:
    window = scalar(np.hanning(one(rng, 16, 32)).astype(np.float32))
    return [scalar(one(rng, 8, 16)), window, *maybe(rng, scalar(window.value.size))]
