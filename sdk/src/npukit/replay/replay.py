"""Samples on their way through a graph: what is needed again is kept, and only what follows from a change is run again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType

import attrs

from npukit.backend.ort import OrtModel
from npukit.encoding import Array, Encoding, fake_quantize
from npukit.encoding.formats import insert_qdq
from npukit.graph import Graph, remove_dead_nodes
from npukit.replay.cutting import Piece, downstream
from npukit.replay.store import Rows, Store

_NONE: Mapping[str, Encoding] = {}


@attrs.frozen(eq=False)
class Step:
    """A piece and its model, ready to run; whoever loaded it closes the model."""

    piece: Piece
    model: OrtModel

    @classmethod
    def load(cls, graph: Graph, piece: Piece, encodings: Mapping[str, Encoding] = _NONE, *, threads: int = 0) -> Step:
        """A piece of ``graph``, its tensors quantized where ``encodings`` name them. ``threads``: those of OrtModel.

        Raises what OrtModel raises.
        """
        # Not subgraph(): it would follow a node in front back to the inputs when the piece reads only some of its outputs.
        part = remove_dead_nodes(graph.evolve(nodes=piece.nodes, inputs=piece.inputs, outputs=piece.outputs))
        grids = {n: e for n, e in encodings.items() if n in part.tensors}
        lowered = insert_qdq(part, grids) if grids else part
        return cls(piece, OrtModel(lowered, piece.outputs, threads=threads, fuse_qdq=False))


class Replay:
    """Values of tensors of ``graph`` for a number of samples, in the memory of one Store; a context manager.

    ``graph`` may be exchanged for one with other values of its constants: what is loaded later computes with them. Any number of
    threads may read and run at a time.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._store = Store()
        self._count = 0

    def __len__(self) -> int:
        """The number of samples."""
        return self._count

    def keep(self, values: Mapping[str, Array]) -> None:
        """Add a sample by the values of some tensors, those of the graph inputs say: arrays of any shape and dtype, by name."""
        self._append(values)
        self._count += 1

    def _append(self, values: Mapping[str, Array]) -> None:
        for name, array in values.items():
            self._store.append(name, array)

    def clear(self) -> None:
        """Forget all samples."""
        self._store.clear()
        self._count = 0

    def drop(self, names: Iterable[str]) -> None:
        """Forget tensors; those that are not kept are passed over."""
        for name in names:
            self._store.drop(name)

    def read(self, name: str) -> Iterator[Array]:
        """A kept tensor, sample after sample. Raises KeyError when it is not kept."""
        return self._store.read(name)

    def rows(self, names: Iterable[str]) -> Rows:
        """Kept tensors of sample after sample. Raises KeyError when one is not kept."""
        return self._store.rows(names, self._count)

    def run(self, steps: Sequence[Step], quantized: Mapping[str, Encoding] = _NONE) -> Iterator[dict[str, Array]]:
        """What the steps make, one after the other, of every sample: their outputs and the tensors of ``quantized``, by name.

        A step reads what was made before it, else what is kept; kept tensors of ``quantized`` are rounded first. Raises KeyError
        for a tensor that is neither, ModelError when ONNX Runtime fails.
        """
        made, needed = set[str](), dict.fromkeys(quantized)
        for step in steps:
            needed |= dict.fromkeys(n for n in step.piece.inputs if n not in made)
            made.update(step.piece.outputs)
        for kept in self.rows(needed):
            values = {n: fake_quantize(kept[n], e).astype(kept[n].dtype) for n, e in quantized.items()}
            for step in steps:
                values |= step.model.run({n: values[n] if n in values else kept[n] for n in step.piece.inputs})
            yield values

    def extend(self, step: Step) -> None:
        """Keep the outputs of a step too. Raises what ``run`` raises."""
        for values in self.run([step]):
            self._append(values)

    def prepare(self, changes: Iterable[Iterable[str]]) -> None:
        """Run the graph in float on the inputs that are kept, and keep its outputs and what ``after`` reads for each group of
        tensors in ``changes``."""
        needed = dict.fromkeys(self.graph.outputs)
        for tensors in changes:
            needed |= dict.fromkeys(self._behind(tensors).inputs)
        step = Step.load(self.graph, self._whole([n for n in needed if n not in self.graph.inputs]), threads=1)
        with step.model:
            self.extend(step)

    def after(self, encodings: Mapping[str, Encoding]) -> Iterator[dict[str, Array]]:
        """The graph outputs of every sample when the tensors of ``encodings`` are quantized and nothing else is, by name.

        Only what follows from these tensors runs, in one thread, so that independent changes can run side by side. ``prepare`` must
        have been told of these tensors: KeyError otherwise.
        """
        piece = self._behind(encodings)
        same = [n for n in self.graph.outputs if n not in piece.outputs]
        step = Step.load(self.graph, piece, encodings, threads=1)
        with step.model:
            for kept, values in zip(self.rows(same), self.run([step]), strict=True):
                found = kept | values
                yield {n: found[n] for n in self.graph.outputs}

    def outputs(self, encodings: Mapping[str, Encoding]) -> Iterator[dict[str, Array]]:
        """The graph outputs of every sample, by name, with all encodings that are for tensors of the graph."""
        step = Step.load(self.graph, self._whole(self.graph.outputs), encodings)
        with step.model:
            yield from self.run([step])

    def _whole(self, outputs: Iterable[str]) -> Piece:
        return Piece(self.graph.nodes, self.graph.inputs, tuple(outputs))

    def _behind(self, tensors: Iterable[str]) -> Piece:
        """What follows from the tensors, up to the graph outputs."""
        nodes = downstream(self.graph, tensors)
        made = {n for node in nodes for n in node.outputs}
        return Piece.of(self.graph, nodes, (n for n in self.graph.outputs if n in made))

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.clear()
