"""A plugin of somebody else's, as one file: an NPU that knows int8 on symmetric power-of-two grids and rounds with shifts."""

from collections.abc import Mapping, Sequence

import numpy as np

from npukit.backend import (
    Accumulator,
    Call,
    FastCall,
    Kernel,
    KernelBackend,
    Lowering,
    OpConstraint,
    Option,
    Port,
    Precision,
    Result,
    Scheme,
    Soc,
    Value,
)
from npukit.backend.kernels import along_channels, centered, integer_bias, integer_weight, sliding_window
from npukit.calibration import Observer, Range, Seen
from npukit.encoding import Array, Encoding
from npukit.graph import Graph, fold_affine, fold_constants, remove_dead_nodes
from npukit.plugins import hookimpl

SHEET = "data sheet of the Shift NPU, which does not exist"
GRID = {"dtypes": {"int8"}, "symmetric": "always", "power_of_two": True}
X, SAME = Port(**GRID), Port(**GRID, same_as="in[0]")
W = Port(**GRID, granularity={"tensor", "channel"}, axis=0, constant=True)
BIAS = Port(dtypes={"int32"}, granularity={"tensor", "channel"}, derived=True, optional=True)


DENSE = {"transA": (0,), "transB": (1,), "alpha": (1,), "beta": (1,)}


class ShiftNpu(KernelBackend):
    """Integer products, requantized by a shift."""

    name = "shift"
    title = "Shift NPU: int8, powers of two"

    def options(self) -> tuple[Option, ...]:
        text = "what becomes of the bits that a shift drops"
        return (Option("rounding", str, "nearest", choices=("nearest", "floor"), help=text, effect="results"),)

    def socs(self) -> tuple[Soc, ...]:
        return (Soc("S2", "v2", features={"depthwise": True}), Soc("S1", "v1"))

    def constraints(self) -> tuple[OpConstraint, ...]:
        return (
            OpConstraint("Conv", (X, W, BIAS), (X,), SHEET, attributes={"group": (1,)}, min_rank=4, max_rank=4),
            OpConstraint("Conv", (X, W, BIAS), (X,), SHEET, features={"depthwise"}, variant="depthwise", min_rank=4, max_rank=4),
            OpConstraint(
                "Gemm", (X, W, BIAS), (X,), SHEET, attributes={"transA": (0,), "transB": (1,), "alpha": (1,), "beta": (1,)}
            ),
            OpConstraint("Relu", (X,), (SAME,), SHEET),
            OpConstraint("Add", (X, X), (X,), SHEET),
            OpConstraint("Flatten", (X,), (SAME,), SHEET, attributes={"axis": (1,)}),
            OpConstraint("MaxPool", (X,), (SAME,), SHEET, attributes={"ceil_mode": (0,)}, min_rank=4, max_rank=4),
        )

    def precision(self, soc: Soc) -> Precision:
        return Precision("int8", "int8")

    def scheme(self, soc: Soc) -> Scheme:
        return Scheme(activations="symmetric", power_of_two=True)

    def prepare(self, graph: Graph) -> Graph:
        return remove_dead_nodes(fold_affine(fold_constants(graph)))

    def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
        return {"Conv": conv, "Gemm": gemm, "Relu": relu, "Add": add, "Flatten": flatten, "MaxPool": max_pool}

    def lowerings(self, soc: Soc) -> Mapping[str, Lowering]:
        return {"Relu": fast_relu}

    def requantize(self, acc: Accumulator, out: Encoding, soc: Soc) -> Array:
        scaled = np.asarray(acc.values, np.float64) * (np.asarray(acc.scale, np.float64) / float(out.steps))
        rounded = np.floor(scaled + (0.5 if self.settings["rounding"] == "nearest" else 0.0))
        return np.clip(rounded, out.qmin, out.qmax).astype(np.int8)


def operands(call: Call) -> tuple[Array, Array, Array, Array]:
    """Input, weight and bias as integers, and the scale of their sums."""
    x, w, bias = call.value(0), call.value(1), call.optional(2)
    weight = integer_weight(w, 0)
    assert weight is not None
    assert x.encoding is not None  # check refuses a model in float
    scale = x.encoding.steps * weight.scale
    integers = integer_bias(bias, scale)
    return centered(x, np.float64), weight.values.astype(np.float64), np.zeros(1) if integers is None else integers, scale


def conv(call: Call) -> Sequence[Result]:
    x, w, bias, scale = operands(call)
    window, groups = sliding_window(call.node, x.shape[2:], w.shape[2:]), call.node.get("group", 1)
    columns = window.columns(window.padded(x)).reshape(len(x), groups, w[0].size, -1)
    total = (w.reshape(groups, -1, w[0].size) @ columns).reshape(len(x), len(w), *window.out)
    return [Accumulator(total + along_channels(bias, x.ndim), along_channels(scale, x.ndim))]


def gemm(call: Call) -> Sequence[Result]:
    x, w, bias, scale = operands(call)
    return [Accumulator(x @ w.T + bias, scale)]


def relu(call: Call) -> Sequence[Result]:
    return [Value(np.maximum(call.value(0).data, 0), call.value(0).encoding)]


def fast_relu(call: FastCall) -> bool:
    """In steps from the zero point, which float32 holds exactly."""
    grid = call.wanted()
    return grid is not None and call.give(call.rounded(call.write("Relu", call.integers(0)), grid))


def add(call: Call) -> Sequence[Result]:
    return [Accumulator(call.value(0).real().astype(np.float64) + call.value(1).real(), np.ones(()))]


def flatten(call: Call) -> Sequence[Result]:
    return [Value(call.value(0).data.reshape(len(call.value(0).data), -1), call.value(0).encoding)]


def max_pool(call: Call) -> Sequence[Result]:
    x = call.value(0).data
    window = sliding_window(call.node, x.shape[2:], call.node.get("kernel_shape"))
    best = window.columns(window.padded(x.astype(np.float32), -128)).max(2)
    return [Value(best.reshape(*x.shape[:2], *window.out).astype(np.int8), call.value(0).encoding)]


class Tails(Observer):
    """A calibration method of the vendor's: a hundredth of the values may be cut off."""

    name = "tails"
    title = "all but the outermost hundredth"

    def range(self, seen: Seen, dtype: str, percentile: float = 99.99) -> Range:
        values, counts = seen.values()
        inside = np.cumsum(counts) / counts.sum()
        return Range(float(values[inside >= 0.005][0]), float(values[inside <= 0.995][-1]))


@hookimpl
def register_backends() -> ShiftNpu:
    return ShiftNpu()


@hookimpl
def register_observers() -> Tails:
    return Tails()
