"""What Session.run costs on top of ONNX Runtime's own call, on models of one node: the median of paired runs, in microseconds.

python bench/overhead.py

Each turn runs the session and then onnxruntime.InferenceSession.run of the same small model, so that both see the same machine. For
the emulator that is the model with Q/DQ nodes, unoptimized: it rounds its input, as the fast form does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort

import npukit as nk
from npukit.encoding.formats import insert_qdq
from npukit.graph import Graph, Node, make_graph, serialize
from npukit.quantization import open_session
from npukit.report import table

SESSIONS = (("htp", "fast"), ("htp", "numpy"), ("cpu:float32", ""), ("cpu:qdq", ""))


def one_node(op: str) -> Graph:
    """A Relu of 8 values, or a Conv of 8 channels on an image of 16 x 16."""
    rng = np.random.default_rng(0)
    if op == "Relu":
        return make_graph([Node("Relu", "relu", ("x",), ("y",))], {"x": ("float32", (1, 8))}, ["y"])
    weight = rng.normal(size=(8, 8, 3, 3)).astype(np.float32)
    node = Node("Conv", "conv", ("x", "w"), ("y",), {"pads": (1, 1, 1, 1)})
    return make_graph([node], {"x": ("float32", (1, 8, 16, 16))}, ["y"], {"w": weight})


def runtime(graph: Graph, optimize: bool) -> Any:
    """The graph in ONNX Runtime, without npukit around it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(serialize(graph), options, providers=["CPUExecutionProvider"])


def paired(turns: int, first: Callable[[], Any], second: Callable[[], Any]) -> tuple[float, float, float]:
    """The medians of both and of their differences, in microseconds."""
    times = np.empty((turns, 3))
    for turn in range(turns):
        times[turn] = time.perf_counter_ns(), (first(), time.perf_counter_ns())[1], (second(), time.perf_counter_ns())[1]
    a, b = (times[turns // 10 :, 1:] - times[turns // 10 :, :-1]).T / 1e3
    return statistics.median(a), statistics.median(b), statistics.median(a - b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--turns", type=int, default=3000)
    turns = parser.parse_args().turns
    rows = []
    for op in ("Relu", "Conv"):
        graph = one_node(op)
        rng = np.random.default_rng(1)
        samples = [{"x": rng.normal(size=graph.tensor("x").shape).astype(np.float32)} for _ in range(4)]
        for backend, kernels in SESSIONS:
            made = nk.quantize(graph, backend="cpu:qdq" if backend.startswith("cpu") else backend, data=samples)
            is_float = backend == "cpu:float32"
            own = runtime(made.graph if is_float else insert_qdq(made.graph, made.encodings), optimize=is_float)
            with open_session(made, backend=backend, kernels=kernels) as session:
                found = paired(turns, partial(session.run, samples[0]), partial(own.run, None, samples[0]))
            rows.append((op, backend, kernels, *(f"{value:.1f}" for value in found)))
    print(table(["Op", "backend", "kernels", "Session.run us", "ONNX Runtime us", "difference us"], rows))


if __name__ == "__main__":
    main()
