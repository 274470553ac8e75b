"""Forms of ops drawn at random: attributes, ranks and input counts that the cells of ``grid`` do not vary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import attrs
import numpy as np
from grid import Arg, Case

_Shape: TypeAlias = tuple[int, ...]


@attrs.frozen
class Family:
    """An op with the ranks of its data and the values of each attribute; ``more`` makes the other inputs for a shape."""

    op: str
    ranks: tuple[int, ...] = (2, 3, 4)
    attributes: Mapping[str, tuple[Any, ...]] = attrs.field(factory=dict)
    more: Callable[[_Shape, np.random.Generator], list[Arg]] = lambda shape, rng: []
    keeps: bool = False
    outputs: int = 1
    low: float = -1.0


@attrs.frozen
class Form:
    """A drawn case: ``attribute`` is what was varied, "name=value", or "rank=n"."""

    case: Case
    act: str
    weight: str
    attribute: str


def _plain(*values: Any, dtype: Any = np.int64) -> Arg:
    return Arg(kind="plain", value=np.array(values, dtype))


def _same(shape: _Shape, rng: np.random.Generator) -> list[Arg]:
    """A second operand: of the same shape, of one that broadcasts, or a constant."""
    other = [shape, (1,) * (len(shape) - 1) + shape[-1:], shape[-1:]][rng.integers(3)]
    return [Arg(other, 0.2, 2, "const" if rng.random() < 0.4 else "act")]


def _several(shape: _Shape, rng: np.random.Generator) -> list[Arg]:
    return [Arg(shape, -2, 2) for _ in range(rng.integers(0, 4))]


def _axes(shape: _Shape, rng: np.random.Generator) -> list[Arg]:
    count = int(rng.integers(1, len(shape) + 1))
    return [_plain(*sorted(int(a) for a in rng.choice(len(shape), count, replace=False)))]


def _kernel(op: str) -> Callable[[_Shape, np.random.Generator], list[Arg]]:
    def made(shape: _Shape, rng: np.random.Generator) -> list[Arg]:
        sizes = (8, shape[1]) if op == "Conv" else (shape[1], 8)
        bias = [Arg((8,), kind="bias")] if rng.random() < 0.5 else []
        return [Arg((*sizes, *(3,) * (len(shape) - 2)), -0.5, 0.5, "weight"), *bias]

    return made


def _slope(shape: _Shape, rng: np.random.Generator) -> list[Arg]:
    slopes = [(), (1,), (1,) * (len(shape) - 1), (shape[1], *(1,) * (len(shape) - 2))]
    return [Arg(slopes[rng.integers(4)], 0.1, 0.5, "const")]


def _matrix(shape: _Shape, rng: np.random.Generator) -> list[Arg]:
    other = (*shape[:-2], shape[-1], 8) if rng.random() < 0.6 else (shape[-1], 8)
    return [Arg(other, -1, 1.5, "weight" if len(other) == 2 and rng.random() < 0.5 else "act")]


def _gemm(shape: _Shape, rng: np.random.Generator) -> list[Arg]:
    c = [[], [Arg((8,), -0.5, 0.5, "bias")], [Arg((shape[0], 8), -0.5, 0.5, "const")]][rng.integers(3)]
    return [Arg((shape[1], 8), -0.5, 0.5, "weight" if rng.random() < 0.7 else "act"), *c]


def _pads(shape: _Shape, rng: np.random.Generator) -> list[Arg]:
    return [_plain(*(int(rng.integers(0, 2)) for _ in range(2 * len(shape))))]


def _scales(shape: _Shape, rng: np.random.Generator) -> list[Arg]:
    scales = (1, 1, *rng.choice([0.5, 2.0, 1.5], len(shape) - 2))
    return [Arg(kind="absent"), _plain(*scales, dtype=np.float32)]


def _norm(shape: _Shape, rng: np.random.Generator) -> list[Arg]:
    return [Arg(shape[-1:], 0.5, 1.5, "const"), *([Arg(shape[-1:], -0.5, 0.5, "const")] if rng.random() < 0.5 else [])]


_WINDOW = {"strides": (1, 2), "dilations": (1, 2), "pads": (0, 1), "ceil_mode": (0, 1), "auto_pad": ("VALID", "SAME_UPPER")}
_REDUCE = {"keepdims": (0, 1), "noop_with_empty_axes": (0, 1)}
FAMILIES = (
    *(Family(op, (1, 2, 3, 4, 5)) for op in ("Relu", "Sigmoid", "HardSwish", "Abs", "Neg", "Exp", "Floor", "Round", "Sin")),
    *(Family(op, (1, 2, 3, 4, 5), low=0.1) for op in ("Sqrt", "Log")),
    *(Family(op, (1, 2, 3, 4, 5), more=_same) for op in ("Add", "Sub", "Mul", "Div")),
    *(Family(op, (2, 4), more=_several) for op in ("Max", "Min", "Sum", "Mean")),
    *(Family(op, (2, 3, 4, 5), {"axis": (-1, 0, 1)}) for op in ("Softmax", "LogSoftmax")),
    *(Family(op, (2, 3, 4, 5), _REDUCE, _axes) for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2")),
    *(Family(op, (2, 4), {"keepdims": (0, 1)}, _axes, low=0.2) for op in ("ReduceSumSquare", "ReduceL1", "ReduceLogSumExp")),
    *(Family(op, (2, 3, 4), {"axis": (0, 1, -1), "keepdims": (0, 1), "select_last_index": (0, 1)}) for op in ("ArgMax", "ArgMin")),
    Family("Elu", attributes={"alpha": (0.5, 1.0)}),
    Family("LeakyRelu", attributes={"alpha": (0.01, 0.3)}),
    Family("Gelu", attributes={"approximate": ("none", "tanh")}),
    Family("HardSigmoid", attributes={"alpha": (0.2, 1 / 6), "beta": (0.5, 0.4)}),
    Family("PRelu", (2, 3, 4), more=_slope),
    Family("Mod", (2, 4), {"fmod": (0, 1)}, _same),
    Family("Conv", (3, 4, 5), {"strides": (1, 2), "dilations": (1, 2), "pads": (0, 1)}, _kernel("Conv")),
    Family("ConvTranspose", (3, 4), {"strides": (1, 2), "dilations": (1, 2), "pads": (0, 1)}, _kernel("ConvTranspose")),
    Family("MaxPool", (3, 4, 5), _WINDOW, keeps=True),
    Family("AveragePool", (3, 4, 5), {**_WINDOW, "count_include_pad": (0, 1)}, keeps=True),
    Family("Gemm", (2,), {"alpha": (1.0, 0.5), "beta": (1.0, 0.5)}, _gemm),
    Family("MatMul", (2, 3, 4, 5), more=_matrix),
    Family("Resize", (4,), {"mode": ("nearest", "linear", "cubic"), "antialias": (0, 1), "nearest_mode": ("floor", "ceil"),

        "coordinate_transformation_mode": ("asymmetric", "half_pixel", "align_corners")}, _scales, keeps=True),
    Family("Pad", (2, 3, 4, 5), {"mode": ("constant", "reflect", "edge", "wrap")}, _pads, keeps=True),
    Family("LayerNormalization", (2, 3, 4), {"axis": (-1, 1), "epsilon": (1e-5, 1e-3)}, _norm),
    Family("LpNormalization", (2, 4), {"axis": (-1, 1, 0), "p": (1, 2)}),
    Family("Flatten", (2, 3, 4), {"axis": (0, 1, 2)}, keeps=True),
    Family("DepthToSpace", (4,), {"blocksize": (2,), "mode": ("DCR", "CRD")}, keeps=True),
    Family("Gather", (2, 3, 4), {"axis": (0, 1, -1)}, lambda shape, rng: [_plain(0, 0)], keeps=True),
    Family("Concat", (2, 4), {"axis": (0, 1, -1)}, lambda shape, rng: [Arg(shape, -2, 2)]),
    Family("TopK", (2, 3), {"axis": (-1, 0), "largest": (0, 1), "sorted": (0, 1)},
        lambda shape, rng: [_plain(2)], keeps=True, outputs=2),
    Family("CumSum", (2, 3), {"exclusive": (0, 1), "reverse": (0, 1)},
        lambda shape, rng: [Arg(kind="plain", value=np.array(1))]),
)  # fmt: skip


def draw(count: int, seed: int) -> Iterator[tuple[str, Form]]:
    """``count`` named forms: an op, the rank of its data, one type, and a value of one or two of its attributes."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        family = FAMILIES[index % len(FAMILIES)]
        rank = int(rng.choice(family.ranks))
        shape = ((2, 4, 6, 6, 6) if rank < 3 else (1, 8, 6, 6, 6))[:rank]
        names = [str(n) for n in rng.permutation(list(family.attributes))[: rng.integers(1, 3)]]
        chosen = {name: _pick(family.attributes[name], rng) for name in names}
        args = (Arg(shape, family.low, 1.2), *family.more(shape, rng))
        axes = (1, 0) if family.op in ("ConvTranspose", "Gemm", "MatMul") else (0, 1)
        case = Case(family.op, args, _spread(family, chosen, rank), family.outputs, family.keeps, axes=axes)
        act = str(rng.choice(["u8", "u16", "s8", "s16", "f16", "f32"], p=[0.35, 0.35, 0.1, 0.05, 0.05, 0.1]))
        varied = ", ".join(f"{name}={value}" for name, value in chosen.items())
        yield (
            f"{seed}.{index}",
            Form(case, act, "s8" if case.weighted else "-", f"rank={rank}, {varied}".rstrip(", ")),
        )


def _pick(values: tuple[Any, ...], rng: np.random.Generator) -> Any:
    return values[rng.integers(len(values))]


def _spread(family: Family, chosen: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """The attributes as the op takes them: one value per spatial dimension for those of a window."""
    found = dict(chosen)
    for name, times in (("strides", 1), ("dilations", 1), ("pads", 2)):
        if name in found:
            found[name] = (found[name],) * (times * (rank - 2))
    if "auto_pad" in found:
        found.pop("pads", None)
    if family.op in ("MaxPool", "AveragePool"):
        found["kernel_shape"] = (3,) * (rank - 2)
    return {"blocksize": 2, **found} if family.op == "DepthToSpace" else found
