"""Calibration and input data from whatever a user has: arrays, files, folders, input lists, loaders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from npukit.backend import check_feeds
from npukit.calibration.input_list import read_input_list
from npukit.calibration.npz import NpzReader
from npukit.calibration.raw import read_raw
from npukit.errors import DataError, UsageError, did_you_mean, one_line
from npukit.graph import Array, Graph, Tensor

Feeds: TypeAlias = dict[str, Array]


class Batches:
    """Samples to run, checked against the graph's inputs one by one; iterable as often as its source is.

    Each item is {input name: array} with the model's dtypes and ranks. Raises DataError, naming the sample, when one does not fit.
    """

    def __init__(self, graph: Graph, make: Callable[[], Iterable[Any]], count: int | None, limit: int | None) -> None:
        self._graph, self._make, self._count, self._limit = graph, make, count, limit

    def __iter__(self) -> Iterator[Feeds]:
        seen = 0
        for index, item in enumerate(self._make()):
            for feeds in self._split(_fit(self._graph, item, index), index):
                if self._limit is not None and seen >= self._limit:
                    return
                seen += 1
                yield feeds
        if not seen:
            raise DataError("the data set is empty", hint="at least one sample is needed")

    def _split(self, feeds: Feeds, index: int) -> Iterator[Feeds]:
        """One sample as it is, or several when the model's batch is fixed and the sample holds a multiple of it."""
        size = self._fixed_batch(feeds)
        for part in [feeds] if size is None else _slices(feeds, size):
            try:
                check_feeds(self._graph, part)
            except DataError as error:
                raise DataError(f"sample {index}: {error.message}", hint=error.hint) from None
            yield part

    def _fixed_batch(self, feeds: Feeds) -> int | None:
        sizes = set()
        for name, value in feeds.items():
            shape = self._graph.tensor(name).shape if name in self._graph.inputs else None
            if not shape or value.ndim != len(shape) or not isinstance(shape[0], int) or not shape[0] or value.shape[0] % shape[0]:
                return None
            sizes.add((shape[0], value.shape[0]))
        if len(sizes) != 1:
            return None
        size, found = sizes.pop()
        return None if size == found else size


def open_data(source: Any, graph: Graph, *, limit: int | None = None) -> Batches:
    """Data for a graph.

    ``source``: an iterable of {name: array}, of arrays, or of tuples in input order (a DataLoader with labels behind the inputs
    too); one {name: array} whose arrays are stacked samples; a folder of .npy, .npz or .raw files; an .npz or .npy file; a QAIRT
    input list (.txt). ``limit`` keeps the first samples. Raises UsageError when there is no such file, DataError when it does not
    fit the graph.
    """
    if isinstance(source, Batches):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _open_path(Path(source), graph, limit)
    if isinstance(source, Mapping):
        return _stacked(graph, {str(k): _array(v) for k, v in source.items()}, limit)
    if not isinstance(source, Iterable):
        raise UsageError(f"data is a path or an iterable of samples, not {type(source).__name__}")
    count = len(source) if isinstance(source, Sized) else None
    if iter(source) is source:
        return _batches(graph, _once(source), count, limit)
    return _batches(graph, lambda: source, count, limit)


def _batches(graph: Graph, make: Callable[[], Iterable[Any]], count: int | None, limit: int | None) -> Batches:
    if count is None:
        return Batches(graph, make, None, limit)
    return _SizedBatches(graph, make, count, limit)


class _SizedBatches(Batches):
    """Batches whose number of samples is known before reading them."""

    def __len__(self) -> int:
        count = self._count or 0
        return count if self._limit is None else min(count, self._limit)


def _once(iterator: Iterator[Any]) -> Callable[[], Iterable[Any]]:
    """The items of an iterator, for one pass; a second one is an error, not an empty data set."""
    used = False

    def make() -> Iterable[Any]:
        nonlocal used
        if used:
            raise DataError("the data is an iterator that has been used up", hint="give a list, or an object that iterates anew")
        used = True
        return iterator

    return make


def _array(value: Any) -> Array:
    """A numpy array from an array, number list or tensor (anything with detach() and numpy())."""
    for step in ("detach", "cpu", "numpy"):
        if hasattr(value, step) and not isinstance(value, np.ndarray):
            value = getattr(value, step)()
    found = np.asarray(value)
    if found.dtype == object:
        raise DataError("the data holds Python objects, not numbers")
    return found


def _fit(graph: Graph, item: Any, index: int) -> Feeds:
    """A sample as feeds: named, in the model's rank, with float64 narrowed to float32."""
    if isinstance(item, Mapping):
        named = {str(k): _array(v) for k, v in item.items()}
    else:
        parts = list(item) if isinstance(item, (tuple, list)) else [item]
        if len(parts) < len(graph.inputs):
            raise DataError(
                f"sample {index} has {len(parts)} arrays, the model takes {len(graph.inputs)}: {', '.join(graph.inputs)}"
            )
        named = {name: _array(part) for name, part in zip(graph.inputs, parts, strict=False)}
    return {name: _adapt(value, graph.tensors.get(name)) for name, value in named.items()}


def _adapt(value: Array, tensor: Tensor | None) -> Array:
    if tensor is None:
        return value
    if value.dtype == np.float64 and tensor.dtype == "float32":
        value = value.astype(np.float32)
    if tensor.shape is not None and value.ndim == len(tensor.shape) - 1:
        value = value[None]
    return value


