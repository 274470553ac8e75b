"""The Toy NPU: six ops on 8-bit grids. Constraints say what the chip accepts, kernels what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from npukit.backend import Accumulator, Call, Kernel, KernelBackend, OpConstraint, Port, Result, Soc
from npukit.backend.kernels import along_channels, centered, integer_bias, integer_weight, sliding_window
from npukit.encoding import Array
from npukit.graph import Graph, fold_affine, fold_constants, remove_dead_nodes
from npukit.plugins import hookimpl

SHEET = "Toy NPU data sheet, which does not exist"
X = Port(dtypes={"uint8"})
W = Port(dtypes={"int8"}, granularity={"tensor", "channel"}, axis=0, symmetric="always", constant=True)
BIAS = Port(dtypes={"int32"}, granularity={"tensor", "channel"}, derived=True, optional=True)
SAME = Port(dtypes={"uint8"}, same_as="in[0]")
PLAIN = {"auto_pad": ("NOTSET",), "dilations": (None, (1, 1))}
DENSE = {"transA": (0,), "transB": (1,), "alpha": (1.0,), "beta": (1.0,)}


class ToyNpu(KernelBackend):
    name = "toy"
    title = "Toy NPU, an example"

    def socs(self) -> tuple[Soc, ...]:
        return (Soc("toy1", "v1", source=SHEET),)

    def constraints(self) -> tuple[OpConstraint, ...]:
        return (
            OpConstraint("Conv", (X, W, BIAS), (X,), SHEET, attributes=PLAIN, min_rank=4, max_rank=4),
            OpConstraint("Gemm", (X, W, BIAS), (X,), SHEET, attributes=DENSE),
            OpConstraint("Add", (X, X), (X,), SHEET),
            OpConstraint("Relu", (X,), (X,), SHEET),
            OpConstraint("MaxPool", (X,), (SAME,), SHEET, attributes={**PLAIN, "ceil_mode": (0,)}, min_rank=4, max_rank=4),
            OpConstraint("Flatten", (X,), (SAME,), SHEET, attributes={"axis": (1,)}),
        )

    def fusions(self) -> tuple[tuple[str, ...], ...]:
        return (("Conv", "Relu"), ("Add", "Relu"))

    def prepare(self, graph: Graph) -> Graph:
        return remove_dead_nodes(fold_affine(fold_constants(graph)))

    def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
        return {"Conv": conv, "Gemm": gemm, "Add": add, "Relu": relu, "MaxPool": max_pool, "Flatten": flatten}


@hookimpl
def register_backends() -> ToyNpu:
    return ToyNpu()


def conv(call: Call) -> Sequence[Result]:
    """An exact integer sum; the backend requantizes it."""
    x, w, bias, scale = operands(call)
    window = sliding_window(call.node, x.shape[2:], w.shape[2:])
    groups = call.node.get("group", 1)
    columns = window.columns(window.padded(x)).reshape(len(x), groups, w[0].size, -1)
    total = (w.reshape(groups, -1, w[0].size) @ columns).reshape(len(x), len(w), *window.out)
    return [Accumulator(total + along_channels(bias, x.ndim), along_channels(scale, x.ndim))]


def gemm(call: Call) -> Sequence[Result]:
    x, w, bias, scale = operands(call)
    return [Accumulator(x @ w.T + bias, scale)]


def add(call: Call) -> Sequence[Result]:
    """Real values: the sdk rounds them to the grid of the output."""
    return [call.value(0).real() + call.value(1).real()]


def relu(call: Call) -> Sequence[Result]:
    return [np.maximum(call.value(0).real(), 0)]


def max_pool(call: Call) -> Sequence[Result]:
    x = call.value(0).real()
    window = sliding_window(call.node, x.shape[2:], call.node.get("kernel_shape"))
    return [window.columns(window.padded(x, -np.inf)).max(2).reshape(*x.shape[:2], *window.out)]


def flatten(call: Call) -> Sequence[Result]:
    x = call.value(0).real()
    return [x.reshape(len(x), -1)]


def operands(call: Call) -> tuple[Array, Array, Array, Array]:
    """Input, weight and bias as integers, and the scale of their sum; tensors without a grid stand for themselves."""
    x, w, bias = call.value(0), call.value(1), call.optional(2)
    weight = integer_weight(w, 0)
    if weight is None or x.encoding is None or x.encoding.is_float:
        return x.real(), w.real(), np.zeros(1) if bias is None else bias.real(), np.ones(1)
    scale = x.encoding.steps * weight.scale
    integers = integer_bias(bias, scale)
    # float64 holds every sum exactly
    return centered(x, np.float64), weight.values, np.zeros(1) if integers is None else integers, scale
