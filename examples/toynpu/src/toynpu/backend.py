"""The Toy NPU: six ops on 8-bit grids. Constraints say what the chip accepts, kernels what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from npukit.backend import Accumulator, Call, Kernel, KernelBackend, OpConstraint, Port, Result, Soc, Value
from npukit.encoding import Array, spread
from npukit.graph import Graph, Node, fold_batch_norm, fold_constants, remove_dead_nodes
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
        return remove_dead_nodes(fold_batch_norm(fold_constants(graph)))

    def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
        return {"Conv": conv, "Gemm": gemm, "Add": add, "Relu": relu, "MaxPool": max_pool, "Flatten": flatten}


@hookimpl
def register_backends() -> ToyNpu:
    return ToyNpu()


def conv(call: Call) -> Sequence[Result]:
    """An exact integer sum; the backend requantizes it."""
    (x, x_scale), (w, w_scale) = integers(call.value(0)), integers(call.value(1))
    taps = windows(x, w.shape[2:], call.node, 0.0)
    groups = call.node.get("group", 1)
    taps = taps.reshape(len(x), groups, -1, *taps.shape[2:])
    total = np.einsum("ngchwij,gocij->ngohw", taps, w.reshape(groups, -1, *w.shape[1:]), optimize=True)
    total = total.reshape(len(x), len(w), *taps.shape[3:5])
    scale = x_scale * w_scale.reshape(-1, 1, 1)
    return [Accumulator(total + bias(call, scale), scale)]


def gemm(call: Call) -> Sequence[Result]:
    (x, x_scale), (w, w_scale) = integers(call.value(0)), integers(call.value(1))
    scale = x_scale * w_scale.reshape(-1)
    return [Accumulator(x @ w.T + bias(call, scale), scale)]


def add(call: Call) -> Sequence[Result]:
    """Real values: the sdk rounds them to the grid of the output."""
    return [call.value(0).real() + call.value(1).real()]


def relu(call: Call) -> Sequence[Result]:
    return [np.maximum(call.value(0).real(), 0)]


def max_pool(call: Call) -> Sequence[Result]:
    return [windows(call.value(0).real(), call.node.get("kernel_shape"), call.node, -np.inf).max((-2, -1))]


def flatten(call: Call) -> Sequence[Result]:
    x = call.value(0).real()
    return [x.reshape(len(x), -1)]


def integers(value: Value) -> tuple[Array, Array]:
    """Codes minus zero point, and the scale; a tensor without a grid stands for itself. float64 holds every sum exactly."""
    if not value.is_codes or value.encoding is None:
        return value.real().astype(np.float64), np.ones(1)
    shape = value.data.shape
    return value.data - spread(value.encoding.zeros, value.encoding, shape).astype(np.float64), value.encoding.steps


def bias(call: Call, scale: Array) -> Array:
    """The bias in units of ``scale``, in its shape."""
    given = call.optional(2)
    if given is None:
        return np.zeros(())
    values = given.data if given.is_codes else given.real() / scale.reshape(-1)
    return values.reshape(-1, *[1] * (scale.ndim - 1))


def windows(x: Array, kernel: Sequence[int], node: Node, fill: float) -> Array:
    """(N, C, H, W) -> (N, C, rows, columns, *kernel), padded with ``fill``."""
    top, left, bottom, right = node.get("pads", (0, 0, 0, 0))
    down, across = node.get("strides", (1, 1))
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    return sliding_window_view(padded, tuple(kernel), (2, 3))[:, :, ::down, ::across]
