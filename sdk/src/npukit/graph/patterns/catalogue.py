"""The patterns, as data: an ONNX op, and ops of which every way to write it has at least one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

_REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2"})
_STEPS = frozenset({"Clip", "Min", "Max", "Relu", "HardSigmoid"})


@attrs.frozen
class Pattern:
    """The op that a group of nodes may stand for.

    ``anchors`` are where the search begins. ``along`` says what the op works on: single values (""), an axis ("axis"), or the last
    axes with a gain for each place ("gain") or a gain and a shift ("shift"). ``opset`` is the first that has the op.
    """

    op: str
    anchors: frozenset[str]
    along: str = ""
    attributes: Mapping[str, Any] = attrs.field(factory=dict)
    opset: int = 1


# In the order in which they are tried: a LayerNormalization has an RMSNormalization of the centred values inside.
PATTERNS = (
    Pattern("Gelu", frozenset({"Erf"}), opset=20),
    Pattern("Gelu", frozenset({"Tanh", "Sigmoid", "Exp"}), attributes={"approximate": "tanh"}, opset=20),
    Pattern("HardSwish", _STEPS, opset=14),
    Pattern("HardSigmoid", _STEPS - {"HardSigmoid"}, attributes={"alpha": 1 / 6, "beta": 0.5}),
    Pattern("Softplus", frozenset({"Log"})),
    Pattern("Softmax", frozenset({"Exp", "Softmax"}), along="axis", opset=13),
    Pattern("LayerNormalization", _REDUCTIONS, along="shift", opset=17),
    Pattern("RMSNormalization", _REDUCTIONS, along="gain", opset=23),
)
