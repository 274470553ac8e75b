"""The conformance kit for authors of backends; needs ``pip install "npukit[testing]"``.

One test file proves that a backend keeps the contract::

    from npukit.testing import BackendConformance
    from my_npu import MyNpu

    class TestMyNpu(BackendConformance):
        backend = MyNpu()
"""

import pytest

# Before the import: pytest then shows the values in a failed assertion of the kit, as it does in a test file.
pytest.register_assert_rewrite("npukit.testing.conformance")

from npukit.testing.conformance import BackendConformance, Tolerance  # noqa: E402
from npukit.testing.samples import SAMPLES, Sample, random_feeds, small_cnn  # noqa: E402

__all__ = ["SAMPLES", "BackendConformance", "Sample", "Tolerance", "random_feeds", "small_cnn"]
