"""The graphs that the conformance kit runs: one op each, and a small network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np

from npukit.graph import Array, Graph, Node, Shape, make_graph


@attrs.frozen(eq=False)
class Sample:
    """A graph of one op: float inputs ``x0``, ``x1``, ... of the given shapes, then constants; outputs ``y0``, ``y1``, ..."""

    name: str
    op: str
    inputs: tuple[tuple[int, ...], ...]
    constants: tuple[Array, ...] = ()
    attributes: Mapping[str, Any] = attrs.field(factory=dict)
    outputs: int = 1

    def graph(self) -> Graph:
        """The sample as a graph."""
        inputs = {f"x{i}": ("float32", shape) for i, shape in enumerate(self.inputs)}
        constants = {f"c{i}": data for i, data in enumerate(self.constants)}
        outputs = tuple(f"y{i}" for i in range(self.outputs))
        node = Node(self.op, self.name, (*inputs, *constants), outputs, self.attributes)
        return make_graph([node], inputs, outputs, constants, name=self.name)


def random_feeds(graph: Graph, seed: int, *, count: int = 8, batch: int = 1, scale: float = 1.0) -> list[dict[str, Array]]:
    """``count`` samples of normal values that are not centered, so that zero points matter; symbolic dims become ``batch``."""
    rng = np.random.default_rng(seed)

    def values(name: str) -> Array:
        shape = [d if isinstance(d, int) else batch for d in graph.tensor(name).shape or ()]
        return (scale * (rng.standard_normal(shape) + 0.3)).astype(np.float32)

    return [{name: values(name) for name in graph.inputs} for _ in range(count)]


def small_cnn(supports: Callable[[str], bool], batch: str | int = "N") -> Graph:
    """Conv, Relu, Conv, Add, Relu, MaxPool, Flatten, Gemm on images of 3x8x8, without the ops that are not supported.

    What is left is a chain from input ``x`` to output ``y``; it may have no node at all.
    """
    make = _Builder(supports, (batch, 3, 8, 8))
    make.add("Conv", constants=(_noise(8, 3, 3, 3), _noise(8)), pads=(1, 1, 1, 1))
    make.add("Relu")
    shortcut = make.last
    if make.add("Conv", constants=(_noise(8, 8, 3, 3), _noise(8)), pads=(1, 1, 1, 1)):
        make.add("Add", shortcut)
        make.add("Relu")
    make.add("MaxPool", kernel_shape=(2, 2), strides=(2, 2)) or make.add("AveragePool", kernel_shape=(2, 2), strides=(2, 2))
    if make.add("Flatten") and make.width:
        make.add("Gemm", constants=(_noise(10, make.width), _noise(10)), transB=1)
    return make.graph()


class _Builder:
    """A chain of layers; the names of tensors count up."""

    def __init__(self, supports: Callable[[str], bool], shape: Shape) -> None:
        self._supports = supports
        self._nodes: list[Node] = []
        self._constants: dict[str, Array] = {}
        self._inputs = {"x": ("float32", shape)}
        self.last = "x"

    def add(self, op: str, *more: str, constants: tuple[Array, ...] = (), **attributes: Any) -> bool:
        """Append a layer that reads the last tensor, the tensors ``more`` and constants; False when it is not supported."""
        if not self._supports(op):
            return False
        index = len(self._nodes)
        named = {f"layer{index}.c{i}": data for i, data in enumerate(constants)}
        self._constants |= named
        self._nodes.append(Node(op, f"layer{index}", (self.last, *more, *named), (f"t{index}",), attributes))
        self.last = f"t{index}"
        return True

    @property
    def width(self) -> int:
        """The last dimension of the last tensor, 0 when it is not known."""
        dim = (self._graph(self._nodes, self.last).tensor(self.last).shape or (None,))[-1]
        return dim if isinstance(dim, int) else 0

    def graph(self) -> Graph:
        if not self._nodes:
            return self._graph([], "x")
        *nodes, last = self._nodes
        return self._graph([*nodes, attrs.evolve(last, outputs=("y",))], "y")

    def _graph(self, nodes: list[Node], output: str) -> Graph:
        return make_graph(nodes, self._inputs, [output], self._constants, name="small_cnn")


def _noise(*shape: int) -> Array:
    """Fixed random values: weights that keep the variance of a sum over all axes but the first, smaller ones for a vector."""
    size = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.3
    values: Array = size * np.random.default_rng(sum(shape)).standard_normal(shape)
    return values.astype(np.float32)


def _floats(*values: float) -> Array:
    return np.array(values, np.float32)


def _scalar(value: float) -> Array:
    return np.array(value, np.float32)


def _ints(*values: int) -> Array:
    return np.array(values, np.int64)


_IMAGE = (1, 4, 8, 8)
_ROWS = (1, 6, 16)
_ONE = (_IMAGE,)
_TWO = (_IMAGE, _IMAGE)

SAMPLES = (
    Sample("conv", "Conv", _ONE, (_noise(6, 4, 3, 3), _noise(6)), {"pads": (1, 1, 1, 1)}),
    Sample("conv_strided", "Conv", _ONE, (_noise(6, 4, 3, 3), _noise(6)), {"strides": (2, 2), "pads": (0, 0, 1, 1)}),
    Sample("conv_pointwise", "Conv", _ONE, (_noise(6, 4, 1, 1),)),
    Sample("conv_depthwise", "Conv", _ONE, (_noise(4, 1, 3, 3), _noise(4)), {"group": 4, "pads": (1, 1, 1, 1)}),
    Sample("conv_grouped", "Conv", _ONE, (_noise(6, 2, 3, 3), _noise(6)), {"group": 2}),
    Sample("conv_dilated", "Conv", _ONE, (_noise(6, 4, 3, 3), _noise(6)), {"dilations": (2, 2)}),
    Sample("conv_1d", "Conv", (_ROWS,), (_noise(5, 6, 3), _noise(5))),
    Sample("conv_transpose", "ConvTranspose", _ONE, (_noise(4, 3, 2, 2), _noise(3)), {"strides": (2, 2)}),
    Sample("gemm", "Gemm", ((3, 16),), (_noise(10, 16), _noise(10)), {"transB": 1}),
    Sample("gemm_plain", "Gemm", ((3, 16),), (_noise(16, 10), _noise(10))),
    Sample("matmul", "MatMul", (_ROWS,), (_noise(16, 10),)),
    Sample("matmul_of_two", "MatMul", (_ROWS, (1, 16, 5))),
    Sample("add", "Add", _TWO),
    Sample("add_constant", "Add", _ONE, (_noise(1, 4, 1, 1),)),
    Sample("add_broadcast", "Add", (_IMAGE, (1, 4, 1, 1))),
    Sample("sub", "Sub", _TWO),
    Sample("mul", "Mul", _TWO),
    Sample("mul_constant", "Mul", _ONE, (_noise(1, 4, 1, 1),)),
    Sample("div", "Div", _ONE, (_floats(1.5, -2.0, 3.0, 0.5).reshape(1, 4, 1, 1),)),
    Sample("relu", "Relu", _ONE),
    Sample("clip", "Clip", _ONE, (_scalar(0.0), _scalar(1.5))),
    Sample("leaky_relu", "LeakyRelu", _ONE, attributes={"alpha": 0.1}),
    Sample("sigmoid", "Sigmoid", _ONE),
    Sample("tanh", "Tanh", _ONE),
    Sample("hard_swish", "HardSwish", _ONE),
    Sample("gelu", "Gelu", _ONE),
    Sample("softmax", "Softmax", (_ROWS,)),
    Sample("max_pool", "MaxPool", _ONE, attributes={"kernel_shape": (2, 2), "strides": (2, 2)}),
    Sample("max_pool_padded", "MaxPool", _ONE, attributes={"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    Sample("average_pool", "AveragePool", _ONE, attributes={"kernel_shape": (2, 2), "strides": (2, 2)}),
    Sample("average_pool_padded", "AveragePool", _ONE, attributes={"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}),
    Sample("global_average_pool", "GlobalAveragePool", _ONE),
    Sample("reduce_mean", "ReduceMean", (_ROWS,), (_ints(-1),), {"keepdims": 1}),
    Sample("layer_normalization", "LayerNormalization", (_ROWS,), (1 + _noise(16), _noise(16))),
    Sample("concat", "Concat", _TWO, attributes={"axis": 1}),
    Sample("split", "Split", _ONE, (_ints(1, 3),), {"axis": 1}, outputs=2),
    Sample("slice", "Slice", _ONE, (_ints(1, 2), _ints(7, 8), _ints(2, 3), _ints(2, 1))),
    Sample("pad", "Pad", _ONE, (_ints(0, 0, 1, 1, 0, 0, 1, 1),)),
    Sample("gather", "Gather", (_ROWS,), (_ints(4, 0, 2),), {"axis": 1}),
    Sample("reshape", "Reshape", _ONE, (_ints(1, -1),)),
    Sample("flatten", "Flatten", _ONE),
    Sample("squeeze", "Squeeze", (_ROWS,), (_ints(0),)),
    Sample("unsqueeze", "Unsqueeze", (_ROWS,), (_ints(1),)),
    Sample("transpose", "Transpose", _ONE, attributes={"perm": (0, 2, 3, 1)}),
    Sample("depth_to_space", "DepthToSpace", _ONE, attributes={"blocksize": 2}),
)
"""Every sample; a backend is asked for those of the ops it supports."""
