"""Quantization profiles in Glow's YAML form, as dump-profile writes and load-profile reads them.

A file has three documents: ``GlowToolsVersion``, a date; ``GraphPreLowerHash``, a hexadecimal number; and a list with a
``NodeOutputName`` ("name:result"), ``Min``, ``Max`` and ``Histogram`` for every tensor, constants among them. Their counts are
multiplied by the number of batches, as Glow profiles them in every one. Source: https://github.com/pytorch/glow (Apache-2.0),
lib/Quantization/Serialization, and profiles that are published with MLPerf submissions.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from npukit.calibration import LEFT_OUT, Profile, Seen, observe
from npukit.encoding import Array
from npukit.errors import DataError, counted, one_line
from npukit.events import OnEvent, ignore
from npukit.graph import Graph, Tensor, write_atomic
from npukit_aic.glow.histogram import BINS, Histogram
from npukit_aic.observers import from_memory, memory_name, observer, to_memory
from npukit_aic.yaml_text import read_documents

_VERSION = "2020-10-05"  # a date in the place of that of Glow's tools, whose form this is


@attrs.frozen(eq=False)
class ProfileFile:
    """What a file says of a graph: a profile of its activations, the number of bins (0: none), and what is worth a warning."""

    profile: Profile
    bins: int
    notes: tuple[str, ...]


def make_profile(graph: Graph, batches: Iterable[Mapping[str, Array]], *, bins: int = BINS, on_event: OnEvent = ignore) -> Profile:
    """Run the float model over all batches and keep Glow's histogram of every activation; raises as ``observe`` does."""
    return observe(graph, batches, graph.float_activations(), (observer("MSE", bins=bins),), on_event=on_event)


def dump_profile(profile: Profile, graph: Graph, path: str | os.PathLike[str], *, bins: int = BINS) -> None:
    """Write a profile that ``make_profile`` made of ``graph``; nothing is left behind when that fails.

    Raises DataError when the profile has no Glow histograms of so many bins.
    """
    write_atomic(Path(path), (piece.encode() for piece in _pieces(profile, graph, bins)))


