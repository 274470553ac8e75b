"""What flags and the I/O configuration file (YAML) say of inputs and outputs."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml

from npukit.backend import read_yaml
from npukit.commands import check_writable
from npukit.errors import UsageError, did_you_mean
from npukit.graph import Graph, write_atomic
from npukit_qairt.color import check_colors
from npukit_qairt.flags.converter import DTYPES, LAYOUTS
from npukit_qairt.ports import Port, layout_of

_SECTIONS = ("Converted Graph", "Input Tensor Configuration", "Output Tensor Configuration")
_SOURCE, _DESIRED = "Src Model Parameters", "Desired Model Parameters"
_KEYS = {
    _SOURCE: ("DataType", "Layout", "Shape"),
    _DESIRED: ("DataType", "Layout", "Shape", "Color Conversion", "QuantParams", "Optional"),
}
_HANDED_OVER = ("float32", "float16", "uint8", "int8")


def read_ports(args: Namespace, graph: Graph) -> dict[str, Port]:
    """What is wanted of the inputs and outputs, by name. Raises UsageError that names the flag, or the file and its key."""
    found = {} if args.config is None else _from_file(Path(args.config), graph)

    def put(flag: str, name: str, known: Sequence[str], **changes: Any) -> None:
        if name not in known:
            raise UsageError(f"{flag}: the model has no such end '{name}'", hint=did_you_mean(name, known))
        found[name] = attrs.evolve(found.get(name, Port(name)), **changes)

    ends = (("source_model", "layout"), ("desired", "desired_layout"))
    for side, known in (("input", graph.inputs), ("output", graph.outputs)):
        for prefix, field in ends:
            flag = f"{prefix}_{side}_layout"
            for name, layout in getattr(args, flag):
                put(f"--{flag}", name, known, **{field: _layout(f"--{flag} {name}", layout)})
    for name, dtype in args.source_model_input_datatype:
        if dtype not in DTYPES:
            raise UsageError(f"--source_model_input_datatype {name}: no type '{dtype}'", hint=did_you_mean(dtype, DTYPES))
        put("--source_model_input_datatype", name, graph.inputs, dtype=dtype)
    for words in args.desired_input_color_encoding:
        name, colors = _colors(words, graph)
        put("--desired_input_color_encoding", name, graph.inputs, color=colors)
    return found


def _layout(where: str, layout: Any) -> str:
    name = str(layout).upper()
    if name not in LAYOUTS:
        raise UsageError(f"{where}: no layout '{layout}'", hint=did_you_mean(name, LAYOUTS))
    return name


def _colors(words: Sequence[str], graph: Graph) -> tuple[str, tuple[str, str]]:
    """[NAME] IN [OUT] as (name, (in, out)); without a name it is the first input."""
    named = words[0] in graph.inputs
    rest = words[1:] if named else words
    if len(rest) not in (1, 2):
        raise UsageError(f"--desired_input_color_encoding takes [NAME] IN [OUT], found '{' '.join(words)}'")
    found, wanted = rest[0].lower(), (rest[1].lower() if len(rest) == 2 else "bgr")
    check_colors(found, wanted)
    return words[0] if named else graph.inputs[0], (found, wanted)


def write_template(path: str, graph: Graph) -> None:
    """Write a configuration that describes the graph as it is."""

    def entry(name: str) -> dict[str, Any]:
        tensor = graph.tensor(name)
        shape = ",".join(str(d) for d in tensor.shape or ())
        return {
            "Name": name,
            _SOURCE: {"DataType": tensor.dtype, "Layout": layout_of(tensor.shape), "Shape": shape},
            _DESIRED: {
                **dict.fromkeys(_KEYS[_DESIRED][:4]),
                "QuantParams": {"Scale": None, "Offset": None},
                "Optional": False,
            },
        }

    document = {
        _SECTIONS[0]: [{"Input Tensors": list(graph.inputs)}, {"Output Tensors": list(graph.outputs)}],
        _SECTIONS[1]: [entry(name) for name in graph.inputs],
        _SECTIONS[2]: [entry(name) for name in graph.outputs],
    }
    write_atomic(check_writable(path), [yaml.safe_dump(document, sort_keys=False).encode()])


def _from_file(path: Path, graph: Graph) -> dict[str, Port]:
    document = read_yaml(path, "--config")
    _only(path, "", document, _SECTIONS)
    found = {}
    for section, known in ((_SECTIONS[1], graph.inputs), (_SECTIONS[2], graph.outputs)):
        entries = document.get(section) or []
        if not isinstance(entries, list):
            raise UsageError(f"{path}, {section} is {type(entries).__name__}, not a list")
        for number, entry in enumerate(entries):
            where = f"{section}[{number}]"
            _only(path, where, entry, ("Name", _SOURCE, _DESIRED))
            if entry.get("Name") not in known:
                hint = did_you_mean(str(entry.get("Name")), known)
                raise UsageError(f"{path}, {where}: the model has no such end '{entry.get('Name')}'", hint=hint)
            found[entry["Name"]] = _port(path, where, entry)
    return found


def _port(path: Path, where: str, entry: Mapping[str, Any]) -> Port:
    source, desired = entry.get(_SOURCE) or {}, entry.get(_DESIRED) or {}
    for key, part in ((_SOURCE, source), (_DESIRED, desired)):
        _only(path, f"{where}.{key}", part, _KEYS[key])
    layouts = [_layout(f"{path}, {where}", part["Layout"]) if part.get("Layout") else "" for part in (source, desired)]
    dtype = desired.get("DataType") or ""
    if dtype and dtype not in _HANDED_OVER:
        raise UsageError(f"{path}, {where}: DataType '{dtype}' cannot be handed over", hint=f"one of {', '.join(_HANDED_OVER)}")
    color = None
    if desired.get("Color Conversion"):
        words = str(desired["Color Conversion"]).lower().split()
        color = (words[0], words[1] if len(words) > 1 else "bgr")
        check_colors(*color)
    grid = desired.get("QuantParams") or {}
    _only(path, f"{where}.QuantParams", grid, ("Scale", "Offset"))
    scale, offset = grid.get("Scale"), grid.get("Offset")
    fits = isinstance(scale, int | float) and 0 < scale <= sys.float_info.max and isinstance(offset or 0, int)
    if scale is not None and not fits:
        raise UsageError(f"{path}, {where}: QuantParams need a Scale above 0 and a whole Offset")
    port = Port(entry["Name"], layouts[0], layouts[1], color, desired_dtype=dtype)
    return port if scale is None else attrs.evolve(port, grid=(float(scale), int(offset or 0)))


def _only(path: Path, where: str, value: Any, keys: Sequence[str]) -> None:
    """Raise UsageError unless ``value`` is a mapping with no key but ``keys``."""
    place = f"{path}, {where}" if where else str(path)
    if not isinstance(value, Mapping):
        raise UsageError(f"{place} is {type(value).__name__}, not a mapping")
    for key in value:
        if key not in keys:
            raise UsageError(f"{place}: '{key}' is not known", hint=did_you_mean(str(key), keys))
