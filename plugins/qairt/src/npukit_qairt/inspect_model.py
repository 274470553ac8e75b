"""What the converter says of a model without writing it."""

from __future__ import annotations

from collections import Counter

import numpy as np

from npukit import check, report
from npukit.backend import Target
from npukit.errors import ModelError
from npukit.graph import Graph
from npukit.plugins import FLOAT_BACKEND, Registry
from npukit.quantization import Options, Source, open_session


def summary(graph: Graph) -> str:
    """Inputs, outputs, ops and sizes of a model."""
    ends = [(kind, n, graph.tensor(n).dtype, list(graph.tensor(n).shape or ())) for kind in ("input", "output")
            for n in (graph.inputs if kind == "input" else graph.outputs)]  # fmt: skip
    ops = Counter(node.key for node in graph.nodes)
    weights = sum(t.size for t in graph.tensors.values() if t.is_constant and t.is_float)
    parts = [
        report.table(["", "Name", "Type", "Shape"], ends),
        report.table(["Op", "Count"], sorted(ops.items())),
        f"opset {graph.opset}, {len(graph.nodes)} nodes, {weights} parameters",
    ]
    return "\n\n".join(parts)


def dry_run(source: Source, target: Target, level: str) -> int:
    """Print what the target takes and refuses; the exit code is 0 when it accepts the model, else 1."""
    verdict = check(source, target, options=Options(strict=False))
    print(f"{target.name}: {verdict.verdict}, {verdict.nodes} nodes; no DLC is written")
    shown = [p for p in verdict.problems if level == "debug" or p.severity == "error"]
    for problem in shown:
        print(problem)
    for note in verdict.notes if level == "debug" else ():
        print(f"note: {note}")
    return 1 if verdict.verdict == "refused" else 0


def difference(source: Graph, made: Graph, registry: Registry) -> str:
    """The largest distance of the float outputs of two graphs on the same random inputs."""
    rng = np.random.default_rng(0)
    shapes = {n: source.tensor(n).static_shape for n in source.inputs}
    if None in shapes.values() or source.inputs != made.inputs or any(made.tensor(n).shape != s for n, s in shapes.items()):
        raise ModelError(
            "--onnx_validate_models compares models of one form", hint="fix the shapes, and leave layouts and colours out"
        )
    feeds = {}
    for name, shape in shapes.items():
        dtype = np.dtype(source.tensor(name).dtype)
        values = rng.standard_normal(shape or ()) if dtype.kind == "f" else np.zeros(shape or (), np.int64)
        feeds[name] = np.asarray(values).astype(dtype)
    with open_session(source, FLOAT_BACKEND, registry=registry) as a, open_session(made, FLOAT_BACKEND, registry=registry) as b:
        names = [n for n in source.outputs if n in made.outputs]
        first, second = a.run(feeds, names), b.run(feeds, names)
    distances = [float(np.max(np.abs(first[n].astype(np.float64) - second[n]), initial=0)) for n in names]
    lines = [f"{name}: largest difference {distance:.3g}" for name, distance in zip(names, distances, strict=True)]
    return "\n".join(["source against converted, in float:", *lines])


def trace(graph: Graph) -> dict[str, list[str]]:
    """Op or tensor of the DLC -> the names in the source that it stands for."""
    names = [*(node.name for node in graph.nodes), *(n for node in graph.nodes for n in node.outputs if n)]
    return {name: list(graph.origin_names.get(name, (name,))) for name in dict.fromkeys(names)}
