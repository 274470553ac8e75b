"""The HTP emulator keeps the contract of backends."""

from __future__ import annotations

from typing import ClassVar

from npukit.testing import BackendConformance, Tolerance
from npukit_htp.backend import HtpBackend


class TestHtp(BackendConformance):
    """On the default SoC."""

    backend = HtpBackend()
    # The mean of codes on one grid rounds half up, as on the vendor's simulator; Q/DQ rounds half to even.
    tolerances: ClassVar[dict[str, Tolerance]] = {"AveragePool": Tolerance(share=0.15)}


class TestHtpV66(TestHtp):
    """On a DSP of before the HTP, which has other constraints and no per-channel weights."""

    soc = "v66"


class TestHtpV68(TestHtp):
    """On a chip whose multiplier has 11 bits, so that codes near a rounding boundary differ from the Q/DQ simulation."""

    soc = "v68"
    tolerances: ClassVar[dict[str, Tolerance]] = {
        **TestHtp.tolerances,
        **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), Tolerance(share=0.12)),
    }
