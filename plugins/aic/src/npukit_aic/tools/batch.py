"""The inputs of qaic-runner: raw files by JSON, list, folder or name, or random values."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import attrs
import numpy as np

from npukit.encoding import Array
from npukit.errors import DataError, did_you_mean
from npukit.graph import Tensor
from npukit_aic.qpc import Binding, Qpc
from npukit_aic.samples import random_samples


@attrs.frozen
class Item:
    """The files of one inference, by binding, and the specialization whose shapes they have. ``parts`` of them, one behind the
    other, fill the batch. An input without files is zeros."""

    files: Mapping[str, tuple[Path, ...]]
    shapes: int

    def load(self, inputs: Iterable[Binding]) -> dict[str, Array]:
        """The inputs, in the dtypes and shapes of the bindings."""
        found = {}
        for binding in inputs:
            data = b"".join(path.read_bytes() for path in self.files.get(binding.name, ()))
            shape = binding.shapes[self.shapes]
            data = data or bytes(math.prod(shape) * binding.dtype.itemsize)
            found[binding.name] = np.frombuffer(data, binding.dtype.newbyteorder("<")).astype(binding.dtype).reshape(shape)
        return found


@attrs.frozen
class RandomItem:
    """Random values for all inputs: floats of [0, 1) and integers 0 and 1, which any table and mask has; with ``unbound`` anything
    that the dtype can hold."""

    unbound: bool
    shapes: int = 0

    def load(self, inputs: Iterable[Binding]) -> dict[str, Array]:
        """The inputs; the same in every run."""
        if self.unbound:
            rng = np.random.default_rng(0)
            return {b.name: _anything(rng, b.shapes[self.shapes], b.dtype) for b in inputs}
        return random_samples({b.name: Tensor(b.name, str(b.dtype), b.shapes[self.shapes]) for b in inputs}, "uniform", 1)[0]


def _anything(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Finite values from the whole range of a dtype."""
    if dtype.kind in "iu":
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    return (rng.uniform(-1, 1, shape) * float(np.finfo(dtype).max)).astype(dtype)


