"""The emulator of Cloud AI 100 keeps the contract of backends."""

from __future__ import annotations

from typing import ClassVar

from npukit.testing import BackendConformance, Tolerance
from npukit_aic.backend import AicBackend

# A multiplier of eight or nine bits moves a code whose real value lies near a boundary.
_SUMS = dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), Tolerance(share=0.2))


# Their tables have 256 entries over fixed ranges, in and out.
_TABLES = dict.fromkeys(("Sigmoid", "Tanh"), Tolerance(steps=3, share=0.8))


class TestAic(BackendConformance):
    """With its default settings."""

    backend = AicBackend()
    tolerances: ClassVar[dict[str, Tolerance]] = {**_SUMS, **_TABLES}


class TestAicFloat(BackendConformance):
    """With one float multiplier behind sums, and in float16 between grids."""

    backend = AicBackend().configured({"requantize": "float", "convert_to_fp16": True})
    tolerances: ClassVar[dict[str, Tolerance]] = _TABLES
