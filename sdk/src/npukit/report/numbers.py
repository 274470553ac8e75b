"""How numbers are written for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

_UNITS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def count(value: int | None) -> str:
    """A count in short form: 999, 1.2k, 8M, 3.4G; "?" when unknown. Three significant digits at most."""
    if value is None:
        return "?"
    for unit, letter in _UNITS:
        # 999_500 and above would be written as 1000k: the next unit takes it.
        if abs(value) >= unit * (0.9995 if unit > 1000 else 1):
            return f"{_three_digits(value / unit)}{letter}"
    return str(value)


def _three_digits(value: float) -> str:
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def size(value: int | None) -> str:
    """A number of bytes with a decimal unit: "12.3 MB"; "?" when unknown."""
    if value is None:
        return "?"
    text = count(value)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


def decibels(value: float) -> str:
    """A ratio in dB, one decimal: "41.3 dB", "inf dB", "nan dB"."""
    return f"{value:.1f} dB"


def percent(fraction: float, decimals: int = 2) -> str:
    """A fraction as per cent: 0.1234 -> "12.34%"."""
    return f"{fraction * 100:.{decimals}f}%"


def number(value: float | int | None) -> str:
    """A plain number: integers in full, others with 6 significant digits; "-" when there is none."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.6g}" if math.isfinite(value) else str(value)


def shape(dims: Sequence[object] | None) -> str:
    """A shape as "[1,3,224,224]", with "?" for what is unknown."""
    return "?" if dims is None else "[" + ",".join("?" if d is None else str(d) for d in dims) + "]"
