"""External quantization: encodings that AIMET wrote, in the compiler's int8 form.

AIMET's ``real = scale * (u + offset)`` with u in [0, 255] is ``scale * (q - zero)`` with q = u - 128 and zero = -128 - offset.
Specification: https://quic.github.io/aimet-pages/releases/latest/techniques/encoding_spec.html
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from npukit.encoding import Encoding
from npukit.encoding.formats import read_encodings
from npukit.errors import EncodingError, UsageError, counted
from npukit.graph import Graph
from npukit_aic.yaml_text import read_documents

_SECTIONS = ("activation_encodings", "param_encodings")
_LISTS = "0.6.1"  # of AIMET's versions the one with a list of encodings per name, the only one that is written as YAML too


@attrs.frozen(eq=False)
class External:
    """The encodings of a file by tensor, and what is worth a warning."""

    encodings: Mapping[str, Encoding]
    notes: tuple[str, ...]


def read_external(path: str | os.PathLike[str], graph: Graph) -> External:
    """Read an encodings file of AIMET (JSON of any version, or the lists of version 0.6.1 as YAML) for ``graph``.

    Biases of 32 bits are left out: their scale is that of input times weight. Names that match no tensor are a note. Raises
    UsageError when the file cannot be read, DataError when it is neither JSON nor YAML, and EncodingError when it is no encodings
    file, when min, max, scale and offset of an entry contradict each other, or when no name matches.
    """
    document = _document(Path(path))
    wide: list[str] = []
    if document.get("version", _LISTS) == _LISTS:
        sections = {key: document.get(key) or {} for key in _SECTIONS}
        if not any(sections.values()) or not all(isinstance(section, dict) for section in sections.values()):
            raise EncodingError(f"{path} has no {' and '.join(_SECTIONS)}", hint="give the .encodings file that AIMET exports")
        wide = [name for section in sections.values() for name, entry in section.items() if _bits(entry) == 32]
        kept = {key: {n: _checked(n, e) for n, e in section.items() if n not in wide} for key, section in sections.items()}
        document = {"version": _LISTS, **kept}
    read = read_encodings(json.dumps(document).encode(), graph, lenient=True)
    if not read.encodings and not wide:
        raise EncodingError(f"{path} has no encoding of a tensor of the model, and {len(read.ignored)} others")
    notes = (
        [f"{counted(len(wide), 'bias')} of 32 bits in {path} follow from input and weight: {', '.join(wide[:5])}"] if wide else []
    )
    if read.ignored:
        notes.append(f"{counted(len(read.ignored), 'encoding')} in {path} match no tensor: {', '.join(read.ignored[:5])}")
    return External({name: as_signed(encoding) for name, encoding in read.encodings.items()}, tuple(notes))


def as_signed(encoding: Encoding) -> Encoding:
    """The same real values in the signed type of the same width; a symmetric grid, whose middle AIMET may put at -127, at 0."""
    if encoding.is_float or encoding.bits == 32:
        return encoding
    half = 1 << (encoding.bits - 1)
    zero = encoding.zeros if encoding.signed else encoding.zeros - half
    # Not so an unsigned grid from 0, which AIMET calls symmetric too, and grids that lie half a step beside 0.
    if encoding.symmetric and zero.dtype.kind == "i" and np.all(np.abs(zero) <= 1):
        zero = np.zeros_like(zero)
    return attrs.evolve(encoding, dtype=f"int{encoding.bits}", zero_point=zero)


def _document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read encodings {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        documents = read_documents(path, "file of encodings in JSON or YAML")
        found = documents[0] if documents else None
        if isinstance(found, dict) and found.get("version", _LISTS) != _LISTS:
            raise EncodingError(f"{path} has encodings of version {found['version']}, which are read as JSON only") from None
    if not isinstance(found, dict):
        raise EncodingError(f"{path} is not a file of encodings by name")
    return found


def _bits(entry: Any) -> int:
    """The width of an entry of lists; 0 when it has none, which is reported when it is read."""
    try:
        return int(entry[0]["bitwidth"])
    except (TypeError, ValueError, LookupError, OverflowError):
        return 0


def _checked(name: str, entry: Any) -> list[dict[str, Any]]:
    """The encodings of one tensor as numbers: scale and offset from min and max where they are missing, in accord where not."""
    if not isinstance(entry, list) or not all(isinstance(item, dict) for item in entry):
        raise EncodingError(f"tensor '{name}': a list of encodings is expected, found {type(entry).__name__}")
    try:
        return [_consistent(item) for item in entry]
    except KeyError as error:
        raise EncodingError(f"tensor '{name}': the key {error} is missing") from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise EncodingError(f"tensor '{name}': {error}") from None


def _consistent(item: Mapping[str, Any]) -> dict[str, Any]:
    if str(item.get("dtype", "int")).lower() == "float":
        return dict(item)
    bits = int(item["bitwidth"])
    if not 1 < bits <= 32:
        raise ValueError(f"a bitwidth lies in 2..32, found {bits}")
    steps = (1 << bits) - 1
    if "min" not in item or "max" not in item:
        return dict(item)
    low, high = float(item["min"]), float(item["max"])
    scale = float(item["scale"]) if "scale" in item else (high - low) / steps
    offset = float(item["offset"]) if "offset" in item else float(np.rint(low / scale))
    # Strictly symmetric grids leave the lowest code out, so that either end may be a step away.
    if max(abs(low - scale * offset), abs(high - scale * (offset + steps))) > 1.01 * scale:
        raise ValueError(
            f"min {low:g} and max {high:g} contradict scale {scale:g} and offset {offset:g}, "
            f"which reach from {scale * offset:g} to {scale * (offset + steps):g}"
        )
    return {"is_symmetric": "False", **item, "scale": scale, "offset": offset}
