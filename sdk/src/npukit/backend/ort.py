"""ONNX Runtime, the engine of float references and fast forms: the only sdk module that imports onnxruntime."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs
import numpy as np

from npukit.encoding import Array
from npukit.errors import ModelError, PluginError
from npukit.graph import Graph, save, serialize

# Above this a model does not fit in one protobuf message and is handed over as a file with its weights beside it.
_MAX_MESSAGE = 1 << 30


class OrtModel:
    """A graph loaded in ONNX Runtime on the CPU; a context manager.

    ``outputs`` may name any tensors of the graph, intermediate ones too (all graph outputs by default). ``threads``: 0 lets ONNX
    Runtime choose; ``optimize`` False runs every node as written. Raises PluginError when onnxruntime is not installed,
    ModelError when it refuses the model.
    """

    def __init__(self, graph: Graph, outputs: Sequence[str] | None = None, *, threads: int = 0, optimize: bool = True) -> None:
        self.outputs = tuple(graph.outputs if outputs is None else outputs)
        # Graph inputs and constants are no outputs that ONNX Runtime would give; they are answered from here.
        self._constants = {n: graph.tensors[n].data for n in self.outputs if graph.tensors[n].is_constant}
        self._inputs = [n for n in self.outputs if n in graph.inputs]
        self._fetched = [n for n in self.outputs if n not in self._constants and n not in graph.inputs]
        shown = tuple(dict.fromkeys((*graph.outputs, *self._fetched)))
        self._session = _session(attrs.evolve(graph, outputs=shown), threads, optimize)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The tensors asked for, by name."""
        try:
            found = self._session.run(self._fetched, dict(feeds)) if self._fetched else []
        except Exception as error:  # onnxruntime has no common base of its exceptions
            raise ModelError(f"ONNX Runtime failed: {_one_line(error)}") from None
        results: dict[str, Any] = dict(zip(self._fetched, found, strict=True))
        results |= {n: np.asarray(feeds[n]) for n in self._inputs} | self._constants
        return {n: results[n] for n in self.outputs}

    def close(self) -> None:
        self._session = None

    def __enter__(self) -> OrtModel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _session(graph: Graph, threads: int, optimize: bool) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise PluginError(f"onnxruntime is not installed ({error})", hint='pip install "npukit[ort]"') from None
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    size = sum(t.data.nbytes for t in graph.tensors.values() if t.data is not None)
    try:
        if size < _MAX_MESSAGE:
            return ort.InferenceSession(serialize(graph), options, providers=["CPUExecutionProvider"])
        with tempfile.TemporaryDirectory() as folder:
            save(graph, Path(folder) / "model.onnx", external_data="weights.bin")
            return ort.InferenceSession(str(Path(folder) / "model.onnx"), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"ONNX Runtime refuses the model: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
