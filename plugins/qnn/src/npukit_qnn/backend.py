"""QnnBackend: models on the vendor's QNN runtime, on its HTP simulator or, on a machine that has one, on the NPU."""

from __future__ import annotations

import csv
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import Lock, RLock
from typing import Any, ClassVar

import attrs

from npukit.backend import Backend, OpTime, Problem, Program, Session, Soc, load_socs
from npukit.encoding import Array, Encoding, fake_quantize
from npukit.errors import ConstraintError, ModelError
from npukit.graph import Graph, fold_affine, fold_constants, load, remove_dead_nodes, reshape_gather_nd, save, serialize
from npukit_qnn.child import INSTALL, Child, QnnRuntimeError, is_installed
from npukit_qnn.lower import Lowered, lower
from npukit_qnn.verdicts import leftovers, placed, read_log, refusals

_DATA = Path(__file__).parent / "data"
_NODE_EVENT = re.compile(r"^(.*?)(?:_token_\d+)?:?\s*OpId_\d+")
_RENEW_AFTER = 300  # a child keeps memory of past sessions, so it is replaced after so many


@cache
def _socs() -> tuple[Soc, ...]:
    return load_socs(_DATA / "socs.yaml")


class QnnBackend(Backend):
    """Every node runs on the vendor's runtime: falling back to the CPU is switched off, a model it refuses is an error.

    The op constraints that plan a model are those of the htp backend; the verdict is the vendor's own. Each chip has its own
    child process, because the simulator mixes up chips that share one.
    """

    name = "qnn"
    title = "the vendor's QNN runtime (onnxruntime-qnn)"
    default_soc = "SM8750"
    static_shapes = True
    plans_as = "htp"
    exports: ClassVar[Mapping[str, str]] = {
        "qnn-dlc": "the vendor's DLC, written by its own converter",
        "qnn-context": "an ONNX file with the context binary compiled for one chip",
    }

    def __init__(self) -> None:
        self._children: dict[str, tuple[Child, int]] = {}
        self._lock = Lock()

    @property
    def missing(self) -> str:
        return "" if is_installed() else INSTALL

    def socs(self) -> tuple[Soc, ...]:
        return _socs()

    def prepare(self, graph: Graph) -> Graph:
        return remove_dead_nodes(reshape_gather_nd(fold_affine(fold_constants(graph))))

    def compile(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Program:
        if soc.id is None:
            raise ModelError(f"SoC '{soc.name}' has no soc_model number, which the vendor's runtime needs", hint="give it an id")
        return Program(self.name, soc, graph, dict(encodings))

    def open(self, program: Program) -> Session:
        return _QnnSession(self, program)

    def judge(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc, found: tuple[Problem, ...]) -> tuple[Problem, ...]:
        """The vendor's verdict in place of the op constraints'; ``found`` explains what the vendor refuses without a reason."""
        shapes = tuple(p for p in found if p.rule == "dynamic-shape")
        if shapes:  # the vendor cannot be asked, so this is no acceptance
            return tuple(attrs.evolve(p, severity="unknown") for p in shapes)
        program = self.compile(graph, encodings, soc)
        lowered = lower(graph, encodings, graph.outputs)
        try:
            with _Loaded(self, program, lowered):
                return tuple(p for p in found if p.severity == "warning")
        except QnnRuntimeError as failure:
            return _problems(failure, lowered, found)

    def export(self, program: Program, form: str, target: Path) -> str:
        """Write the vendor's own file; returns a line that says what it is."""
        _refuse_open_shapes(program.graph)
        lowered = lower(program.graph, program.encodings, program.graph.outputs)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            place = Path(folder)
            request = {"dlc_folder": str(place)} if form == "qnn-dlc" else {"context_file": str(place / "context.onnx")}
            with _Loaded(self, program, lowered, **request):
                made = sorted(place.glob("*.dlc" if form == "qnn-dlc" else "context.onnx"))
            if len(made) != 1:
                raise ModelError(f"the vendor's runtime wrote {len(made)} files instead of one; the model was split into parts")
            shutil.move(made[0], target)
        chip = "" if form == "qnn-dlc" else f" for {program.soc.name}"
        return f"{self.exports[form]}{chip}, {target.stat().st_size / 1e3:.0f} kB"

    def child(self, soc: Soc) -> Child:
        """The child process of a chip, started when it is first needed."""
        with self._lock:
            child, served = self._children.get(soc.name, (None, 0))
            if child is None or served >= _RENEW_AFTER or child.closed:
                child, served = Child(), 0
            self._children[soc.name] = (child, served + 1)
            return child


class _Loaded:
    """A lowered model loaded in the child of its chip; a context manager."""

    def __init__(self, backend: QnnBackend, program: Program, lowered: Lowered, **request: Any) -> None:
        self.lowered = lowered
        self._child = backend.child(program.soc)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            save(lowered.graph, path)
            asked = {"do": "load", "model": str(path), "soc": program.soc.id, "arch": program.soc.generation, **request}
            with self._child.lock:
                answer, _ = self._child.ask(asked)
                self.log = self._child.log(answer["log_start"])
        self._session = answer["session"]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Real values of the outputs by the names of the graph."""
        arrays = {edge.port: edge.write(feeds[edge.name]) for edge in self.lowered.inputs}
        asked = [edge.port for edge in self.lowered.outputs]
        _, found = self._child.ask({"do": "run", "session": self._session, "outputs": list(dict.fromkeys(asked))}, arrays)
        return {edge.name: edge.read(found[edge.port]) for edge in self.lowered.outputs}

    def close(self) -> None:
        if not self._child.closed:
            self._child.ask({"do": "unload", "session": self._session})

    def __enter__(self) -> _Loaded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# Inner tensors are asked for in groups of half this at least.
_SMALLEST_GROUP = 16


class _QnnSession(Session):
    """Loads models of its own for every set of tensors asked for, and keeps those of the last one; threads take turns.

    Graph outputs always come from the model as it is: where it has to show what is between, the runtime joins nodes differently and
    may refuse them. Inner tensors come from models that show them, all at once or in as few groups as the runtime takes.
    """

    def __init__(self, backend: QnnBackend, program: Program) -> None:
        super().__init__(program)
        self._backend = backend
        self._made_for: tuple[tuple[str, ...], tuple[tuple[int, ...], ...]] = ((), ())
        self._loaded: list[_Loaded] = []
        self._turn = RLock()

    def _run(self, feeds: Mapping[str, Array], tensors: Sequence[str]) -> dict[str, Array]:
        graph = self.program.graph
        computed = tuple(n for n in tensors if n not in graph.inputs and not graph.tensor(n).is_constant)
        shapes = tuple(feeds[n].shape for n in graph.inputs)
        with self._turn:
            if not self._loaded or (computed, shapes) != self._made_for:
                self._close()
                self._loaded, self._made_for = self._load_all(computed, feeds), (computed, shapes)
            found = {name: value for loaded in self._loaded for name, value in loaded.run(feeds).items()}
        return {n: found[n] if n in found else self._given(feeds, n) for n in tensors}

    def _load_all(self, computed: Sequence[str], feeds: Mapping[str, Array]) -> list[_Loaded]:
        graph = self.program.graph
        inner = [n for n in computed if n not in graph.outputs]
        made = [self._load(graph.outputs, feeds)] if len(inner) < len(computed) else []
        return made + (self._load_groups(inner, feeds) if inner else [])

    def _load_groups(self, tensors: Sequence[str], feeds: Mapping[str, Array]) -> list[_Loaded]:
        """Models that show inner tensors; what the runtime refuses together it may take in halves."""
        try:
            return [self._load(tensors, feeds)]
        except ConstraintError:
            if len(tensors) < _SMALLEST_GROUP:
                raise
        middle = len(tensors) // 2
        return [loaded for half in (tensors[:middle], tensors[middle:]) for loaded in self._load_groups(half, feeds)]

    def _given(self, feeds: Mapping[str, Array], name: str) -> Array:
        """A graph input or a constant, rounded to its grid."""
        value = self.program.graph.tensor(name).data
        value = feeds[name] if value is None else value
        encoding = self.program.encodings.get(name)
        return value if encoding is None else fake_quantize(value, encoding)

    def _load(self, tensors: Sequence[str], feeds: Mapping[str, Array], **request: Any) -> _Loaded:
        """Load the model for the shapes of ``feeds``."""
        program = attrs.evolve(self.program, graph=_bound(self.program.graph, feeds))
        lowered = lower(program.graph, program.encodings, tensors)
        try:
            return _Loaded(self._backend, program, lowered, **request)
        except QnnRuntimeError as failure:
            problems = _problems(failure, lowered, ())
            where = f"{program.backend}:{program.soc.name}"
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            hint = f"npukit check MODEL --backend {where} lists all"
            raise ConstraintError(f"{where} refuses the model: {problems[0]}{more}", problems=problems, hint=hint) from None

    def metrics(self) -> dict[str, Any]:
        """Versions, the device, and the nodes it took by op, once something has run: nothing ever falls back to the CPU."""
        answer, _ = self._backend.child(self.program.soc).ask({"do": "versions"})
        facts: dict[str, Any] = {key: answer[key] for key in ("onnxruntime", "onnxruntime-qnn", "device")}
        if self._loaded:
            loaded = self._loaded[0]
            taken = Counter(node.op for node in placed(read_log(loaded.log), loaded.lowered.nodes))
            facts |= {"nodes on the device": sum(taken.values()), "nodes on the CPU": 0, "ops": dict(sorted(taken.items()))}
        return facts

    def profile(self, feeds: Mapping[str, Array]) -> tuple[OpTime, ...]:
        """Per-op figures of one run, as the runtime reports them; on the simulator they are times of this machine."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "profile.csv"
            with self._load(self.program.graph.outputs, feeds, profile_file=str(path)) as loaded:
                loaded.run(feeds)
            if not path.exists():
                raise ModelError("the vendor's runtime wrote no profile")
            return _op_times(path, loaded.lowered)

    def _close(self) -> None:
        with self._turn:
            for loaded in self._loaded:
                loaded.close()
            self._loaded = []


def _problems(failure: QnnRuntimeError, lowered: Lowered, found: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """Why a model did not load, node by node where the log says so."""
    verdicts = read_log(failure.log)
    problems = refusals(verdicts, lowered.nodes, found)
    if problems:
        return problems
    rule = "vendor" if not all(v.accepted for v in verdicts) else "vendor-build"
    what = "; ".join(leftovers(verdicts)) or f"accepted node by node, then the runtime failed to build it: {failure}"
    refused = (name for v in verdicts if not v.accepted for name in v.nodes)
    owner = next(filter(None, map(lowered.owner, refused)), None)
    name, op = (owner.name, owner.op) if owner else (lowered.graph.name, "model")
    return (Problem("error", rule, name, op, "", what, "", "onnxruntime-qnn"),)


def _refuse_open_shapes(graph: Graph) -> None:
    for name in graph.inputs:
        tensor = graph.tensor(name)
        if tensor.static_shape is None:
            shape = list(tensor.shape or ())
            hint = "bind it with --batch N or --onnx-define-symbol NAME=VALUE when the package is made"
            raise ModelError(f"input '{name}' has the open shape {shape}, the vendor's files have fixed ones", hint=hint)


def _bound(graph: Graph, feeds: Mapping[str, Array]) -> Graph:
    """The graph with its symbolic input dimensions bound to those of ``feeds``: the runtime takes fixed shapes only."""
    shapes = {name: graph.tensor(name).shape or () for name in graph.inputs if name in feeds}
    symbols = {
        d: size for name, dims in shapes.items() for d, size in zip(dims, feeds[name].shape, strict=True) if isinstance(d, str)
    }
    return load(serialize(graph), symbols=symbols) if symbols else graph


def _op_times(path: Path, lowered: Lowered) -> tuple[OpTime, ...]:
    """The node rows of the runtime's profile, in the names of the graph where the row belongs to one of its nodes."""
    found = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            event = _NODE_EVENT.match(row["Event Identifier"]) if row["Message"] == "NODE" else None
            if event is not None:
                node = lowered.nodes.get(event[1])
                name, op = (node.name, node.op) if node else (event[1], "")
                found.append(OpTime(name, op, float(row["Time"]), row["Unit of Measurement"].lower()))
    return tuple(found)
