"""The folder that npukit and the worker share: a job goes in, constants and encodings come out."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from npukit.encoding import Array, Encoding
from npukit.encoding.formats import read_encodings, write_encodings
from npukit.errors import NpukitError, PluginError, one_line
from npukit.graph import Graph, Node, save

_MODEL, _SAMPLES, _GRIDS = "model.onnx", "samples.npz", "grids.json"
_CONSTANTS_OUT, _ENCODINGS_OUT = "constants.npz", "encodings.json"
JOB = "job.json"


@attrs.frozen(eq=False)
class Request:
    """What AIMET is asked for: a task on some nodes of a float graph; ``parameters`` may change, ``grids`` are given."""

    task: str
    graph: Graph
    nodes: Sequence[str]
    parameters: Sequence[str]
    grids: Mapping[str, Encoding] = attrs.field(factory=dict)
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    seed: int = 0


@attrs.frozen(eq=False)
class Answer:
    """The parameters after AIMET's work; ``encodings`` is empty when the task decides none."""

    constants: Mapping[str, Array]
    encodings: Mapping[str, Encoding]


def write_request(folder: Path, request: Request, samples: Iterable[Mapping[str, Array]]) -> None:
    """Write the files of a request."""
    graph = request.graph.evolve(nodes=tuple(map(_explicit, request.graph.nodes)))
    save(graph, folder / _MODEL, external_data="model.weights")
    (folder / _GRIDS).write_text(write_encodings(request.grids, graph, "1.0.0"), encoding="utf-8")
    count = _write_samples(folder / _SAMPLES, samples, graph.inputs)
    job = {
        "task": request.task,
        "model": _MODEL,
        "samples": _SAMPLES,
        "count": count,
        "inputs": list(graph.inputs),
        "encodings": _GRIDS,
        "nodes": list(request.nodes),
        "parameters": list(request.parameters),
        "settings": dict(request.settings),
        "seed": request.seed,
        "constants_out": _CONSTANTS_OUT,
        "encodings_out": _ENCODINGS_OUT,
    }
    (folder / JOB).write_text(json.dumps(job, indent=1), encoding="utf-8")


def _explicit(node: Node) -> Node:
    """A convolution with its ``group`` written out: AIMET takes one that relies on the default for an unknown kind."""
    if node.op not in ("Conv", "ConvTranspose") or "group" in node.attributes:
        return node
    return attrs.evolve(node, attributes={**node.attributes, "group": 1})


def _write_samples(path: Path, samples: Iterable[Mapping[str, Array]], inputs: Sequence[str]) -> int:
    """Write arrays called SAMPLE.INPUT, both as numbers, one after the other; return how many samples there are."""
    count = 0
    with zipfile.ZipFile(path, "w") as archive:
        for sample in samples:
            for place, name in enumerate(inputs):
                with archive.open(f"{count}.{place}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.ascontiguousarray(sample[name]), allow_pickle=False)
            count += 1
    return count


def read_answer(folder: Path, request: Request) -> Answer:
    """Read what the worker wrote. Raises PluginError when it is missing, damaged, or not what was asked for."""
    try:
        constants = _read_constants(folder / _CONSTANTS_OUT, request)
        found = read_encodings(folder / _ENCODINGS_OUT, request.graph)
    except NpukitError as error:
        raise PluginError(f"AIMET's answer is no good: {error.message}") from None
    except Exception as error:  # numpy, zipfile and zlib raise many types for damaged files
        raise PluginError(f"AIMET's answer is no good: {one_line(error)}") from None
    missing = sorted(set(request.parameters) - found.encodings.keys()) if request.grids else []
    if missing:
        raise PluginError(f"AIMET's answer has no encoding of '{missing[0]}'")
    return Answer(constants, found.encodings)


def _read_constants(path: Path, request: Request) -> dict[str, Array]:
    found = {}
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        for place, name in enumerate(request.parameters):
            found[name] = _checked(name, archive[str(place)], request.graph.tensor(name).data)
    return found


def _checked(name: str, new: Array, old: Array | None) -> Array:
    """``new`` if it can stand for the constant ``old``."""
    assert old is not None  # parameters are constants
    if new.shape != old.shape or new.dtype != old.dtype:
        raise ValueError(f"'{name}' is {new.dtype} {list(new.shape)}, not {old.dtype} {list(old.shape)}")
    if not np.all(np.isfinite(new)):
        raise ValueError(f"'{name}' has values that are not finite")
    return new