def load_profile(path: str | os.PathLike[str], graph: Graph) -> ProfileFile:
    """Read a profile of ``graph``, which is the one that ``make_profile`` would run; entries of other tensors are left out.

    Tensors are found by name, else by the name with ``_`` in place of what is no letter, digit or ``_``, as Glow has them. A hash
    of another graph is a note: so profiles of others can be used. Raises UsageError when the file cannot be read, DataError when it
    is no profile, says something impossible of a tensor, or knows none of this graph.
    """
    entries, made_for = _read(Path(path))
    names, found, bins, samples, unknown = _names(graph), {}, set(), 1, []
    for entry in entries:
        key, histogram = _entry(entry, path)
        name = names.get(key) or names.get(_sanitised(key))
        if name is None:
            unknown.append(key)
        elif name in found:
            raise DataError(f"profile {path} has tensor '{name}' twice")
        elif graph.is_constant(name):
            samples = max(samples, histogram.total // max(graph.tensor(name).size, 1))
        else:
            bins.add(histogram.counts.size)
            memory = {memory_name(histogram.counts.size): to_memory(histogram)} if histogram.counts.size else {}
            found[name] = Seen(histogram.low, histogram.high, histogram.total, None, memory)
    if not found:
        hint = "it is of another model, or of the same one with other symbols"
        raise DataError(f"profile {path} knows no tensor of the model, found {', '.join(unknown[:3]) or 'none'}", hint=hint)
    if len(bins) > 1:
        raise DataError(f"profile {path} has histograms of {' and '.join(map(str, sorted(bins)))} bins, they must be alike")
    return ProfileFile(Profile(found, samples), bins.pop(), tuple(_notes(made_for, unknown, graph)))


def graph_hash(graph: Graph) -> int:
    """A number of 64 bits that stands for the structure of a graph: its nodes and the shapes of its tensors."""
    nodes = [(n.key, n.inputs, n.outputs, sorted((k, str(v)) for k, v in n.attributes.items())) for n in graph.nodes]
    shapes = sorted((name, tensor.dtype, tensor.shape) for name, tensor in graph.tensors.items())
    return int(hashlib.sha256(repr((nodes, shapes, graph.inputs, graph.outputs)).encode()).hexdigest()[:16], 16)


# ---------------------------------------------------------------------------------------------------------------- writing


def _pieces(profile: Profile, graph: Graph, bins: int) -> Iterator[str]:
    yield f"---\nGlowToolsVersion: {_VERSION}\n...\n---\nGraphPreLowerHash: 0x{graph_hash(graph):016X}\n...\n---\n"
    for tensor in graph.tensors.values():
        if tensor.name in profile.tensors:
            yield _text(_key(graph, tensor.name), _kept(profile.tensors[tensor.name], tensor.name, bins))
        elif tensor.is_constant and tensor.is_float and tensor.size and tensor.name not in graph.index_tensors:
            once = _of_constant(tensor, bins)
            yield _text(f"{tensor.name}:0", attrs.evolve(once, counts=once.counts * profile.samples))
    yield "...\n"


def _kept(seen: Seen, name: str, bins: int) -> Histogram:
    if memory_name(bins) not in seen.memory:
        raise DataError(f"the profile has no histogram of {bins} bins of tensor '{name}'", hint="profile the data again")
    return from_memory(seen.memory[memory_name(bins)])


def _of_constant(tensor: Tensor, bins: int) -> Histogram:
    found = Histogram.empty(bins)
    for piece in tensor.pieces():
        found = found.add(np.maximum(piece.astype(np.float32), LEFT_OUT))
    return found


def _text(key: str, histogram: Histogram) -> str:
    counts = ", ".join(map(str, histogram.counts.tolist()))
    # Nine digits are exact for float32, and the point makes them numbers for YAML 1.1.
    low, high = f"{histogram.low:.8e}", f"{histogram.high:.8e}"
    return f"- NodeOutputName: {json.dumps(key)}\n  Min: {low}\n  Max: {high}\n  Histogram: [ {counts} ]\n"


def _key(graph: Graph, name: str) -> str:
    """The first output of the node that makes a tensor, which Glow names nodes by, and which of its results the tensor is."""
    producer = graph.producers.get(name)
    return f"{producer.outputs[0] or name}:{producer.outputs.index(name)}" if producer else f"{name}:0"


# ---------------------------------------------------------------------------------------------------------------- reading


def _names(graph: Graph) -> dict[str, str]:
    """Key -> tensor, sanitised keys too where only one tensor has them."""
    keys = {_key(graph, name): name for name in graph.tensors}
    sanitised: dict[str, list[str]] = {}
    for key, name in keys.items():
        sanitised.setdefault(_sanitised(key), []).append(name)
    return {key: found[0] for key, found in sanitised.items() if len(found) == 1} | keys


def _sanitised(key: str) -> str:
    name, _, result = key.rpartition(":")
    return f"{re.sub('[^A-Za-z0-9_]', '_', name)}:{result}"


def _read(path: Path) -> tuple[list[Any], int]:
    """The entries of a file and the hash of the graph that it was made for."""
    try:
        match read_documents(path, "quantization profile"):
            case [{"GlowToolsVersion": _}, {"GraphPreLowerHash": str(made_for)}, list(entries)]:
                return entries, int(made_for, 0)
            case _:
                raise ValueError("three documents are expected: GlowToolsVersion, GraphPreLowerHash, and a list")
    except ValueError as error:
        raise DataError(f"{path} is not a quantization profile: {one_line(error)}", hint="dump-profile writes one") from None


def _entry(entry: Any, path: str | os.PathLike[str]) -> tuple[str, Histogram]:
    """The key and the histogram of one entry."""
    key = entry.get("NodeOutputName") if isinstance(entry, dict) else None
    if not isinstance(key, str):
        raise DataError(f"profile {path} has an entry without NodeOutputName")
    try:
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite
            low, high = np.array([float(entry["Min"]), float(entry["Max"])]).astype(np.float32).tolist()
        counts = np.array([float(count) for count in entry["Histogram"]])
    except (TypeError, ValueError, KeyError) as error:
        raise DataError(f"profile {path}, '{key}': Min, Max and Histogram are numbers, found {one_line(error)}") from None
    if not np.isfinite(low) or not np.isfinite(high) or low > high:
        raise DataError(f"profile {path}, '{key}': Min must be at most Max and both finite, found {low:g} and {high:g}")
    if not np.all((counts >= 0) & (counts < 2.0**53)):
        raise DataError(f"profile {path}, '{key}': the counts of a histogram are 0 or more")
    return key, Histogram(np.rint(counts).astype(np.int64), low, high)


def _notes(made_for: int, unknown: list[str], graph: Graph) -> Iterator[str]:
    if made_for != graph_hash(graph):
        yield f"the profile is of another graph (hash 0x{made_for:X}, here 0x{graph_hash(graph):X}); its tensors are found by name"
    if unknown:
        yield f"{counted(len(unknown), 'tensor')} of the profile are not in the model: {', '.join(unknown[:5])}"
