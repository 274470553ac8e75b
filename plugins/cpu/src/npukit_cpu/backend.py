"""The float model, and the simulation of its encodings in float, on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from npukit.backend import Backend, Program, Recent, Session, Soc
from npukit.backend.ort import OrtModel
from npukit.encoding import Array, Encoding
from npukit.encoding.formats import DEQUANTIZED, insert_qdq
from npukit.graph import Graph, fold_affine, fold_constants, remove_dead_nodes

QDQ = "qdq"
_SOURCE = "https://onnxruntime.ai/docs/"


class CpuBackend(Backend):
    """``cpu`` (or ``cpu:float32``) computes the float model whatever its encodings; ``cpu:qdq`` computes with Q/DQ nodes."""

    name = "cpu"
    title = "float reference and Q/DQ simulation on ONNX Runtime"
    default_soc = "float32"

    def socs(self) -> tuple[Soc, ...]:
        return (
            Soc("float32", "", title="float32, encodings are not used", source=_SOURCE),
            Soc(QDQ, "", title="float32 with a quantize and dequantize around every op", source=_SOURCE),
        )

    def ignores_encodings(self, soc: Soc) -> bool:
        return soc.name != QDQ

    def prepare(self, graph: Graph) -> Graph:
        return remove_dead_nodes(fold_affine(fold_constants(graph)))

    def fusions(self) -> tuple[tuple[str, ...], ...]:
        return tuple((op, clamp) for op in ("Conv", "ConvTranspose", "Gemm", "Add") for clamp in ("Relu", "Clip"))

    def compile(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Program:
        lowered = graph if self.ignores_encodings(soc) else insert_qdq(graph, encodings)
        return Program(self.name, soc, graph, dict(encodings), lowered)

    def open(self, program: Program) -> Session:
        return _OrtSession(program)


class _OrtSession(Session):
    """A session that loads a model of its own for every set of tensors asked for, and keeps the last few."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self._graph: Graph = program.payload
        self._models: Recent[OrtModel] = Recent()
        self._model(program.graph.outputs)  # what ONNX Runtime refuses is refused when the session is opened

    @property
    def ignores_encodings(self) -> bool:
        return self.program.soc.name != QDQ

    def _run(self, feeds: Mapping[str, Array], tensors: Sequence[str]) -> dict[str, Array]:
        found = self._model(tensors).run(feeds)
        return {name: found[self._lowered(name)] for name in tensors}

    def _model(self, tensors: Sequence[str]) -> OrtModel:
        """The model that gives ``tensors``."""
        wanted = sorted({self._lowered(name) for name in tensors})
        # Optimized, a Q/DQ graph runs on 8-bit instructions, which saturate on processors without VNNI; as written it is exact.
        return self._models.get(tuple(wanted), lambda: OrtModel(self._graph, wanted, optimize=self.ignores_encodings))

    def _lowered(self, name: str) -> str:
        """The tensor that holds the value of ``name`` after quantization."""
        after = name + DEQUANTIZED
        return after if after in self._graph.tensors else name

    def _close(self) -> None:
        self._models.clear()
