"""The cpu backend: the float model, and the simulation of encodings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from npukit.backend.ort import OrtModel
from npukit.demo import DATA, MODEL
from npukit.encoding import Array, fake_quantize
from npukit.encoding.formats import insert_qdq
from npukit.graph import Graph, load
from npukit.plugins import Registry, target
from npukit.quantization import Options, Quantized, open_session, quantize
from npukit_cpu.backend import CpuBackend


@pytest.fixture(scope="module")
def images() -> Array:
    with np.load(DATA) as archive:
        found: Array = archive["test_images"][:20]
    return found


@pytest.fixture(scope="module")
def quantized(images: Array) -> Quantized:
    """The digit classifier with 4-bit weights, so that quantization shows."""
    return quantize(MODEL, backend="cpu:qdq", data={"image": images}, options=Options(weights="int4"))


def reference(source: Path, images: Array) -> Array:
    """ONNX Runtime on the file as it is."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {"image": images})[0]
    return found


def test_float_is_onnxruntime_on_the_source(images: Array) -> None:
    """The float backend computes what ONNX Runtime computes on the file that npukit never touched."""
    with open_session(MODEL, backend="cpu") as session:
        got = session.run({"image": images})["scores"]
    np.testing.assert_allclose(got, reference(MODEL, images), rtol=1e-4, atol=1e-4)


def test_float_ignores_encodings(quantized: Quantized, images: Array) -> None:
    """float32 says that it ignores encodings, and a model with 4-bit weights gives bit for bit the float results."""
    float_model = Quantized(type(quantized.package)(quantized.package.manifest, quantized.graph, {}), quantized.report)
    with open_session(quantized, backend="cpu:float32") as with_grids, open_session(float_model, backend="cpu:float32") as without:
        assert with_grids.ignores_encodings
        np.testing.assert_array_equal(with_grids.run({"image": images})["scores"], without.run({"image": images})["scores"])


def test_qdq_is_the_inserted_simulation(quantized: Quantized, images: Array) -> None:
    """qdq gives bit for bit what ONNX Runtime gives for the graph that insert_qdq writes, which is not the float result."""
    with OrtModel(insert_qdq(quantized.graph, quantized.encodings), optimize=False) as model:
        expected = model.run({"image": images})["scores"]
    with open_session(quantized, backend="cpu:qdq") as session:
        assert not session.ignores_encodings
        got = session.run({"image": images})["scores"]
    np.testing.assert_array_equal(got, expected)
    assert np.abs(got - reference(MODEL, images)).max() > float(quantized.encodings["scores"].steps)


def test_qdq_values_are_on_their_grids(quantized: Quantized, images: Array) -> None:
    """Every tensor that qdq returns has values of its grid only."""
    names = [n for n in quantized.graph.float_activations() if n in quantized.encodings]
    assert len(names) > 10
    with open_session(quantized, backend="cpu:qdq") as session:
        found = session.run({"image": images}, names)
    for name, value in found.items():
        np.testing.assert_array_equal(value, fake_quantize(value, quantized.encodings[name]), err_msg=name)


@pytest.mark.parametrize("soc", ["float32", "qdq"])
def test_all_tensors_in_one_run(quantized: Quantized, images: Array, soc: str) -> None:
    """Inputs, weights, inner tensors and outputs come from one run, in the order asked for, and repeat names are no trouble."""
    graph = quantized.graph
    weight = next(n for n, t in graph.tensors.items() if t.is_constant and t.is_float)
    names = ["scores", *graph.float_activations(), weight, "image"]
    with open_session(quantized, backend=target("cpu", soc=soc)) as session:
        found = session.run({"image": images}, names)
        again = session.run({"image": images})
    assert list(found) == list(dict.fromkeys(names))
    np.testing.assert_allclose(found["scores"], again["scores"], rtol=1e-5, atol=1e-5)
    assert found[weight].shape == graph.tensor(weight).shape


def test_session_loads_one_model_for_repeated_requests(
    quantized: Quantized, images: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking for the same tensors again loads nothing; asking for others loads once."""
    loads: list[Sequence[str] | None] = []
    start = OrtModel.__init__

    def count(self: OrtModel, graph: Graph, outputs: Sequence[str] | None = None, **options: bool) -> None:
        loads.append(outputs)
        start(self, graph, outputs, **options)

    monkeypatch.setattr(OrtModel, "__init__", count)
    session = CpuBackend().open(CpuBackend().compile(quantized.graph, quantized.encodings, CpuBackend().soc("qdq")))
    for _ in range(3):
        session.run({"image": images})
    assert len(loads) == 1
    inner = quantized.graph.nodes[0].outputs
    for _ in range(3):
        session.run({"image": images}, inner)
    assert len(loads) == 2
    session.close()


def test_prepare_folds_batch_norm_away() -> None:
    """The model has batch normalization in the file and none after preparing."""
    graph = load(MODEL)
    assert any(n.op == "BatchNormalization" for n in graph.nodes)
    assert not any(n.op == "BatchNormalization" for n in CpuBackend().prepare(graph).nodes)


def test_selector_finds_both_socs() -> None:
    """cpu is cpu:float32, and cpu:qdq is the simulation."""
    registry = Registry.load()
    assert registry.resolve("cpu")[1].name == "float32"
    assert registry.resolve("cpu:QDQ")[1].name == "qdq"
