"""qnn-net-run."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from npukit import __version__
from npukit.backend import Edge, Session
from npukit.calibration import InputList, read_input_list
from npukit.commands import INDEX, result_folder, safe_name
from npukit.encoding import Array
from npukit.errors import DataError, UsageError, did_you_mean
from npukit.graph import Tensor
from npukit.plugins import Registry
from npukit.quantization import Request, open_session, read_source
from npukit_qairt.main import say
from npukit_qairt.paths import model_file
from npukit_qairt.targets import target_of

_SKIP = "__"
_CARRIER = "libQnnModelDlc.so"
_PROFILE = "qnn-profiling-data.csv"


@attrs.frozen
class Wish:
    """How to run: which inputs come as native files ((): all), how outputs are written, which tensors, how often.

    ``every`` writes all float tensors, ``unread`` those that nothing reads.
    """

    native_inputs: tuple[str, ...] | None = None
    forms: tuple[str, ...] = ("float",)
    tensors: tuple[str, ...] = ()
    every: bool = False
    count: int | None = None
    seconds: float = 0.0
    keep: int | None = None
    profile: str = ""
    log: str = "warn"
    unread: bool = False
    float_fallback: bool = False


def run(args: Namespace) -> int:
    if args.version:
        print(f"npukit-qairt {__version__}")
        return 0
    if args.model and Path(args.model).name != _CARRIER:
        hint = "--dlc_path runs the DLC that it was made from"
        raise UsageError(f"--model {args.model}: compiled model libraries run on the vendor's runtime only", hint=hint)
    if args.model:
        say(f"--model: 0 tensors affected ({_CARRIER} only reads the DLC)")
    paths, lists = args.dlc_path.split(","), args.input_list.split(",")
    if len(paths) != len(lists):
        raise UsageError(f"{len(paths)} DLCs and {len(lists)} lists", hint=f"a list for each DLC; {_SKIP} skips one")
    pairs = [(model_file(path), name) for path, name in zip(paths, lists, strict=True) if name != _SKIP]
    if not pairs:
        raise UsageError("every DLC is skipped", hint="name a list for one of them")
    registry = Registry.load()
    for path, name in pairs:
        folder = Path(args.output_dir or "output")
        run_dlc(path, Path(name), folder / path.stem if len(paths) > 1 else folder, args.backend, _wish(args, path.stem), registry)
    return 0


def _wish(args: Namespace, graph: str) -> Wish:
    native: tuple[str, ...] | None = None
    if args.use_native_input_files or args.input_data_type == "native":
        native = ()
    elif args.native_input_tensor_names:
        native = names_for(args.native_input_tensor_names, graph)
    forms = {"native_only": ("native",), "float_and_native": ("float", "native")}.get(args.output_data_type or "", ("float",))
    return Wish(
        native,
        ("native",) if args.use_native_output_files else forms,
        names_for(args.set_output_tensors or "", graph),
        args.debug,
        positive("--num_inferences", args.num_inferences),
        args.duration or 0.0,
        positive("--keep_num_outputs", args.keep_num_outputs),
        args.profiling_level or "",
        args.log_level or "warn",
    )


def positive(flag: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise UsageError(f"{flag} is {value}, it must be above 0")
    return value


def names_for(text: str, graph: str) -> tuple[str, ...]:
    """The tensors of "graph:a,b;other:c" or "a,b" that are meant for ``graph``."""
    found: list[str] = []
    for part in text.split(";"):
        owner, colon, names = part.partition(":")
        # Tensor names may hold colons themselves: only a known graph, or none, stands in front of one.
        if not colon or owner != graph:
            names = part if not colon else ("" if "," not in part and owner.isidentifier() else part)
        found += [name.strip() for name in names.split(",") if name.strip()]
    return tuple(found)


def run_dlc(path: Path, list_file: Path, folder: Path, backend: str | None, wish: Wish, registry: Registry) -> None:
    """Run one DLC, or a model, over its list and write what comes out."""
    source = read_source(Request(path), registry=registry)
    folder.parent.mkdir(parents=True, exist_ok=True)
    target = target_of(registry, backend, None, source.manifest)
    with open_session(source, target, float_fallback=wish.float_fallback, registry=registry) as session:
        runner = _Runner(session, wish, list_file)
        for node in session.metrics().get("reference", ()) if wish.log in ("info", "debug", "verbose") else ():
            say(f"info: {node} has no kernel and is computed in float")
        if session.ignores_encodings and source.given:
            say(f"note: {target.name} computes in float: the {len(source.given)} encodings are not used")
        if wish.log in ("info", "debug", "verbose"):
            say(f"info: {path} on {target.name}; {runner.rule()}")
        if wish.log in ("debug", "verbose"):
            say(f"debug: writing {', '.join(runner.names)}")
        with result_folder(folder) as place:
            written = runner.write(place)
            index = {"npukit": 1, "backend": target.name, "samples": written, "files": runner.files}
            (place / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
            if wish.profile:
                (place / _PROFILE).write_text(runner.profile(target.estimate(source.graph, source.given)), encoding="utf-8")
    print(f"{folder}: {written} results of {len(runner.names)} tensors on {target.name}; {runner.done} inferences")


class _Runner:
    """A session with its data, and where each tensor goes."""

    def __init__(self, session: Session, wish: Wish, list_file: Path) -> None:
        self._session, self._wish = session, wish
        program = session.program
        self._graph, self._encodings = program.graph, program.encodings
        self._data = self._opened(list_file)
        self.names = self._wanted()
        taken: set[str] = set()
        self.files: dict[str, dict[str, str]] = {n: self._names(safe_name(n, taken)) for n in self.names}
        self.done = 0
        self._times: list[float] = []

    def _names(self, stem: str) -> dict[str, str]:
        return {form: stem + ("_native.raw" if form == "native" else ".raw") for form in self._wish.forms}

    def _edge(self, name: str) -> Edge:
        """How a tensor is handed over; one inside the model as it is stored."""
        edge = self._session.program.edges.get(name)
        encoding = self._encodings.get(name)
        inside = name not in (*self._graph.inputs, *self._graph.outputs)
        return edge or Edge(encoding.dtype if encoding is not None and inside else "")

    def _opened(self, path: Path) -> InputList:
        wanted = self._wish.native_inputs
        names = () if wanted is None else wanted or self._graph.inputs
        native: dict[str, Tensor] = {}
        for name in names:
            if name not in self._graph.inputs:
                raise UsageError(f"'{name}' is not an input", hint=did_you_mean(name, self._graph.inputs))
            native[name] = self._edge(name).native(self._graph.tensor(name), self._encodings.get(name))
        return read_input_list(path, self._graph, native=native)

    def _wanted(self) -> tuple[str, ...]:
        for name in self._wish.tensors:
            if name not in self._graph.tensors:
                raise DataError(f"--set_output_tensors: no tensor '{name}'", hint=did_you_mean(name, self._graph.tensors))
        inner = self._graph.float_activations() if self._wish.every else ()
        made = (n for node in self._graph.nodes for n in node.outputs if n and n not in self._graph.consumers)
        unread = tuple(made) if self._wish.unread else ()
        names = (*(self._data.outputs or self._graph.outputs), *self._wish.tensors, *inner, *unread)
        return tuple(dict.fromkeys(n for n in names if n not in self._graph.inputs))

    def rule(self) -> str:
        """How lines became batches."""
        sizes = self._data.sizes()
        if max(sizes) == 1:
            return "a line is a whole batch"
        lines = len(self._data.lines)
        return f"a line is one element of the batch: {lines} lines make {len(sizes)} batches, the last filled with zeros"

    def _feeds(self) -> Iterator[tuple[int, dict[str, Array]]]:
        """(lines, real values of the inputs) of every inference."""
        end = time.monotonic() + self._wish.seconds
        limit = self._wish.count or len(self._data)
        while True:
            for size, arrays in zip(self._data.sizes(), self._data, strict=True):
                if self.done >= limit and time.monotonic() >= end:
                    return
                yield size, {name: self._real(name, array) for name, array in arrays.items()}

    def _real(self, name: str, array: Array) -> Array:
        if name not in self._data.native:
            return array
        return self._edge(name).to_real(array, self._graph.tensor(name), self._encodings.get(name))

    def write(self, folder: Path) -> int:
        """Run, and write the results of every line; returns how many there are."""
        number = 0
        for size, feeds in self._feeds():
            start = time.perf_counter()
            results = self._session.run(feeds, self.names)
            self._times.append(time.perf_counter() - start)
            self.done += 1
            for part in _parts(results, size, max(self._data.sizes())):
                if self._wish.keep is None or number < self._wish.keep:
                    place = folder / f"Result_{number}"
                    place.mkdir()
                    self._write(place, part)
                    number += 1
        return number

    def _write(self, place: Path, results: Mapping[str, Array]) -> None:
        for name, value in results.items():
            for form, file in self.files[name].items():
                if form == "native":
                    value_out = self._edge(name).from_real(value, self._graph.tensor(name), self._encodings.get(name))
                    value_out.astype(value_out.dtype.newbyteorder("<")).tofile(place / file)
                else:
                    value.astype("<f4").tofile(place / file)

    def profile(self, costs: object) -> str:
        """Times of inferences, and with "detailed" what the backend estimates of every op, as CSV."""
        lines = ["Event,Name,Value,Unit", *(f"inference,{i},{t * 1e6:.0f},us" for i, t in enumerate(self._times))]
        if self._wish.profile == "detailed":
            assert isinstance(costs, tuple)
            lines += [f"op,{cost.node},{cost.macs or 0},MACs" for cost in costs]
        return "\n".join(lines) + "\n"


def _parts(results: Mapping[str, Array], size: int, batch: int) -> Iterator[dict[str, Array]]:
    """The results of an inference, line by line when lines were put together and the outputs have that batch."""
    if batch == 1 or any(value.shape[:1] != (batch,) for value in results.values()):
        yield dict(results)
        return
    for row in range(size):
        yield {name: value[row : row + 1] for name, value in results.items()}
