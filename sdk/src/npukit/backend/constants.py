"""The constants of a program of a KernelBackend: kept as they are stored, or made when a node needs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs
import numpy as np

from npukit.backend.ort import LARGE_MODEL, constant_bytes
from npukit.backend.value import Value, value_of
from npukit.encoding import Encoding, codes_of, part_of
from npukit.graph import Graph, Node, Tensor

# Constants of fewer values are kept whatever the size of the model.
_SMALL = 1 << 18
# With so many weights of a large product the kernel computes at a time.
_PART = 1 << 22


class Constants(Mapping[str, Value]):
    """Name -> the constant in its stored form.

    When all constants together take more than LARGE_MODEL bytes as arrays, the large ones are ``deferred``: they are made anew each
    time they are asked for, so that memory holds those of one node. Nothing here changes after it is made; threads may share it.
    """

    def __init__(self, graph: Graph, encodings: Mapping[str, Encoding]) -> None:
        self._tensors = {name: tensor for name, tensor in graph.tensors.items() if tensor.is_constant}
        self._encodings = encodings
        large = constant_bytes(graph) > LARGE_MODEL
        self.deferred = frozenset(name for name, tensor in self._tensors.items() if large and tensor.size > _SMALL)
        self.kept: Mapping[str, Value] = {name: self._made(name) for name in self._tensors if name not in self.deferred}

    def __getitem__(self, name: str) -> Value:
        return self._made(name) if name in self.deferred else self.kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def _made(self, name: str) -> Value:
        return constant_value(self._tensors[name], self._encodings.get(name))


def constant_value(tensor: Tensor, encoding: Encoding | None) -> Value:
    """A constant as ``encoding`` stores it; codes that it has already are taken as they are."""
    if encoding is not None and not encoding.is_float:
        return Value(codes_of(tensor, encoding), encoding, is_constant=True)
    data = tensor.data
    assert data is not None  # the caller has a constant
    return attrs.evolve(value_of(data, encoding), is_constant=True)


def parts_of(node: Node, inputs: Sequence[Value | None], wanted: Encoding | None) -> Iterator[Sequence[Value | None]]:
    """The inputs of a product of matrices for some output channels at a time; of any other node once, as they are.

    Only sums of integers are split: they are exact, so each channel has the same result alone as among others.
    """
    axis = _channel_axis(node, inputs, wanted)
    weight = inputs[1] if axis is not None else None
    if axis is None or weight is None:
        yield inputs
        return
    channels = weight.data.shape[axis]
    step = max(1, _PART * channels // weight.data.size)
    for start in range(0, channels, step):
        part = slice(start, min(start + step, channels))
        bias = [v if v is None or v.data.shape != (channels,) else _part(v, 0, part) for v in inputs[2:]]
        yield (inputs[0], _part(weight, axis, part), *bias)


def joined(parts: Sequence[Value]) -> Value:
    """The values of some output channels each, as one."""
    return attrs.evolve(parts[0], data=np.concatenate([part.data for part in parts], axis=-1))


def _channel_axis(node: Node, inputs: Sequence[Value | None], wanted: Encoding | None) -> int | None:
    """The axis of the weight's output channels when a node is an integer product of an activation and a large matrix, else None."""
    if node.domain or node.op not in ("MatMul", "Gemm") or (wanted is not None and wanted.axis is not None):
        return None
    x, w, bias = (*inputs, None)[:3]
    if x is None or w is None or w.data.ndim != 2 or w.data.size <= _PART or (bias is not None and bias.data.ndim > 1):
        return None
    if (node.get("alpha", 1.0), node.get("beta", 1.0)) != (1.0, 1.0):
        return None
    axis = 0 if node.op == "Gemm" and node.get("transB", 0) else 1
    return axis if _is_integer(x.encoding, None) and _is_integer(w.encoding, axis) else None


def _is_integer(encoding: Encoding | None, channel_axis: int | None) -> bool:
    """Whether a matrix is integers times one scale, or with ``channel_axis`` one scale per channel."""
    if encoding is None or encoding.is_float or encoding.bits > 16:
        return False
    on_channels = encoding.axis is not None and encoding.axis % 2 == channel_axis
    return {"tensor": True, "channel": on_channels, "lpbq": channel_axis is not None and not on_channels}.get(
        encoding.granularity, False
    )


def _part(value: Value, axis: int, part: slice) -> Value:
    """Some channels of a constant."""
    data = value.data[(slice(None),) * axis + (part,)]
    encoding = None if value.encoding is None else part_of(value.encoding, value.data.shape, part, axis)
    return Value(data, encoding)
