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
    from npukit.backend import Edge, Target
    from npukit.calibration import Profile
    from npukit.diagnosis import analyze, compare
    from npukit.errors import NpukitError
    from npukit.graph import load
    from npukit.package import read_package
    from npukit.plugins import Registry, target
    from npukit.quantization import Options, Request, check, convert, profile, quantize
    from npukit.quantization import open_session as Session  # noqa: N812
    from npukit.trials import sweep

__version__ = "0.1.0"

# Imported on first use: `npukit --help` must not pay for numpy and onnx.
_HOMES = {
    "Edge": ("npukit.backend", "Edge"),
    "NpukitError": ("npukit.errors", "NpukitError"),
    "Options": ("npukit.quantization", "Options"),
    "Profile": ("npukit.calibration", "Profile"),
    "Registry": ("npukit.plugins", "Registry"),
    "Request": ("npukit.quantization", "Request"),
    "Session": ("npukit.quantization", "open_session"),
    "Target": ("npukit.backend", "Target"),
    "analyze": ("npukit.diagnosis", "analyze"),
    "check": ("npukit.quantization", "check"),
    "compare": ("npukit.diagnosis", "compare"),
    "convert": ("npukit.quantization", "convert"),
    "load": ("npukit.graph", "load"),
    "profile": ("npukit.quantization", "profile"),
    "quantize": ("npukit.quantization", "quantize"),
    "read_package": ("npukit.package", "read_package"),
    "sweep": ("npukit.trials", "sweep"),
    "target": ("npukit.plugins", "target"),
}

__all__ = [
    "Edge",
    "NpukitError",
    "Options",
    "Profile",
    "Registry",
    "Request",
    "Session",
    "Target",
    "__version__",
    "analyze",
    "check",
    "compare",
    "convert",
    "load",
    "profile",
    "quantize",
    "read_package",
    "sweep",
    "target",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'npukit' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value
