"""Samples to profile or to run a model with: random ones, and those of an input list."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from npukit.encoding import Array
from npukit.errors import DataError
from npukit.graph import Graph, Tensor, numpy_type

_COUNT = 4


def random_samples(tensors: Mapping[str, Tensor], kind: str = "gaussian", count: int = _COUNT) -> list[dict[str, Array]]:
    """``count`` samples for inputs of fixed shapes, the same ones every time: standard normal floats, or uniform ones in [0, 1).

    Integers are 0 or 1, which are valid indices almost everywhere.
    """
    random = np.random.default_rng(0)

    def values(tensor: Tensor) -> Array:
        dtype, shape = numpy_type(tensor.dtype), tensor.static_shape
        if dtype.kind in "iub":
            return random.integers(0, 2, shape).astype(dtype)
        found: Array = random.uniform(size=shape) if kind == "uniform" else random.standard_normal(shape)
        return found.astype(dtype)

    return [{name: values(tensor) for name, tensor in tensors.items()} for _ in range(count)]


class InputFiles:
    """The samples of an input list: a line per sample, with the raw file of each input in the order of the graph, between commas
    or blanks. Files hold the dtype of the input; a relative path starts at the current folder, else at that of the list."""

    def __init__(self, path: Path, graph: Graph) -> None:
        self._inputs = [graph.tensor(name) for name in graph.inputs]
        self._lines = list(_lines(path, self._inputs))

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for where, files in self._lines:
            yield {t.name: _read(where, file, t) for t, file in zip(self._inputs, files, strict=True)}


def _lines(path: Path, inputs: list[Tensor]) -> Iterator[tuple[str, list[Path]]]:
    """The place of each line and its files. Raises DataError that names them."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read input list '{path}': {error}") from None
    empty = True
    for number, line in enumerate(text.splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        where, empty = f"input list '{path}', line {number}", False
        if len(words) != len(inputs):
            names = ", ".join(t.name for t in inputs)
            raise DataError(f"{where}: {len(words)} files for {len(inputs)} inputs", hint=f"in this order: {names}")
        files = [next((f for f in (Path(word), path.parent / word) if os.path.isfile(f)), None) for word in words]
        for word, file in zip(words, files, strict=True):
            if file is None:
                raise DataError(f"{where}: there is no file '{word}'")
        yield where, [file for file in files if file is not None]
    if empty:
        raise DataError(f"input list '{path}' names no files")


def _read(where: str, file: Path, tensor: Tensor) -> Array:
    """The values of an input; an open dimension is as long as the file says when there is one only."""
    found = np.fromfile(file, numpy_type(tensor.dtype))
    shape = tuple(d if isinstance(d, int) else -1 for d in tensor.shape or ())
    if file.stat().st_size != found.nbytes or shape.count(-1) > 1 or (-1 not in shape and found.size != np.prod(shape)):
        raise DataError(f"{where}: '{file}' has {file.stat().st_size} bytes, '{tensor.name}' is {tensor.dtype} {list(shape)}")
    return found.reshape(shape)
