"""What the tests of the qnn backend share."""

from __future__ import annotations

import importlib.util

import pytest

from npukit.demo import DATA, MODEL
from npukit.encoding import Array
from npukit.quantization import Options, Quantized, Request, quantize


@pytest.fixture(scope="session")
def runtime() -> None:
    """The vendor's package; tests that run it skip without it."""
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        pytest.skip("the package onnxruntime-qnn is not installed (it has wheels for few platforms)")


@pytest.fixture(scope="session")
def images() -> Array:
    import numpy as np

    with np.load(DATA) as archive:
        found: Array = archive["test_images"][:20]
    return found


@pytest.fixture(scope="session")
def quantized(images: Array) -> Quantized:
    """The digit classifier for one image at a time, quantized for the emulator."""
    return quantize(Request(MODEL, batch=1), backend="htp", data={"image": images}, options=Options())
