"""Value: a tensor during a run."""

from __future__ import annotations

import attrs

from npukit.encoding import Array, Encoding, dequantize, fake_quantize, quantize


@attrs.frozen(eq=False)
class Value:
    """A tensor during a run: integer codes when ``encoding`` is a grid, else the values themselves."""

    data: Array
    encoding: Encoding | None = None
    is_constant: bool = False

    @property
    def is_codes(self) -> bool:
        return self.encoding is not None and not self.encoding.is_float

    def real(self) -> Array:
        """The real values, float32; non-float tensors (indices, masks) as they are."""
        if self.encoding is None or self.encoding.is_float:
            return self.data
        return dequantize(self.data, self.encoding)


def value_of(data: Array, encoding: Encoding | None) -> Value:
    """Real values as they are stored with ``encoding``."""
    if encoding is None:
        return Value(data)
    if encoding.is_float:
        return Value(fake_quantize(data, encoding), encoding)
    return Value(quantize(data, encoding), encoding)
