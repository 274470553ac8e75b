"""Whether products of uint8 and int8 are exact in ONNX Runtime on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from npukit.backend.ort import OrtModel
from npukit.encoding import Array
from npukit.graph import Graph, Node, make_graph

_DEPTH = 64


@lru_cache(maxsize=1)
def products_saturate() -> bool:
    """Whether a sum of products of uint8 and int8 may saturate in 16 bits, as it does on x86 processors without VNNI instructions.

    Asked once per process: the largest products are summed by every operator that lowerings write, dense, depthwise and of
    matrices, with few rows and many, since each has code of its own in ONNX Runtime.
    """
    for graph, x, expected in _trials():
        with OrtModel(graph, fuse_qdq=False) as model:
            if not np.all(model.run({"x": x})["y"] == expected):
                return True
    return False


def _trials() -> Iterator[tuple[Graph, Array, int]]:
    """Graphs whose outputs are all ``expected`` when nothing saturates, and their input; both halves of a pair at their largest."""
    for shape, group in (((1, _DEPTH, 8, 8), 1), ((1, _DEPTH, 8, 8), _DEPTH)):
        for size in (1, 3):
            terms = _DEPTH // group * size * size
            weight = np.full((_DEPTH, _DEPTH // group, size, size), 127, np.int8)
            yield _graph("QLinearConv", shape, weight, terms, {"group": group}), np.full(shape, 255, np.uint8), 100
    matrix = np.full((_DEPTH, 32), 127, np.int8)
    for rows in (1, 2, 64):
        for op in ("QLinearMatMul", "QGemm"):
            yield _graph(op, (rows, _DEPTH), matrix, _DEPTH, {}), np.full((rows, _DEPTH), 255, np.uint8), 100
        yield _to_float(rows, matrix), np.full((rows, _DEPTH), 255, np.uint8), _DEPTH * 255 * 127


def _to_float(rows: int, matrix: Array) -> Graph:
    """The sums of the largest products as they are."""
    constants = {"one": np.asarray(np.float32(1)), "w": matrix}
    node = Node("MatMulIntegerToFloat", "n", ("x", "w", "one", "one"), ("y",), {}, "com.microsoft")
    return make_graph([node], {"x": ("uint8", (rows, _DEPTH))}, ["y"], constants)


def _graph(op: str, shape: tuple[int, ...], weight: Array, terms: int, attributes: dict[str, Any]) -> Graph:
    """One operator that gives 100 for ``terms`` of the largest products."""
    one, zero, bias = np.float32(1), np.uint8(0), op == "QGemm"
    constants = {"one": one, "zero": zero, "w": weight, "w_scale": np.float32(100 / (terms * 255 * 127)), "w_zero": np.int8(0)}
    inputs = ("x", "one", "zero", "w", "w_scale", "w_zero", *([""] if bias else []), "one", "zero")
    node = Node(op, "n", inputs, ("y",), attributes, "com.microsoft" if bias else "")
    return make_graph([node], {"x": ("uint8", shape)}, ["y"], {n: np.asarray(v) for n, v in constants.items()})
