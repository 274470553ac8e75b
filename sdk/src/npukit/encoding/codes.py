"""Codes of constants: packed, made in pieces, and as the stored form of a tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs
import numpy as np

from npukit.encoding.arithmetic import container, dequantize, quantize
from npukit.encoding.types import Array, Encoding
from npukit.graph import Graph, Stored, Tensor, numpy_type, row_ranges

# As many rows as fill whole bytes whatever their length.
_WHOLE_BYTES = 8


@attrs.frozen(eq=False)
class Codes(Stored):
    """The values of a constant as codes of an integer encoding of 2 to 16 bits.

    ``packed`` is uint8, may be a read-only memory map, and holds the codes in C order, of 2 and 4 bits the first in the lowest bits
    of a byte (3 bits take 4), of 16 bits the low byte first. ``dtype`` is the float type of the values.
    """

    packed: Array
    encoding: Encoding
    shape: tuple[int, ...]
    dtype: str

    def values(self) -> Array:
        """The real values that the codes stand for."""
        found = np.empty(self.shape, numpy_type(self.dtype))
        for rows, codes in self._rows():
            found[rows] = dequantize(codes, _rows_of(self.encoding, self.shape, rows))
        return found

    def pieces(self) -> Iterator[Array]:
        """The real values, some rows at a time."""
        for rows, codes in self._rows():
            yield dequantize(codes, _rows_of(self.encoding, self.shape, rows)).astype(numpy_type(self.dtype), copy=False)

    def codes(self) -> Array:
        """All codes in the container type of the encoding."""
        found = np.empty(self.shape, container(self.encoding))
        for rows, codes in self._rows():
            found[rows] = codes
        return found

    def _rows(self) -> Iterator[tuple[slice | tuple[()], Array]]:
        start = 0
        for rows in _ranges(self.shape, self.encoding):
            shape = _piece_shape(self.shape, rows)
            end = start + packed_size(shape, self.encoding)
            yield rows, _unpack(self.packed[start:end], self.encoding, math.prod(shape)).reshape(shape)
            start = end


def has_original_weights(graph: Graph) -> bool:
    """Whether no constant is stored as codes, so that all values are the floats that were or will be quantized."""
    return not any(isinstance(tensor.stored, Codes) for tensor in graph.tensors.values())


def packs(tensor: Tensor, encoding: Encoding) -> bool:
    """Whether a constant takes less room as codes of ``encoding``, of 16 bits or fewer, than as the floats that it is."""
    if encoding.is_float or encoding.bits > 16 or not tensor.is_float or not tensor.size:
        return False
    return _width(encoding) < 8 * numpy_type(tensor.dtype).itemsize


def packed_size(shape: tuple[int, ...], encoding: Encoding) -> int:
    """The bytes that the codes of a tensor take."""
    return -(-math.prod(shape) * _width(encoding) // 8)


def packed_pieces(tensor: Tensor, encoding: Encoding) -> Iterator[bytes]:
    """The packed codes with which ``encoding`` stores a constant, piece by piece."""
    for _, codes in _codes_of(tensor, encoding):
        yield _pack(codes, encoding)


def codes_of(tensor: Tensor, encoding: Encoding) -> Array:
    """The codes with which an integer encoding stores a constant: those that it has when they are of this grid, else new ones.

    They come in the container type and the shape of the tensor. Besides them, memory holds a piece of the values at a time.
    """
    found = np.empty(tensor.static_shape or (), container(encoding))
    for rows, codes in _codes_of(tensor, encoding):
        found[rows] = codes
    return found


def _codes_of(tensor: Tensor, encoding: Encoding) -> Iterator[tuple[slice | tuple[()], Array]]:
    stored, shape = tensor.stored, tensor.static_shape or ()
    if isinstance(stored, Codes):
        if stored.encoding.same_grid(encoding):
            yield from stored._rows()
            return
        stored = stored.values()
    assert isinstance(stored, np.ndarray)  # the caller has a constant
    for rows in _ranges(shape, encoding):
        yield rows, quantize(stored[rows], _rows_of(encoding, shape, rows))


def part_of(encoding: Encoding, shape: tuple[int, ...], part: slice, axis: int = 0) -> Encoding:
    """The encoding of ``part`` of a tensor of ``shape``, a range along ``axis`` that begins where a block does."""
    if encoding.is_float or encoding.axis is None:
        return encoding
    steps, size = encoding.steps, 1
    if encoding.axis % len(shape) == axis:
        size = encoding.block_size or 1
    elif encoding.block_size is None or steps.shape[axis] == 1:
        return encoding
    # The scales of channels are a vector, those of blocks have the rank of the tensor.
    where = (slice(None),) * (axis if steps.ndim == len(shape) else 0)
    index = (*where, slice(part.start // size, -(-part.stop // size)))
    factors = None if encoding.block_scale is None else encoding.block_scale[index]
    return attrs.evolve(encoding, scale=steps[index], zero_point=encoding.zeros[index], block_scale=factors)


def _rows_of(encoding: Encoding, shape: tuple[int, ...], rows: slice | tuple[()]) -> Encoding:
    return part_of(encoding, shape, rows) if isinstance(rows, slice) else encoding


def _ranges(shape: tuple[int, ...], encoding: Encoding) -> Iterator[slice | tuple[()]]:
    return row_ranges(shape, math.lcm(_WHOLE_BYTES, encoding.block_size or 1))


def _piece_shape(shape: tuple[int, ...], rows: slice | tuple[()]) -> tuple[int, ...]:
    return shape if isinstance(rows, tuple) else (rows.stop - rows.start, *shape[1:])


def _width(encoding: Encoding) -> int:
    """The bits that a packed code takes."""
    return {3: 4}.get(encoding.bits, encoding.bits)


def _pack(codes: Array, encoding: Encoding) -> bytes:
    width = _width(encoding)
    if width >= 8:
        return codes.astype(codes.dtype.newbyteorder("<"), copy=False).tobytes()
    count = 8 // width
    flat = np.zeros(-(-codes.size // count) * count, np.uint8)
    flat[: codes.size] = codes.reshape(-1).view(np.uint8)
    flat &= (1 << encoding.bits) - 1
    columns = flat.reshape(-1, count)
    packed = columns[:, 0].copy()
    for place in range(1, count):
        packed |= columns[:, place] << (place * width)
    return packed.tobytes()


def _unpack(packed: Array, encoding: Encoding, size: int) -> Array:
    """The ``size`` codes in ``packed``, flat. Whatever the bytes are, the codes are on the grid."""
    width, dtype = _width(encoding), container(encoding)
    if width >= 8:
        return np.asarray(packed).view(dtype.newbyteorder("<")).astype(dtype, copy=False)
    columns = np.empty((packed.size, 8 // width), np.uint8)
    for place in range(8 // width):
        np.right_shift(packed, place * width, out=columns[:, place])
    flat = columns.reshape(-1)[:size]
    flat &= (1 << encoding.bits) - 1
    if encoding.signed:  # the highest bit of a code is its sign
        half = 1 << (encoding.bits - 1)
        flat ^= half
        flat -= half
    return flat.view(dtype)
