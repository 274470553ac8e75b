"""LSTM and GRU with their default activations: float32 on the real values, step by step over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from npukit.backend import Call, Kernel, Result, Value
from npukit.encoding import Array
from npukit.errors import ModelError


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (np.tanh(0.5 * x) + 1))


def lstm(call: Call) -> Sequence[Result]:
    """ONNX LSTM; gates in the order input, output, forget, cell; input_forget does nothing."""
    return _run(call, 4, 2)


def gru(call: Call) -> Sequence[Result]:
    """ONNX GRU; gates in the order update, reset, hidden."""
    return _run(call, 3, 1)


def _run(call: Call, gates: int, states: int) -> Sequence[Result]:
    """Outputs Y (T, D, N, H) and the last state or states (D, N, H); layout 0."""
    node = call.node
    _refuse_special_forms(call, gates)
    x, w, r = (call.value(i).real() for i in range(3))
    directions, hidden = r.shape[0], r.shape[2]
    bias = _real(call.optional(3), (directions, 2 * gates * hidden))
    starts = [_real(call.optional(5 + s), (directions, x.shape[1], hidden)) for s in range(states)]
    peepholes = _real(call.optional(7) if gates == 4 else None, (directions, 3 * hidden))
    lengths = call.optional(4)
    if lengths is not None and np.any(lengths.data != x.shape[0]):
        raise ModelError(f"node '{node.name}' ({node.op}) has sequences of different lengths, for which there is no kernel")
    y = np.zeros((x.shape[0], directions, x.shape[1], hidden), np.float32)
    for d in range(directions):
        backward = d == 1 or node.get("direction", "forward") == "reverse"
        state = [s[d] for s in starts]
        input_bias, state_bias = np.split(bias[d], 2)
        # The input's share does not depend on the state: one product for all steps.
        given = x @ w[d].T + input_bias
        for t in range(x.shape[0])[:: -1 if backward else 1]:
            if gates == 4:
                state = _lstm_step(given[t] + state[0] @ r[d].T + state_bias, state[1], peepholes[d])
            else:
                state = [_gru_step(given[t], state[0], r[d], state_bias, bool(node.get("linear_before_reset", 0)))]
            y[t, d] = state[0]
        for s, final in zip(starts, state, strict=True):
            s[d] = final
    return [y, *starts][: len(call.outputs)]


def _refuse_special_forms(call: Call, gates: int) -> None:
    """Raise ModelError for what is not computed: other activations, clipping, batch first."""
    node = call.node
    default = ("Sigmoid", "Tanh", "Tanh") if gates == 4 else ("Sigmoid", "Tanh")
    activations = tuple(node.get("activations") or default)
    usual = activations in (default, default * 2)
    if not usual or node.get("layout", 0) or node.get("clip"):
        raise ModelError(f"node '{node.name}' ({node.op}) uses layout, clip or activations that have no kernel")


def _lstm_step(total: Array, cell: Array, peepholes: Array) -> list[Array]:
    i, o, f, c = np.split(total, 4, -1)
    cell_i, cell_o, cell_f = np.split(peepholes, 3)
    cell = _sigmoid(f + cell_f * cell) * cell + _sigmoid(i + cell_i * cell) * np.tanh(c)
    return [_sigmoid(o + cell_o * cell) * np.tanh(cell), cell]


def _gru_step(given: Array, state: Array, weight: Array, bias: Array, linear_before_reset: bool) -> Array:
    given_z, given_r, given_h = np.split(given, 3, -1)
    weight_z, weight_r, weight_h = np.split(weight, 3, 0)
    bias_z, bias_r, bias_h = np.split(bias, 3)
    update = _sigmoid(given_z + state @ weight_z.T + bias_z)
    reset = _sigmoid(given_r + state @ weight_r.T + bias_r)
    if linear_before_reset:
        new = np.tanh(given_h + reset * (state @ weight_h.T + bias_h))
    else:
        new = np.tanh(given_h + (reset * state) @ weight_h.T + bias_h)
    return np.asarray((1 - update) * new + update * state)


def _real(value: Value | None, shape: tuple[int, ...]) -> Array:
    """A copy of the values, zeros when absent."""
    return np.zeros(shape, np.float32) if value is None else np.array(value.real(), np.float32)


RECURRENT: Mapping[str, Kernel] = {"GRU": gru, "LSTM": lstm}
