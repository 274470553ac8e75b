"""Nodes that compute in a float type, as islands between grids or on float tensors: real values in float32, rounded behind every
node when the type is float16.

One float32 operation is the same everywhere. Sums have a fast form in float16 only: they are float64, as in the kernels, where
products of float16 numbers are summed without an error that rounding to 11 bits could show. ONNX Runtime has no Conv in float64, so
a convolution is a MatMul of its windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

import numpy as np

from npukit.backend import FastCall, Lowering, Operand
from npukit.backend.kernels import Window, along_channels, sliding_window
from npukit.backend.library.kernels.conv import correlate
from npukit.backend.library.lower.norm import NORM
from npukit.backend.library.lower.tables import TABLES, tabulated
from npukit.backend.library.lower.windows import windows
from npukit.backend.ort import OrtModel
from npukit.graph import Node, make_graph

_FLOAT, _DOUBLE = 1, 11  # TensorProto


def _real(write: Callable[[FastCall], str | None], *, data: int = 0, picks: bool = False) -> Lowering:
    """``write`` for nodes of a float type whose inputs, or the first ``data`` of them, are real values; the others are constant.

    ``picks`` says that its results are values of its inputs.
    """

    def run(call: FastCall) -> bool:
        count = len(call.node.inputs)
        constant = all(call.constant(i) is not None or not call.has(i) for i in range(data or count, count))
        if call.type == "int" or not constant or not all(call.has_real(i) for i in range(data or count) if call.has(i)):
            return False
        values = write(call)
        return values is not None and call.give_real(values, picked=picks)

    return run


def _sum(write: Callable[[FastCall], str | None], *, data: int = 0) -> Lowering:
    """``_real`` for nodes of type float16: sums of float32 have no order that all agree on."""
    real = _real(write, data=data)
    return lambda call: call.type == "float16" and real(call)


def _chain(op: str) -> Lowering:
    return _real(lambda call: str(reduce(lambda a, b: call.write(op, a, b), (call.real(i) for i in range(len(call.node.inputs))))))


def _total(call: FastCall) -> str:
    """The sum of all inputs; in float16 every addition is rounded, the last one with the result."""
    total = call.real(0)
    for index in range(1, len(call.node.inputs)):
        rounds = call.type == "float16" and index > 1
        total = call.write("Add", call.half(total) if rounds else total, call.real(index))
    return call.write("Identity", total) if isinstance(total, Operand) else total


def _divided(call: FastCall) -> bool:
    """Div where 0 / 0, which has no code that all agree on, cannot be or stays NaN."""
    divisor = call.real_constant(1)
    is_safe = call.wanted() is None if divisor is None else bool(np.all(divisor))
    return is_safe and _chain("Div")(call)


def _or_table(real: Lowering) -> Lowering:
    """A function of one value: its table between grids, else an operator of ONNX Runtime."""
    return lambda call: tabulated(call) or real(call)


def _same(call: FastCall) -> str:
    """The op itself, on real values and plain constants."""
    others = (_plain(call, i) for i in range(1, len(call.node.inputs)))
    return call.write(call.node.op, call.real(0), *others, **call.node.attributes)


def _plain(call: FastCall, index: int) -> Operand | str:
    """A further input: a shape as it is, the value that Pad fills in as a real value."""
    return call.real(index) if call.has_real(index) else call.plain(index)


def _split(call: FastCall) -> bool:
    if call.type == "int" or not call.has_real(0) or (call.has(1) and call.constant(1) is None):
        return False
    sizes = (call.plain(1),) if call.has(1) else ()  # ONNX Runtime takes sizes or num_outputs, an absent input is one too many
    made = call.write_many("Split", call.real(0), *sizes, outputs=len(call.node.outputs), **call.node.attributes)
    return all(call.give_real(name, index, picked=True) for index, name in enumerate(made))


def _identity(call: FastCall) -> str:
    return call.write("Identity", call.real(0))


def _concat(call: FastCall) -> str:
    return call.write("Concat", *(call.real(i) for i in range(len(call.node.inputs))), **call.node.attributes)


def _clip(call: FastCall) -> str:
    limits = [call.real(i) if call.has(i) else "" for i in range(1, len(call.node.inputs))]
    return call.write("Clip", call.real(0), *limits)


def _max_pool(call: FastCall) -> str | None:
    return None if call.node.get("ceil_mode", 0) or len(call.node.outputs) > 1 else _same(call)


def _global_average_pool(call: FastCall) -> str | None:
    return _mean(call, tuple(range(2, len(call.shape(0) or ()))), 1)


def _reduce_mean(call: FastCall) -> str | None:
    given, rank = call.constant(1), len(call.shape(0) or ())
    axes = () if given is None or not rank else tuple(int(a) % rank for a in np.ravel(given.data))
    return _mean(call, axes, int(call.node.get("keepdims", 1)))


def _mean(call: FastCall, axes: tuple[int, ...], keepdims: int) -> str | None:
    sizes = [size for axis, size in enumerate(call.shape(0) or ()) if axis in axes and isinstance(size, int)]
    if not axes or len(sizes) != len(axes):
        return None
    total = call.write("ReduceSum", _wide(call, call.real(0)), call.literal(axes, np.int64), keepdims=keepdims)
    return _narrow(call, call.write("Div", total, call.literal(np.prod(sizes), np.float64)))


def _wide(call: FastCall, values: Operand | str) -> str:
    return call.write("Cast", values, to=_DOUBLE)


def _narrow(call: FastCall, values: str) -> str:
    return call.write("Cast", values, to=_FLOAT)


def _matmul(call: FastCall) -> str:
    return _narrow(call, call.write("MatMul", _wide(call, call.real(0)), _wide(call, call.real(1))))


def _gemm(call: FastCall) -> str | None:
    node = call.node
    if (node.get("alpha", 1.0), node.get("beta", 1.0)) != (1.0, 1.0):
        return None
    total = call.write("Gemm", *(_wide(call, call.real(i)) for i in range(2)), **node.attributes)
    return _narrow(call, call.write("Add", total, _wide(call, call.real(2))) if call.has(2) else total)


def _conv(call: FastCall) -> str | None:
    """Conv in two dimensions: as such when it is depthwise, else as a product of the weight with the windows."""
    shape, w, bias = call.shape(0) or (), call.constant(1), call.constant(2)
    sizes = [d for d in shape if isinstance(d, int)]
    if w is None or len(sizes) != len(shape) or len(sizes) != 4 or (call.has(2) and bias is None):
        return None
    window = sliding_window(call.node, (sizes[2], sizes[3]), w.data.shape[2:])
    return _depthwise(call, sizes, window) if w.data.shape[1] == 1 else _product(call, window)


def _depthwise(call: FastCall, sizes: list[int], window: Window) -> str | None:
    """A depthwise Conv in float32, when ONNX Runtime adds the products in the order of the kernel: both are asked."""
    weight, bias = call.real_constant(1), call.real_constant(2)
    assert weight is not None
    constants = {"w": weight} if bias is None else {"w": weight, "b": bias}
    pads = tuple(pad[side] for side in (0, 1) for pad in window.pads)
    attributes = {**call.node.attributes, "auto_pad": "NOTSET", "pads": pads}
    graph = make_graph(
        [Node("Conv", "c", ("x", *constants), ("y",), attributes)], {"x": ("float32", tuple(sizes))}, ["y"], constants
    )
    x = np.random.default_rng(0).standard_normal(sizes).astype(np.float16).astype(np.float32)
    expected = correlate(x, weight.reshape(sizes[1], -1, len(window.taps())), window)
    if bias is not None:
        expected = expected + along_channels(bias, 4)
    with OrtModel(graph) as model:
        if not np.array_equal(model.run({"x": x})["y"], expected):
            return None
    return call.write("Conv", call.real(0), *(call.literal(values) for values in constants.values()), **attributes)


def _product(call: FastCall, window: Window) -> str | None:
    """A Conv without groups as the product of the weight (O, K * C) with the windows (N, K * C, positions), in float64."""
    weight, bias = call.real_constant(1), call.real_constant(2)
    assert weight is not None
    if call.node.get("group", 1) != 1:
        return None
    rows = len(weight)
    matrix = weight.reshape(rows, weight.shape[1], -1).swapaxes(1, 2).reshape(rows, -1)
    columns = call.write(
        "Reshape", windows(call, _wide(call, call.real(0)), window, 2, 1), call.literal([0, matrix.shape[1], -1], np.int64)
    )
    total = call.write("MatMul", call.literal(matrix, np.float64), columns)
    if bias is not None:
        total = call.write("Add", total, call.literal(bias.reshape(-1, 1), np.float64))
    return call.write("Reshape", _narrow(call, total), call.literal([0, rows, *window.out], np.int64))


_MOVEMENT = [
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "Pad",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
]

REAL: Mapping[str, Lowering] = {
    **NORM,
    **TABLES,
    **{op: _real(_same, data=1, picks=True) for op in (*_MOVEMENT, "GlobalMaxPool")},
    **{op: _real(_identity, data=1, picks=True) for op in ("Dropout", "Identity")},
    **{op: _chain(op) for op in ("Add", "Max", "Min", "Mul", "PRelu", "Sub")},
    "Clip": _or_table(_real(_clip, picks=True)),
    "Concat": _real(_concat, picks=True),
    "Conv": _sum(_conv),
    "Div": _divided,
    "Gemm": _sum(_gemm),
    "GlobalAveragePool": _sum(_global_average_pool),
    "LeakyRelu": _or_table(_real(_same)),
    "MatMul": _sum(_matmul),
    "MaxPool": _real(_max_pool, picks=True),
    "ReduceMean": _sum(_reduce_mean, data=1),
    "Relu": _or_table(_real(_same, picks=True)),
    "Split": _split,
    "Sum": _real(_total),
}
"""Every op that has a fast form in a float type; functions of one value have it between grids, where they are a table."""
