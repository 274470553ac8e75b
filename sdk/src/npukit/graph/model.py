"""Tensor, Node and Graph: the frozen form of a model that every stage reads and returns."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, TypeAlias

import attrs
import numpy.typing as npt

from npukit.errors import ModelError

Array: TypeAlias = npt.NDArray[Any]
Dim: TypeAlias = int | str | None
Shape: TypeAlias = tuple[Dim, ...]

FLOAT_DTYPES = frozenset({"float32", "float16", "bfloat16", "float64"})
# A large constant is read and written in pieces of about so many values.
PIECE = 1 << 20


class Stored(abc.ABC):
    """The values of a constant in another form than an array; they are made when somebody asks for them, and kept by nobody."""

    @abc.abstractmethod
    def values(self) -> Array:
        """All values, in the dtype and the shape of the tensor."""

    @abc.abstractmethod
    def pieces(self) -> Iterator[Array]:
        """The values in C order, some rows of the first axis at a time."""


@attrs.frozen(eq=False)
class Tensor:
    """A named value.

    ``dtype`` is the ONNX type in lower case ("float32", "int64", "bool", "int4"), or "" when unknown. ``shape`` is None when
    even the rank is unknown; a dimension is an int, a symbol, or None. ``stored`` (given as ``data``) is set for constants and
    only for them: an array, which may be a read-only memory map, or another form that takes less room.
    """

    name: str
    dtype: str = ""
    shape: Shape | None = None
    stored: Array | Stored | None = attrs.field(default=None, alias="data")

    @property
    def data(self) -> Array | None:
        """The values of a constant, else None; those that are stored in another form are made anew each time."""
        return self.stored.values() if isinstance(self.stored, Stored) else self.stored

    @property
    def is_constant(self) -> bool:
        return self.stored is not None

    @property
    def size(self) -> int:
        """How many values the tensor has, 0 when its shape is not known. Nothing is read for it."""
        return 0 if self.static_shape is None else math.prod(self.static_shape)

    def pieces(self) -> Iterator[Array]:
        """The values of a constant in C order, some rows of the first axis at a time; nothing when it is no constant."""
        if isinstance(self.stored, Stored):
            yield from self.stored.pieces()
        elif self.stored is not None:
            yield from (self.stored[rows] for rows in row_ranges(self.stored.shape))

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOAT_DTYPES

    @property
    def static_shape(self) -> tuple[int, ...] | None:
        """The shape when every dimension is a known int, else None."""
        if self.shape is None:
            return None
        dims = [d for d in self.shape if isinstance(d, int)]
        return tuple(dims) if len(dims) == len(self.shape) else None

    @staticmethod
    def constant(name: str, data: Array) -> Tensor:
        return Tensor(name, str(data.dtype), tuple(data.shape), data)


def row_ranges(shape: tuple[int, ...], multiple: int = 1) -> Iterator[slice | tuple[()]]:
    """Indices that cut an array of ``shape`` into pieces of about PIECE values: rows, in all but the last a ``multiple`` of them.

    A small array is one piece, whose index is ().
    """
    if math.prod(shape) <= PIECE:
        yield ()
        return
    wanted = PIECE // max(1, math.prod(shape[1:]))
    step = max(1, wanted // multiple) * multiple
    yield from (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


@attrs.frozen(eq=False)
class Node:
    """One operation. ``inputs`` holds tensor names, "" for an optional input that is absent.

    ``attributes`` values are int, float, str, bytes, numpy arrays, or tuples of these; a subgraph is a Graph.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = attrs.field(factory=dict)
    domain: str = ""

    @property
    def key(self) -> str:
        """The op with its domain in front, "com.microsoft.QuickGelu", or alone in the default domain."""
        return f"{self.domain}.{self.op}" if self.domain else self.op

    def get(self, attribute: str, default: Any = None) -> Any:
        return self.attributes.get(attribute, default)

    def input(self, index: int) -> str:
        """The name of input ``index``, "" when it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""


@attrs.frozen(eq=False)
class Graph:
    """A model: nodes in topological order and every tensor by name.

    ``opset`` is the version of the default ONNX domain that the nodes follow; ``domains`` the versions of the others.
    ``origin_names`` maps a tensor or node name that a pass made or renamed to the names in the source file that it stands for.
    """

    name: str
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    domains: Mapping[str, int] = attrs.field(factory=dict)
    origin_names: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """Tensor name -> the node that makes it."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """Tensor name -> the nodes that read it, each once, in order; a tensor that nobody reads is missing."""
        readers: dict[str, dict[int, Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                if name:
                    readers.setdefault(name, {})[id(node)] = node
        return {name: tuple(found.values()) for name, found in readers.items()}

    def tensor(self, name: str) -> Tensor:
        try:
            return self.tensors[name]
        except KeyError:
            raise ModelError(f"tensor '{name}' is not in graph '{self.name}'") from None

    def constant(self, name: str) -> Array | None:
        """The data of a constant tensor, or None when ``name`` is absent ("") or not constant."""
        return self.tensors[name].data if name else None

    def is_constant(self, name: str) -> bool:
        """Whether ``name`` is there (not "") and constant; its values are not read."""
        return bool(name) and self.tensors[name].is_constant

    def evolve(self, **changes: Any) -> Graph:
        """A copy with some fields replaced."""
        return attrs.evolve(self, **changes)

    def with_tensors(self, tensors: Iterable[Tensor]) -> Graph:
        """A copy in which the given tensors are added or replaced."""
        return self.evolve(tensors={**self.tensors, **{t.name: t for t in tensors}})

    def origins(self, node: Node) -> tuple[str, ...]:
        """The nodes of the source that a node was put together from; empty for a node of the source."""
        names = self.origin_names.get(node.name, ())
        return names if len(names) > 1 else ()

    @cached_property
    def index_tensors(self) -> frozenset[str]:
        """The float tensors that only feed shapes, indices or bounds; they are never quantized."""
        from npukit.graph.indices import index_tensors

        return index_tensors(self)

    @cached_property
    def before_softmax(self) -> frozenset[str]:
        """The float tensors in which very small values, -inf among them, only say what a Softmax leaves out."""
        from npukit.graph.masks import before_softmax

        return before_softmax(self)

    def float_activations(self) -> tuple[str, ...]:
        """Names of the non-constant float tensors that hold data, graph inputs first, then in node order."""
        names = [*self.inputs, *(n for node in self.nodes for n in node.outputs if n)]
        return tuple(n for n in names if self.tensor(n).is_float and n not in self.index_tensors)
