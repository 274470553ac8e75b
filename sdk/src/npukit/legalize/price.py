"""What a change of one encoding costs, and the encodings that a group of tied tensors might take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from npukit.backend import Port, Scheme, port_axis
from npukit.encoding import FLOAT_BITS, INT_BITS, Encoding
from npukit.graph import Tensor

ORIGIN = "optimizer:legalize"


_NARROW = tuple(dtype for dtype, bits in INT_BITS.items() if bits <= 16)


# In order of weight: nodes left illegal, new warnings, tensors changed, overrides among them, bits of width lost, signs,
# symmetries and granularities changed, and range and resolution lost.
Cost = tuple[float, ...]


FREE: Cost = (0, 0, 0, 0, 0, 0, 0.0)


def add_up(costs: Iterable[Cost]) -> Cost:
    return tuple(sum(parts) for parts in zip(FREE, *costs, strict=True))


def same(a: Encoding | None, b: Encoding | None) -> bool:
    return a is b or (a is not None and b is not None and a.same_grid(b))


def kept(tensor: Tensor, before: Encoding | None) -> int:
    """What it counts to lose an override."""
    return 0 if before is None or before.origin != "override" else 1 if tensor.is_constant else 2


def price(tensor: Tensor, before: Encoding | None, after: Encoding | None) -> Cost | None:
    """What it costs to give a tensor another encoding; None when that cannot be."""
    if same(before, after):
        return FREE
    if not tensor.is_constant and is_grid(before) and not is_grid(after):
        return None
    narrower = shape = 0
    if before is not None and after is not None:
        narrower = max(0, before.bits - after.bits)
        shape = sum(x != y for x, y in zip(_shape(before), _shape(after), strict=True))
        shape += before.granularity != after.granularity  # scales per channel are worth more than sign or symmetry
    return (0, 0, 1, kept(tensor, before), narrower, shape, _loss(tensor, before, after))


def is_grid(encoding: Encoding | None) -> bool:
    return encoding is not None and not encoding.is_float


def _shape(encoding: Encoding) -> tuple[bool, bool, str]:
    """Sign, symmetry and granularity."""
    if encoding.is_float:
        return True, True, encoding.granularity
    middle = 0 if encoding.signed else 1 << (encoding.bits - 1)
    return encoding.signed, bool(np.all(encoding.zeros == middle)), encoding.granularity


def _loss(tensor: Tensor, before: Encoding | None, after: Encoding | None) -> float:
    """Bits of resolution lost, and 16 for a range that is lost altogether."""
    if after is None or after.is_float:
        return 0.0
    fine = float(np.log2(after.steps).mean())
    if before is None or before.is_float:  # a constant: beside a grid of 16 bits
        return fine - _log2_range(tensor) + 16
    lost = max(0.0, fine - float(np.log2(before.steps).mean()))
    if tensor.is_constant:
        return lost
    low, high = float(before.min.min()), float(before.max.max())
    covered = max(0.0, min(high, float(after.max.max())) - max(low, float(after.min.min())))
    return lost + 16 * (1 - covered / (high - low))


def _log2_range(tensor: Tensor) -> float:
    data = tensor.data
    whole = 0.0 if data is None else float(data.max(initial=0) - data.min(initial=0))
    return float(np.log2(whole or 1.0))


def candidates(
    scheme: Scheme, tensors: list[Tensor], before: list[Encoding | None], ports: list[Port]
) -> Iterator[Encoding | None]:
    """The encodings that a group of tied tensors might take; whether the ports accept them is for the rules to say."""
    yield from before
    limits = [port.dtypes for port in ports if port.dtypes]
    dtypes = [d for d in (*_NARROW, *FLOAT_BITS) if all(d in allowed for allowed in limits)]
    for dtype in dtypes:
        if dtype in FLOAT_BITS:
            yield None if dtype == tensors[0].dtype else Encoding(dtype, origin=ORIGIN)
            continue
        for port in ports:
            if dtype in port.fixed:
                yield Encoding(dtype, *port.fixed[dtype], origin="fixed")
        for tensor, encoding in zip(tensors, before, strict=True):
            if tensor.is_constant:
                yield from _weight_grids(scheme, tensor, encoding, dtype, ports)
            elif encoding is not None and not encoding.is_float and encoding.granularity == "tensor":
                for symmetric in (False, True):
                    yield scheme.activation(float(encoding.min), float(encoding.max), dtype, symmetric=symmetric, origin=ORIGIN)


def _weight_grids(scheme: Scheme, tensor: Tensor, before: Encoding | None, dtype: str, ports: list[Port]) -> Iterator[Encoding]:
    data = tensor.data
    assert data is not None  # the caller has looked
    axes = {port_axis(port, data.ndim) for port in ports if "channel" in port.granularity}
    if None in axes:  # any axis will do
        axes.add(None if before is None else before.axis)
    for symmetric in (False, True):
        yield scheme.weight(data, dtype, symmetric=symmetric, origin=ORIGIN)
        for axis in axes - {None}:
            yield scheme.weight(data, dtype, granularity="channel", axis=axis, symmetric=symmetric, origin=ORIGIN)
