"""Files as trees of lists, so that one kind of damage serves every format: JSON, YAML, protobuf, .npy and zip.

A tree is a list of parts, a part is a tree or a leaf (text, number, bytes). ``dump`` writes any tree, also one whose parts are
not what their place asks for.
"""

from __future__ import annotations

import datetime
import io
import json
import struct
import zipfile
from typing import Any

import numpy as np
import yaml

_MASK = (1 << 64) - 1
_FIXED = {1: "<Q", 5: "<I"}


class Members(list[Any]):
    """An object of JSON or YAML: [key, value] pairs, so that a key may stand there twice."""


class Message(list[Any]):
    """A protobuf message: [field number, wire type, value] triples."""


class Archive(list[Any]):
    """A zip archive: [name, content] pairs."""


class Npy(list[Any]):
    """An .npy file: its header as text, and the bytes of its values."""


class Documents(list[Any]):
    """The documents of a YAML file that has several."""


class Raw(str):
    """Text that goes into JSON or YAML as it is."""

    __slots__ = ()


def parse(suffix: str, data: bytes) -> Any:
    """The tree of an undamaged file; the bytes themselves where the format has no parts."""
    if suffix in (".json", ".encodings"):
        return json.loads(data, object_pairs_hook=lambda pairs: Members([*pair] for pair in pairs))
    if suffix == ".yaml":
        found = [_members(document) for document in yaml.safe_load_all(data)]
        return found[0] if len(found) == 1 else Documents(found)
    if suffix == ".onnx":
        return _message(data)
    if suffix == ".npy":
        size = struct.unpack("<H", data[8:10])[0]
        return Npy([data[10 : 10 + size].decode("latin-1"), data[10 + size :]])
    if suffix in (".dlc", ".npz"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return Archive([name, parse(name[name.rfind(".") :], archive.read(name))] for name in archive.namelist())
    return data


def dump(tree: Any) -> bytes:
    """The bytes of a tree."""
    if isinstance(tree, bytes):
        return tree
    if isinstance(tree, Message):
        return b"".join(_field(part) for part in tree)
    if isinstance(tree, Archive):
        return _zip(tree)
    if isinstance(tree, Npy):
        header, *values = (dump(part) for part in tree) if tree else (b"",)
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) & 0xFFFF) + header + b"".join(values)
    if isinstance(tree, str):
        return tree.encode("utf-8", "surrogatepass")
    return _text(tree).encode("utf-8", "surrogatepass")


def _members(value: Any) -> Any:
    if isinstance(value, dict):
        return Members([key, _members(item)] for key, item in value.items())
    if isinstance(value, list):
        return [_members(item) for item in value]
    return Raw(value) if isinstance(value, datetime.date) else value


def _text(value: Any) -> str:
    if isinstance(value, Raw):
        return value
    if isinstance(value, bytes | Message | Archive | Npy):
        return dump(value).decode("latin-1")
    if isinstance(value, Members):
        parts = (f"{_text(p[0])}: {_text(p[1])}" if isinstance(p, list) and len(p) == 2 else _text(p) for p in value)
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, Documents):
        return "\n---\n".join(map(_text, value))
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return json.dumps(value)


def _message(data: bytes) -> Message:
    """Raises ValueError or IndexError for bytes that are no message."""
    found, position = Message(), 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        value: Any
        if not 0 < number < 1 << 16:
            raise ValueError
        if wire == 0:
            value, position = _varint(data, position)
        elif wire in _FIXED:
            (value,) = struct.unpack_from(_FIXED[wire], data, position) if position + 4 <= len(data) else (0,)
            position += struct.calcsize(_FIXED[wire])
        elif wire == 2:
            size, position = _varint(data, position)
            value, position = data[position : position + size], position + size
            value = _inner(value)
        else:
            raise ValueError
        found.append([number, wire, value])
    if position != len(data):
        raise ValueError
    return found


def _inner(data: bytes) -> Message | bytes:
    """What has a length: a message where the bytes are one. (A text may happen to be one; it is written as it was.)"""
    try:
        return _message(data) if data else data
    except (ValueError, IndexError, struct.error):
        return data


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise ValueError


def _coded(value: int) -> bytes:
    value &= _MASK
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _field(part: Any) -> bytes:
    if not (isinstance(part, list) and len(part) == 3 and all(isinstance(number, int) for number in part[:2])):
        return dump(part)
    number, wire, value = part
    key = _coded(number << 3 | wire & 7)
    if not isinstance(value, int):
        content = dump(value)
        return key + _coded(len(content)) + content if wire == 2 else key + content
    if wire in _FIXED:
        size = struct.calcsize(_FIXED[wire])
        return key + (value & _MASK).to_bytes(8, "little")[:size]
    return key + _coded(value)


def _zip(tree: Archive) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for part in tree:
            name, content = part if isinstance(part, list) and len(part) == 2 else ("other", part)
            info = zipfile.ZipInfo(str(name)[:1000].encode("utf-8", "replace").decode() or "none")
            archive.writestr(info, dump(content))
    return buffer.getvalue()


def array(values: np.ndarray[Any, Any]) -> bytes:
    """The .npy file of an array."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()
