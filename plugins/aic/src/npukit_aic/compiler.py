"""From a model and the compiler's options to a QPC."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import attrs

import npukit
from npukit.package import Package
from npukit.quantization import Request

CARD = "Standard"
"""The card that is emulated when nobody names one."""


def compile_model(model: str | os.PathLike[str], options: Mapping[str, Any], *, card: str = CARD, data: Any = None) -> Package:
    """A package that runs as the card would.

    ``options`` are values by the names of qaic.Session's keywords, in the form that ``npukit_aic.options`` gives them; ``data`` are
    calibration samples for a quantized build. The package keeps the options under "qaic" in its manifest.
    """
    settings = {"convert_to_fp16": bool(options.get("convert_to_fp16", False))}
    request = Request(model, symbols=dict(options.get("onnx_define_symbol") or ()))
    made = npukit.convert(request, npukit.target("aic", soc=card, settings=settings), prepare=True).package
    manifest = attrs.evolve(made.manifest, options={**made.manifest.options, "qaic": dict(options)})
    return attrs.evolve(made, manifest=manifest)
