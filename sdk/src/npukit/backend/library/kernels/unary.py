"""Functions of one value, looked up in a table of correctly rounded results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from npukit.backend import Call, Kernel, Result, Value
from npukit.backend.kernels import ArrayFunction, same_grid, tabulate
from npukit.encoding import Array
from npukit.graph import Node


def _sigmoid(x: Array) -> Array:
    return 0.5 * (np.tanh(0.5 * x) + 1)


_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592, 0.0)


def erf(x: Array) -> Array:
    """The error function to 1.5e-7 (Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, formula 7.1.26)."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = np.zeros_like(t)
    for c in _ERF:
        series = series * t + c
    return np.asarray(np.sign(x) * (1 - series * np.exp(-x * x)))


def _gelu(node: Node) -> ArrayFunction:
    if node.get("approximate", "none") == "tanh":
        return lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2)))


def _hard_sigmoid(node: Node) -> ArrayFunction:
    # In float32 as ONNX defines it: a slope that is a multiple of the steps makes every value a tie.
    alpha, beta = np.float32(node.get("alpha", 0.2)), np.float32(node.get("beta", 0.5))
    return lambda x: np.clip(alpha * x.astype(np.float32) + beta, 0, 1)


def _leaky_relu(node: Node) -> ArrayFunction:
    alpha = node.get("alpha", float(np.float32(0.01)))
    return lambda x: np.where(x < 0, alpha * x, x)


def _elu(node: Node) -> ArrayFunction:
    alpha = node.get("alpha", 1.0)
    return lambda x: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def _selu(node: Node) -> ArrayFunction:
    alpha, gamma = node.get("alpha", 1.67326319217681884765625), node.get("gamma", 1.05070102214813232421875)
    return lambda x: gamma * np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def _thresholded_relu(node: Node) -> ArrayFunction:
    alpha = node.get("alpha", 1.0)
    return lambda x: np.where(x > alpha, x, 0)


def _quick_gelu(node: Node) -> ArrayFunction:
    # x * sigmoid(alpha * x): Hendrycks, Gimpel 2016, https://arxiv.org/abs/1606.08415, section 2.
    alpha = node.get("alpha", 1.702)
    return lambda x: x * _sigmoid(alpha * x)


def _plain(function: ArrayFunction) -> Callable[[Node], ArrayFunction]:
    return lambda node: function


_FUNCTIONS: Mapping[str, Callable[[Node], ArrayFunction]] = {
    "Abs": _plain(np.abs),
    "Asin": _plain(np.arcsin),
    "Atan": _plain(np.arctan),
    "Ceil": _plain(np.ceil),
    "Cos": _plain(np.cos),
    "Elu": _elu,
    "Exp": _plain(np.exp),
    "Floor": _plain(np.floor),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "LeakyRelu": _leaky_relu,
    "Log": _plain(lambda x: np.log(np.maximum(x, 0))),  # what has no logarithm goes where that of zero goes: to the lowest code
    "Mish": _plain(lambda x: x * np.tanh(np.logaddexp(x, 0))),
    "Neg": _plain(np.negative),
    "Reciprocal": _plain(np.reciprocal),
    "Round": _plain(np.rint),
    "Selu": _selu,
    "Sigmoid": _plain(_sigmoid),
    "Sign": _plain(np.sign),
    "Sin": _plain(np.sin),
    "Softplus": _plain(lambda x: np.logaddexp(x, 0)),
    "Sqrt": _plain(np.sqrt),
    "Tan": _plain(np.tan),
    "Tanh": _plain(np.tanh),
    "ThresholdedRelu": _thresholded_relu,
    "com.microsoft.QuickGelu": _quick_gelu,
}


def _kernel(make: Callable[[Node], ArrayFunction]) -> Kernel:
    def run(call: Call) -> Sequence[Result]:
        return tabulate(call, make(call.node))

    return run


def relu(call: Call) -> Sequence[Result]:
    """max(x, 0); on one grid it is max(code, zero point), which is nothing at all when the grid starts at zero."""
    value, out = call.value(0), call.outputs[0]
    encoding = value.encoding
    if encoding is None or encoding.is_float or not same_grid(encoding, out):
        return tabulate(call, lambda x: np.maximum(x, 0))
    zero = int(encoding.zeros)
    if zero == encoding.qmin:
        return [value]
    return [Value(np.maximum(value.data, value.data.dtype.type(zero)), out)]


def clip(call: Call) -> Sequence[Result]:
    """Clip to the min and max inputs, either of which may be absent."""
    low, high = (None if v is None else v.real() for v in (call.optional(1), call.optional(2)))
    if low is None and high is None:
        return tabulate(call, lambda x: x)
    return tabulate(call, lambda x: np.clip(x, low, high))


UNARY: Mapping[str, Kernel] = {
    **{op: _kernel(make) for op, make in _FUNCTIONS.items()},
    "Relu": relu,
    "Clip": clip,
}
