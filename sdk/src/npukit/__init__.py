"""Quantize ONNX models for neural accelerators and run them as the accelerator would.

::

    import npukit as nk

    q = nk.quantize("model.onnx", backend="htp:sm8750", data=batches)
    print(q.report)
    q.save("model.dlc")
    with nk.Session(q) as session:
        y = session.run({"x": image})
    print(nk.compare("model.onnx", backends=["cpu", "htp"], data=batches).outputs)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npukit.diagnosis import analyze, compare
    from npukit.errors import NpukitError
    from npukit.graph import load
    from npukit.package import read_package
    from npukit.plugins import Registry
    from npukit.quantization import Options, check, convert, quantize
    from npukit.quantization import open_session as Session  # noqa: N812

__version__ = "0.1.0"

# Imported on first use: `npukit --help` must not pay for numpy and onnx.
_HOMES = {
    "NpukitError": ("npukit.errors", "NpukitError"),
    "Options": ("npukit.quantization", "Options"),
    "Registry": ("npukit.plugins", "Registry"),
    "Session": ("npukit.quantization", "open_session"),
    "analyze": ("npukit.diagnosis", "analyze"),
    "check": ("npukit.quantization", "check"),
    "compare": ("npukit.diagnosis", "compare"),
    "convert": ("npukit.quantization", "convert"),
    "load": ("npukit.graph", "load"),
    "quantize": ("npukit.quantization", "quantize"),
    "read_package": ("npukit.package", "read_package"),
}

__all__ = [
    "NpukitError",
    "Options",
    "Registry",
    "Session",
    "__version__",
    "analyze",
    "check",
    "compare",
    "convert",
    "load",
    "quantize",
    "read_package",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'npukit' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value
