"""The custom I/O list (YAML): in which type and layout callers hand over inputs and outputs.

Format: https://quic.github.io/cloud-ai-sdk-pages/, custom I/O of the model compiler.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import yaml

from npukit.backend import Edge, read_yaml
from npukit.encoding import Encoding
from npukit.errors import UsageError, did_you_mean
from npukit.graph import Graph, write_atomic
from npukit_aic.files.entries import kind, mapping, sequence

WHAT = "custom I/O list"
_KEYS = ("IOName", "Precision", "Layout", "Scale", "Offset")
_DTYPES = {"float": "float32", "float16": "float16", "int8": "int8"}
_LATER = {
    "mxint8": "int8 with Scale and Offset has the same size",
    "bfloat16": "the card computes it in float16, which has other values: hand over float16",
}
_LAYOUTS = ("NCHW", "NHWC")
_HEAD = b"# Every float input and output. Precision: float, float16, int8 (with Scale and Offset). Layout, of rank 4: NCHW, NHWC.\n"


@attrs.frozen
class IoList:
    """The edges of a package by name, and the int8 grids of those that are handed over as int8."""

    edges: Mapping[str, Edge] = attrs.field(factory=dict)
    encodings: Mapping[str, Encoding] = attrs.field(factory=dict)


def read_io_list(path: Path, graph: Graph) -> IoList:
    """What a file says of the inputs and outputs of ``graph``. Raises UsageError that names the file, the entry and what is
    allowed."""
    edges: dict[str, Edge] = {}
    grids: dict[str, Encoding] = {}
    for number, raw in enumerate(sequence(read_yaml(path, WHAT), f"{WHAT} {path}", "entries with IOName and Precision"), 1):
        where = f"{WHAT} {path}, entry {number}"
        entry = mapping(raw, where, _KEYS, needs=_KEYS[:2])
        name = str(entry["IOName"])
        ends = (*graph.inputs, *graph.outputs)
        if name not in ends:
            raise UsageError(f"{where}: the model has no input or output '{name}'", hint=did_you_mean(name, ends))
        if name in edges:
            raise UsageError(f"{where}: '{name}' has an entry already")
        if not graph.tensor(name).is_float:
            raise UsageError(f"{where}: '{name}' is {graph.tensor(name).dtype}, only float ends have a Precision")
        edges[name] = Edge(_dtype(entry["Precision"], where), _layout(entry.get("Layout"), graph, name, where))
        grid = _grid(entry, edges[name].dtype, where)
        if grid is not None:
            grids[name] = grid
    return IoList(edges, grids)


def _dtype(precision: Any, where: str) -> str:
    if not isinstance(precision, str):
        raise UsageError(f"{where}: Precision is {kind(precision)}, not one of {', '.join(_DTYPES)}")
    if precision in _LATER:
        raise UsageError(f"{where}: Precision {precision} is not emulated", hint=_LATER[precision])
    if precision not in _DTYPES:
        raise UsageError(f"{where}: there is no Precision '{precision}'", hint=did_you_mean(str(precision), _DTYPES))
    return _DTYPES[precision]


def _layout(layout: Any, graph: Graph, name: str, where: str) -> str:
    if layout is None:
        return ""
    if layout not in _LAYOUTS:
        raise UsageError(f"{where}: there is no Layout '{layout}'", hint=did_you_mean(str(layout), _LAYOUTS))
    shape = graph.tensor(name).shape
    if shape is None or len(shape) != 4:
        found = "not known" if shape is None else list(shape)
        raise UsageError(f"{where}: Layout is for rank 4, the shape of '{name}' is {found}")
    return layout if layout == "NHWC" else ""


def _grid(entry: Mapping[str, Any], dtype: str, where: str) -> Encoding | None:
    given = [key for key in ("Scale", "Offset") if entry.get(key) is not None]
    if dtype != "int8":
        if given:
            raise UsageError(f"{where}: {given[0]} is for Precision int8, this one is {entry['Precision']}")
        return None
    if len(given) < 2:
        raise UsageError(f"{where}: Precision int8 needs Scale and Offset, found {given[0] if given else 'none of them'}")
    scale, offset = entry["Scale"], entry["Offset"]
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= sys.float_info.max:
        raise UsageError(f"{where}: Scale is a number above 0, found {kind(scale)}")
    if isinstance(offset, bool) or not isinstance(offset, int) or not -128 <= offset <= 127:
        raise UsageError(f"{where}: Offset is a whole number in -128..127, found {kind(offset)}")
    return Encoding("int8", float(scale), offset, origin="override")


def write_io_template(path: Path, graph: Graph) -> None:
    """Write a list that describes the float inputs and outputs of ``graph`` as they are. Raises UsageError when it cannot."""
    names = {dtype: precision for precision, dtype in _DTYPES.items()}
    entries = []
    for name in dict.fromkeys((*graph.inputs, *graph.outputs)):
        tensor = graph.tensor(name)
        if tensor.dtype in names:
            layout = {"Layout": "NCHW"} if len(tensor.shape or ()) == 4 else {}
            entries.append({"IOName": name, "Precision": names[tensor.dtype], **layout})
    write_atomic(path, [_HEAD, yaml.safe_dump(entries, sort_keys=False).encode()])