def _slices(feeds: Feeds, size: int) -> Iterator[Feeds]:
    count = len(next(iter(feeds.values())))
    for start in range(0, count, size):
        yield {name: value[start : start + size] for name, value in feeds.items()}


def _stacked(graph: Graph, arrays: Feeds, limit: int | None) -> Batches:
    """Samples along the first axis of arrays, one per input (labels and other arrays that are no input are left out)."""
    if not any(name in arrays for name in graph.inputs):
        if len(arrays) == 1 and len(graph.inputs) == 1:
            arrays = {graph.inputs[0]: next(iter(arrays.values()))}
        else:
            hint = did_you_mean(next(iter(arrays), ""), graph.inputs)
            raise DataError(f"no array is named like an input; found {', '.join(sorted(arrays)) or 'none'}", hint=hint)
    missing = [name for name in graph.inputs if name not in arrays]
    if missing:
        raise DataError(f"input '{missing[0]}' is missing", hint=f"found {', '.join(sorted(arrays))}")
    used = {name: arrays[name] for name in graph.inputs}
    counts = {name: len(value) if value.ndim else 0 for name, value in used.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"the arrays hold different numbers of samples: {counts}")
    count = next(iter(counts.values()))
    sizes = {name: _sample_rank(graph.tensor(name), value) for name, value in used.items()}

    def make() -> Iterator[Feeds]:
        for i in range(count):
            yield {name: value[i : i + 1] if sizes[name] else value[i] for name, value in used.items()}

    return _batches(graph, make, count, limit)


def _sample_rank(tensor: Tensor, stacked: Array) -> bool:
    """Whether the first axis of a stack is the model's own batch axis (equal ranks), not one in front of it."""
    return tensor.shape is None or stacked.ndim <= len(tensor.shape)


# ------------------------------------------------------------------------------------------------------------------ files


def _open_path(path: Path, graph: Graph, limit: int | None) -> Batches:
    if path.is_dir():
        return _open_folder(path, graph, limit)
    if not path.exists():
        raise UsageError(f"data '{path}' does not exist")
    if path.suffix in (".npz", ".npy"):
        return _stacked(graph, _load_arrays(path, graph), limit)
    if path.suffix == ".txt":
        samples = read_input_list(path, graph)
        return _batches(graph, lambda: samples, len(samples), limit)
    raise UsageError(f"data '{path}' is not a folder, .npz, .npy or input list (.txt)")


def _open_folder(folder: Path, graph: Graph, limit: int | None) -> Batches:
    """Sorted files, one sample each; or one subfolder per input with files of the same number."""
    subfolders = [folder / name for name in graph.inputs if (folder / name).is_dir()]
    if subfolders:
        if len(subfolders) < len(graph.inputs):
            raise DataError(f"folder '{folder}' lacks a subfolder for every input: {', '.join(graph.inputs)}")
        columns = [_data_files(sub) for sub in subfolders]
        if len({len(c) for c in columns}) > 1:
            raise DataError(f"the subfolders of '{folder}' hold different numbers of files")
        rows = list(zip(*columns, strict=True))
        return _batches(graph, lambda: (_read_files(row, graph) for row in rows), len(rows), limit)
    files = _data_files(folder)
    if not files:
        raise DataError(f"folder '{folder}' has no .npy, .npz or .raw files: the data set is empty")
    return _batches(graph, lambda: (_read_sample(file, graph) for file in files), len(files), limit)


def _data_files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix in (".npy", ".npz", ".raw", ".bin"))


def _read_files(row: Sequence[Path], graph: Graph) -> Feeds:
    return {name: _read_one(file, graph.tensor(name)) for name, file in zip(graph.inputs, row, strict=True)}


def _read_sample(file: Path, graph: Graph) -> Feeds:
    if file.suffix == ".npz":
        arrays = _load_arrays(file, graph)
        if len(arrays) == 1 and len(graph.inputs) == 1:
            return {graph.inputs[0]: next(iter(arrays.values()))}
        return {name: arrays[name] for name in arrays if name in graph.inputs} or arrays
    if len(graph.inputs) > 1:
        raise DataError(f"file '{file}' holds one array, the model takes {len(graph.inputs)}", hint="use .npz files or subfolders")
    return {graph.inputs[0]: _read_one(file, graph.tensor(graph.inputs[0]))}


def _read_one(file: Path, tensor: Tensor) -> Array:
    if file.suffix == ".npy":
        return next(iter(_load_arrays(file, None).values()))
    found = read_raw(file, tensor)
    missing = (tensor.static_shape or (1,))[0] - len(found) if found.ndim else 0
    return np.concatenate([found, np.zeros((missing, *found.shape[1:]), found.dtype)]) if missing > 0 else found


def _load_arrays(path: Path, graph: Graph | None) -> Feeds:
    """The arrays of an .npy or .npz file; of an .npz only those that are inputs, when there are any."""
    try:
        if path.suffix == ".npy":
            return {"": np.lib.format.open_memmap(path, mode="r")}
        with open(path, "rb") as file, NpzReader(file, path.stat().st_size) as archive:
            names = [n for n in archive.names if graph is not None and n in graph.inputs] or archive.names
            return {name: archive[name] for name in names}
    except Exception as error:  # numpy, zipfile and zlib raise many types for damaged files
        raise DataError(f"cannot read '{path}': {one_line(error)}") from None
