"""The node precision file (YAML): nodes, by the name of their first output, that compute in float16 or float32.

Format: https://quic.github.io/cloud-ai-sdk-pages/, node-precision-info of the model compiler.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from npukit.backend import read_yaml
from npukit.errors import UsageError
from npukit_aic.files.entries import kind, mapping, sequence

WHAT = "node precision file"
_TYPES = {"FP16NodeInstanceNames": "float16", "FP32NodeInstanceNames": "float32"}
_BIAS = "enableFP32Bias"


@attrs.frozen
class NodePrecision:
    """First output of a node -> the type that it computes in ("float16", "float32"); ``wide_bias``: biases stay float32."""

    types: Mapping[str, str] = attrs.field(factory=dict)
    wide_bias: bool = False


def read_node_precision(path: Path) -> NodePrecision:
    """What a file says; whether there are such nodes is not looked at. Raises UsageError that names the file and the entry."""
    where = f"{WHAT} {path}"
    document = mapping(read_yaml(path, WHAT), where, (*_TYPES, _BIAS))
    types: dict[str, str] = {}
    for key, dtype in _TYPES.items():
        for name in sequence(document.get(key), f"{where}: {key}", "first outputs of nodes"):
            # Exporters call tensors by numbers, which YAML reads as such.
            text = _name(name, f"{where}: {key}")
            if types.setdefault(text, dtype) != dtype:
                raise UsageError(f"{where}: '{text}' is in {' and in '.join(_TYPES)}", hint="a node computes in one type")
    wide = document.get(_BIAS, False)
    if not isinstance(wide, bool):
        raise UsageError(f"{where}: {_BIAS} is true or false, found {kind(wide)}")
    return NodePrecision(types, wide)


def _name(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UsageError(f"{where} has {kind(value)} where the name of a node's first output should be")
    return str(value)
