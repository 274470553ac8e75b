"""The vendor's runtime keeps the contract of backends, but for the results that its simulator rounds in a way of its own."""

from __future__ import annotations

from typing import ClassVar

import pytest

from npukit.testing import BackendConformance, Tolerance
from npukit_htp.backend import HtpBackend
from npukit_qnn.backend import QnnBackend

# Each chip takes half a minute.
pytestmark = [pytest.mark.usefixtures("runtime"), pytest.mark.slow]


class TestQnn(BackendConformance):
    """On the default SoC."""

    backend = QnnBackend()
    companions = (HtpBackend(),)
    # Nothing is more than one step off. The mean in AveragePool rounds half up; products and quotients miss at rounding boundaries.
    tolerances: ClassVar[dict[str, Tolerance]] = {
        "AveragePool": Tolerance(share=0.15),
        "Div": Tolerance(share=0.08),
        "MatMul": Tolerance(share=0.08),
    }
    known_failures: ClassVar[dict[str, str]] = {
        "LayerNormalization": "scale and shift in fixed point: a fifth of the codes is one step off",
        "Softmax": "an approximated exponential: a quarter of the codes is one step off",
        "Transpose": "the provider does not add a Transpose that is the whole model; between other ops it is exact",
    }


class TestQnnV68(TestQnn):
    """On a chip of before v69, where float islands compute in float32 and products are biased."""

    soc = "SM8350"
    # Sums are 0.04 steps low on average, see docs/explanation/arithmetic.md.
    tolerances: ClassVar[dict[str, Tolerance]] = {
        **TestQnn.tolerances,
        "Conv": Tolerance(share=0.08),
        "ConvTranspose": Tolerance(share=0.08),
        "Gemm": Tolerance(share=0.1),
        "MatMul": Tolerance(share=0.14),
    }
