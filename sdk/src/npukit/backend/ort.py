"""ONNX Runtime, the engine of float references and fast forms: the only sdk module that imports onnxruntime."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs
import numpy as np

from npukit.encoding import Array
from npukit.errors import ModelError, PluginError
from npukit.graph import Graph, Place, Tensor, numpy_type, save, serialize, serialize_beside

# From so many bytes of constants on, ONNX Runtime maps them from a file and makes no copies of its own.
LARGE_MODEL = 256 << 20
# Beginnings of constants that tell whether a file still holds what was mapped from it.
_PROBE = 4096


def is_installed() -> bool:
    """Whether onnxruntime is there."""
    return find_spec("onnxruntime") is not None


class OrtModel:
    """A graph loaded in ONNX Runtime on the CPU; a context manager.

    ``outputs`` may name any tensors of the graph, intermediate ones too (all graph outputs by default). ``threads``: 0 takes the
    environment variable OMP_NUM_THREADS, as numpy does, or else lets ONNX Runtime choose. ``optimize`` False runs every node as
    written; ``fuse_qdq`` False fuses and removes no Q/DQ nodes. An input that is a constant as well need not be fed. Raises
    PluginError when onnxruntime is not installed, ModelError when it refuses the model.
    """

    def __init__(
        self,
        graph: Graph,
        outputs: Sequence[str] | None = None,
        *,
        threads: int = 0,
        optimize: bool = True,
        fuse_qdq: bool = True,
    ) -> None:
        self.outputs = tuple(graph.outputs if outputs is None else outputs)
        # Graph inputs and constants are no outputs that ONNX Runtime would give; they are answered from here.
        self._constants = {n: graph.tensors[n] for n in self.outputs if graph.tensors[n].is_constant}
        self._inputs = [n for n in self.outputs if n in graph.inputs]
        self._fetched = [n for n in self.outputs if n not in self._constants and n not in graph.inputs]
        shown = tuple(dict.fromkeys((*graph.outputs, *self._fetched)))
        self._session = _session(attrs.evolve(graph, outputs=shown), threads, optimize, fuse_qdq)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The tensors asked for, by name."""
        try:
            found = self._session.run(self._fetched, dict(feeds)) if self._fetched else []
        except Exception as error:  # onnxruntime has no common base of its exceptions
            raise ModelError(f"ONNX Runtime failed: {_one_line(error)}") from None
        results: dict[str, Any] = dict(zip(self._fetched, found, strict=True))
        results |= {n: np.asarray(feeds[n]) for n in self._inputs} | {n: tensor.data for n, tensor in self._constants.items()}
        return {n: results[n] for n in self.outputs}

    def close(self) -> None:
        self._session = None

    def __enter__(self) -> OrtModel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _session(graph: Graph, threads: int, optimize: bool, fuse_qdq: bool) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise PluginError(f"onnxruntime is not installed ({error})", hint='pip install "npukit[ort]"') from None
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or environment_threads()
    if not fuse_qdq:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.add_session_config_entry("session.disable_double_qdq_remover", "1")
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    load = partial(ort.InferenceSession, sess_options=options, providers=["CPUExecutionProvider"])
    try:
        if constant_bytes(graph) < LARGE_MODEL:
            return load(serialize(graph))
        options.add_session_config_entry("session.disable_prepacking", "1")  # the packed weights are copies
        return _load_mapped(graph, options, load)
    except Exception as error:
        raise ModelError(f"ONNX Runtime refuses the model: {_one_line(error)}") from None


def constant_bytes(graph: Graph) -> int:
    """What all constants of a graph take as arrays. Nothing is read for it."""
    return sum(_bytes(tensor) for tensor in graph.tensors.values() if tensor.is_constant)


def _bytes(tensor: Tensor) -> int:
    return tensor.size * numpy_type(tensor.dtype).itemsize


def _load_mapped(graph: Graph, options: Any, load: Callable[[Any], Any]) -> Any:
    """Load a graph with its constants in files: those that they were mapped from, else a temporary one that is unlinked at once."""
    places = {name: place for name, tensor in graph.tensors.items() if (place := _place(tensor)) is not None}
    rest = constant_bytes(graph) - sum(_bytes(graph.tensors[name]) for name in places)
    if rest < LARGE_MODEL:
        folder = os.path.commonpath([os.path.dirname(place.file) for place in places.values()])
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        return load(serialize_beside(graph, places, folder))
    with tempfile.TemporaryDirectory() as temporary:
        save(graph, Path(temporary) / "model.onnx", external_data="weights.bin")
        return load(str(Path(temporary) / "model.onnx"))


def _place(tensor: Tensor) -> Place | None:
    """Where a constant is in the file that it is mapped from; None when it is no such map, or the file was replaced."""
    array = tensor.stored
    if not isinstance(array, np.memmap) or not array.flags.c_contiguous or array.nbytes < _PROBE:
        return None
    root = array
    while isinstance(root.base, np.memmap):
        root = root.base
    offset = root.offset + array.ctypes.data - root.ctypes.data
    file = os.path.realpath(str(root.filename))
    try:
        probe = np.fromfile(file, np.uint8, _PROBE, offset=offset)
    except OSError:
        return None
    same = np.array_equal(probe, array.reshape(-1).view(np.uint8)[:_PROBE])
    return Place(file, offset) if same and os.path.getsize(file) >= offset + array.nbytes else None


def environment_threads() -> int:
    """The number of threads that OMP_NUM_THREADS asks for; 0 when it does not."""
    number = os.environ.get("OMP_NUM_THREADS", "")
    return int(number) if number.isdecimal() else 0


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