def from_json(path: Path, qpc: Qpc, *, join: bool) -> list[Item]:
    """``{"IO-files": [[{path, io-direction, elem-size, map-to, dims}, ...], ...]}``: one list per inference.

    Paths are relative to the file. Entries with io-direction "out" are left out, and one without "map-to" is the next input. Raises
    DataError.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read batch file '{path}': {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"batch file '{path}' is no JSON: {error}") from None
    groups = document.get("IO-files") if isinstance(document, dict) else None
    if not isinstance(groups, list) or not groups or not all(isinstance(group, list) for group in groups):
        raise DataError(f"batch file '{path}' has no list of lists under 'IO-files'", hint="one inner list per inference")
    found = [_group(group, f"batch file '{path}', inference {i}", path.parent, qpc) for i, group in enumerate(groups)]
    return _items(found, qpc, join=join)


_Group = dict[str, tuple[Path, tuple[int, ...] | None]]


def _group(entries: Sequence[Any], where: str, base: Path, qpc: Qpc) -> _Group:
    found: _Group = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise DataError(f"{where}: an entry has no path")
        if str(entry.get("io-direction", "in")).lower().startswith("out"):
            continue
        binding = _binding(entry.get("map-to"), len(found), where, qpc)
        size = entry.get("elem-size", binding.dtype.itemsize)
        if size != binding.dtype.itemsize:
            what = f"elem-size of '{binding.name}' is {size}"
            raise DataError(f"{where}: {what}, {binding.dtype} has {binding.dtype.itemsize} bytes")
        found[binding.name] = (base / entry["path"], _dims(entry.get("dims"), where))
    return found


def _binding(name: Any, index: int, where: str, qpc: Qpc) -> Binding:
    if name is None and index < len(qpc.inputs):
        return qpc.inputs[index]
    binding = next((b for b in qpc.inputs if b.name == name), None)
    if binding is None:
        raise DataError(f"{where}: the model has no input '{name}'", hint=did_you_mean(str(name), [b.name for b in qpc.inputs]))
    return binding


def _dims(value: Any, where: str) -> tuple[int, ...] | None:
    if value is not None and not (isinstance(value, list) and all(isinstance(d, int) for d in value)):
        raise DataError(f"{where}: dims is a list of whole numbers, found {value}")
    return None if value is None else tuple(value)


def from_list(path: Path, qpc: Qpc, *, join: bool) -> list[Item]:
    """A list with one inference per line, its files separated by commas in the order of the inputs.

    Paths start at the current folder, else at that of the list. Raises DataError.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read input list '{path}': {getattr(error, 'strerror', None) or error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            words = [Path(word.strip()) for word in line.split(",")]
            found.append(_named([w if os.path.isfile(w) else path.parent / w for w in words], qpc, f"{path}, line {number}"))
    if not found:
        raise DataError(f"input list '{path}' names no files")
    return _items(found, qpc, join=join)


def from_folder(path: Path, qpc: Qpc, *, join: bool) -> list[Item]:
    """All files of a folder in the order of their names, one inference each. Raises DataError, also for several inputs."""
    if len(qpc.inputs) != 1:
        hint = "say which file is which with --aic-batch-json-input or --aic-batch-input-file-list"
        raise DataError(f"a folder holds the files of one input, the model has {len(qpc.inputs)}", hint=hint)
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else []
    if not files:
        raise DataError(f"input folder '{path}' has no files")
    return _items([_named([file], qpc, str(path)) for file in files], qpc, join=join)


def from_files(files: Sequence[Path], qpc: Qpc) -> list[Item]:
    """One inference from a file per input. Raises DataError."""
    return _items([_named(files, qpc, "-i")], qpc, join=False)


def _named(files: Sequence[Path], qpc: Qpc, where: str) -> _Group:
    if len(files) != len(qpc.inputs):
        names = ", ".join(b.name for b in qpc.inputs)
        raise DataError(f"{where}: {len(files)} files for {len(qpc.inputs)} inputs", hint=f"one for each of {names}")
    return {b.name: (file, None) for b, file in zip(qpc.inputs, files, strict=True)}


def _items(groups: Sequence[_Group], qpc: Qpc, *, join: bool) -> list[Item]:
    """The groups as inferences; with ``join`` as many groups as fill the batch are one inference, the last one is filled up."""
    if not join:
        return [_item([group], qpc) for group in groups]
    if any(group.keys() != groups[0].keys() for group in groups):
        raise DataError("samples that are joined to a batch have files for the same inputs", hint="give all of them to each sample")
    batch = next((b.shapes[0][0] for b in qpc.inputs if b.shapes[0]), 1)
    return [_item(groups[start : start + batch], qpc, batch) for start in range(0, len(groups), batch)]


def _item(groups: Sequence[_Group], qpc: Qpc, parts: int = 1) -> Item:
    padded = [*groups, *[groups[-1]] * (parts - len(groups))]
    files = {name: tuple(group[name][0] for group in padded) for name in groups[0]}
    sizes = {name: sum(_size(path) for path in paths) for name, paths in files.items()}
    inputs = [b for b in qpc.inputs if b.name in files]
    fitting = [k for k in range(len(qpc.bindings[0].shapes)) if all(_bytes(b, k) == sizes[b.name] for b in inputs)]
    if not fitting:
        _refuse(inputs, files, sizes, parts)
    dims = {name: found[1] for name, found in groups[0].items() if found[1] is not None and parts == 1}
    for binding in inputs:
        given = dims.get(binding.name)
        if given is not None and math.prod(given) * binding.dtype.itemsize != sizes[binding.name]:
            what = f"'{files[binding.name][0]}' has {sizes[binding.name]} bytes, not those of dims {list(given)}"
            raise DataError(f"{what} of input '{binding.name}' ({binding.dtype})")
    # Several specializations may have the same sizes; where none has the very dims, the values count.
    named = [k for k in fitting if all(dims.get(b.name, b.shapes[k]) == b.shapes[k] for b in inputs)]
    return Item(files, (named or fitting)[0])


def _refuse(inputs: Sequence[Binding], files: Mapping[str, Sequence[Path]], sizes: Mapping[str, int], parts: int) -> NoReturn:
    """Say which file has a size that the model is not compiled for."""
    wrong = next((b for b in inputs if not any(_bytes(b, k) == sizes[b.name] for k in range(len(b.shapes)))), inputs[0])
    allowed = " or ".join(dict.fromkeys(f"{_bytes(wrong, k)} ({wrong.dtype}, {list(s)})" for k, s in enumerate(wrong.shapes)))
    hint = "--auto-batch-input joins files of one sample each" if parts == 1 else ""
    raise DataError(f"'{files[wrong.name][0]}' has {sizes[wrong.name]} bytes, input '{wrong.name}' takes {allowed}", hint=hint)


def _bytes(binding: Binding, index: int) -> int:
    return math.prod(binding.shapes[index]) * binding.dtype.itemsize


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError) as error:  # ValueError: no file has such a name
        raise DataError(f"cannot read '{path}': {getattr(error, 'strerror', None) or error}") from None
