"""QAIRT input lists: a line per sample, a raw file per input."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import numpy as np

from npukit.calibration.raw import read_raw
from npukit.errors import DataError, NpukitError, did_you_mean
from npukit.graph import Array, Graph, Tensor


@attrs.frozen
class _Line:
    number: int
    items: tuple[tuple[str, Path], ...]


@attrs.frozen(eq=False)
class InputList:
    """The samples of a list, and the tensors that its lines starting with ``#`` (nodes) and ``%`` (tensors) ask for.

    Iterating reads the files: each item is {input: array}, the arrays in the dtypes of ``tensors``. A file may hold the whole batch
    or one element of it: then as many lines as fit are one item, and zeros fill the last one. ``sizes`` tells how many lines went
    into each item.
    """

    path: Path
    lines: tuple[_Line, ...]
    tensors: Mapping[str, Tensor]
    native: frozenset[str]
    outputs: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sizes())

    def sizes(self) -> list[int]:
        """How many lines each item is made of."""
        batch = self._batch()
        return [min(batch, len(self.lines) - start) for start in range(0, len(self.lines), batch)]

    def __iter__(self) -> Iterator[dict[str, Array]]:
        start = 0
        for size in self.sizes():
            samples = [self._read(line) for line in self.lines[start : start + size]]
            start += size
            yield {name: self._joined(name, [sample[name] for sample in samples]) for name in samples[0]}

    def _batch(self) -> int:
        """How many lines make an item: those of the batch when the files of the first line hold one element each."""
        first = self._read(self.lines[0])
        sizes = {self._size(name) for name, array in first.items() if array.shape[:1] == (1,)}
        return max(sizes) if len(sizes) == 1 and len(first) == sum(a.shape[:1] == (1,) for a in first.values()) else 1

    def _size(self, name: str) -> int:
        shape = self.tensors[name].shape
        return shape[0] if shape and isinstance(shape[0], int) else 1

    def _joined(self, name: str, parts: list[Array]) -> Array:
        found = np.concatenate(parts) if len(parts) > 1 else parts[0]
        missing = self._size(name) - len(found) if found.ndim else 0
        return np.concatenate([found, np.zeros((missing, *found.shape[1:]), found.dtype)]) if missing > 0 else found

    def _read(self, line: _Line) -> dict[str, Array]:
        found = {}
        for name, file in line.items:
            try:
                found[name] = read_raw(file, self.tensors[name], native=name in self.native)
            except NpukitError as error:
                raise DataError(f"{self.path}, line {line.number}: {error.message}", hint=error.hint) from None
        return found


def read_input_list(path: Path, graph: Graph, *, native: Mapping[str, Tensor] | None = None) -> InputList:
    """Read a list: "path path" in the order of the inputs, or "name:=path ..."; there is no quoting and no comment.

    Paths start at the current folder, else at that of the list. ``native`` are the inputs whose files hold their own dtype, as
    they are handed over; all others hold float32. Raises DataError that names the list and the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"input list '{path}' is not UTF-8: {error.reason} at byte {error.start}", hint="save it as UTF-8"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read input list '{path}': {error.strerror}") from None
    lines: list[_Line] = []
    outputs: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if line[:1] in ("#", "%"):
                outputs |= dict.fromkeys(_outputs(line, graph))
            elif line.strip():
                lines.append(_Line(number, tuple(_items(line.split(), graph, path.parent))))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error.message}", hint=error.hint) from None
    if not lines:
        raise DataError(f"input list '{path}' names no files: the data set is empty")
    tensors = {name: graph.tensor(name) for name in graph.inputs} | dict(native or {})
    return InputList(path, tuple(lines), tensors, frozenset(native or {}), tuple(outputs))


def _outputs(line: str, graph: Graph) -> Iterator[str]:
    """The tensors that a line names: behind ``#`` nodes, or tensors as behind ``%``, as exporters call nodes after their output."""
    nodes = {node.name: node for node in graph.nodes} if line[0] == "#" else {}
    for name in line[1:].split():
        if name not in graph.tensors and name not in nodes:
            what = "node" if line[0] == "#" else "tensor"
            raise DataError(f"the model has no {what} '{name}'", hint=did_you_mean(name, nodes or graph.tensors))
        yield from (n for n in nodes[name].outputs if n) if name in nodes else (name,)


def _items(words: list[str], graph: Graph, base: Path) -> Iterator[tuple[str, Path]]:
    pairs = [(word.split(":=", 1)[0], word.split(":=", 1)[1]) if ":=" in word else ("", word) for word in words]
    names = [name or (graph.inputs[i] if i < len(graph.inputs) else "") for i, (name, _) in enumerate(pairs)]
    wanted = f"the model takes {len(graph.inputs)}: {', '.join(graph.inputs)}"
    for name in names:
        if name and name not in graph.inputs:
            raise DataError(f"'{name}' is not an input", hint=did_you_mean(name, graph.inputs))
    if len(pairs) != len(graph.inputs) or len(set(names)) != len(names):
        raise DataError(f"{len(pairs)} files for {len(graph.inputs)} inputs", hint=wanted)
    for name, (_, word) in zip(names, pairs, strict=True):
        # Unlike Path.is_file, this is False as well for what cannot be a name.
        file = next((f for f in (Path(word), base / word) if os.path.isfile(f)), None)
        if file is None:
            raise DataError(f"file '{word}' does not exist", hint="paths start at the current folder, else at that of the list")
        yield name, file
