"""Whole models: quantized by min-max over a few inputs, the emulator stays as close to float as the Q/DQ simulation does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from npukit.backend import Precision, Rules
from npukit.encoding import Array, Encoding, encoding_for_range, encoding_for_weights, solve
from npukit.encoding.formats import insert_qdq
from npukit.graph import Graph, load, serialize
from npukit_htp.backend import HtpBackend


def run_onnx(graph: Graph, feeds: Mapping[str, Array], names: tuple[str, ...]) -> dict[str, Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(serialize(graph.evolve(outputs=names)), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def quantize_min_max(graph: Graph, feeds: Mapping[str, Array], backend: HtpBackend, precision: Precision) -> dict[str, Encoding]:
    """Encodings from one input, by the backend's own rules."""
    plan = Rules.of(backend, backend.soc()).plan(graph, precision, {})
    inner = tuple(n for n in plan.activations if n not in graph.inputs and not graph.tensor(n).is_constant)
    values = {**run_onnx(graph, feeds, inner), **feeds}
    values |= {n: graph.tensor(n).data for n in plan.activations if graph.tensor(n).is_constant}
    encodings: dict[str, Encoding] = {}
    for group in solve(plan.activations, plan.shared, plan.fixed, {}).groups:
        low, high = (f([f(values[t]) for t in group.observed]) for f in (np.min, np.max))
        encodings |= dict.fromkeys(group.tensors, group.encoding or encoding_for_range(low, high, group.dtype))
    for name, dtype in plan.weights.items():
        port = plan.weight_ports[name]
        kind = "channel" if "channel" in port.granularity else "tensor"
        encodings[name] = encoding_for_weights(graph.tensor(name).data, dtype, granularity=kind, axis=port.axis)
    for name, (x, w) in plan.derived.items():
        scale = encodings[x].steps * encodings[w].steps
        encodings[name] = Encoding("int32", scale, axis=0 if scale.ndim else None, origin="derived")
    return encodings


def sqnr(reference: Array, found: Array) -> float:
    """Signal to noise in dB."""
    error = np.square(reference.astype(np.float64) - found).sum()
    return float(10 * np.log10((np.square(reference.astype(np.float64)).sum() + 1e-30) / (error + 1e-30)))


@pytest.mark.parametrize("name", ["mnist", "mlperf_tiny_resnet8_cifar10", "mtcnn_pnet", "convvit_cifar10", "dtln_1"])
def test_model_is_as_good_as_its_qdq_form(name: str, zoo: Path) -> None:
    """A real model is accepted, and the emulator is within half a dB of the Q/DQ model that ONNX Runtime runs."""
    backend = HtpBackend()
    source = zoo / f"{name}.onnx"
    graph = load(source, batch=1)
    symbols = {d: 24 for n in graph.inputs for d in graph.tensor(n).shape or () if isinstance(d, str)}
    graph = backend.prepare(load(source, symbols=symbols, batch=1) if symbols else graph)
    rng = np.random.default_rng(3)
    feeds = {n: rng.normal(size=graph.tensor(n).static_shape).astype(np.float32) for n in graph.inputs}
    encodings = quantize_min_max(graph, feeds, backend, backend.precision(backend.soc()))
    assert not [p for p in Rules.of(backend, backend.soc()).validate(graph, encodings) if p.severity == "error"]
    with backend.open(backend.compile(graph, encodings, backend.soc())) as session:
        found = session.run(feeds)
    reference = run_onnx(graph, feeds, graph.outputs)
    simulated = run_onnx(insert_qdq(graph, encodings), feeds, graph.outputs)
    for output in graph.outputs:
        ours, theirs = sqnr(reference[output], found[output]), sqnr(reference[output], simulated[output])
        assert ours > theirs - 0.5, f"{output}: {ours:.1f} dB, Q/DQ {theirs:.1f} dB"
