"""Damage: a file becomes another one. The same seed does the same damage to the same corpus."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Any

import attrs

from .trees import Archive, Members, Message, Npy, Raw, dump, parse

NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 8, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64),
    *(10**30, 0.5, -0.0, 1e-320, 1e308, -1e308, float("nan"), float("inf"), -float("inf")),
)
TEXTS = (
    *("", "x", "y", "w", "/", "..", "../../x", "a\nb", "\0", "\x7f", "\ud800", "é", "int8", "uint16", "float16", "float32", "int"),
    *("NaN", "-1", "1e999", "%s{}", "x" * 5000, "member" * 50, "encodings.json", "object", "0", "true"),
)
_LAUGHS = ", ".join(f"&{new} [{', '.join(['*' + old] * 9)}]" for old, new in pairwise("abcdefghijk"))
RAW = tuple(
    map(
        Raw,
        (
            *(
                "NaN",
                "Infinity",
                "-Infinity",
                "1e999",
                "9" * 400,
                "9" * 5000,
                '"\\ud800"',
                "[" * 200 + "]" * 200,
                "[" * 100_000,
                "01",
            ),
            *(
                '{"a":' * 5000,
                "nul",
                "'",
                "&a [*a]",
                "*b",
                "!!python/object:os.system x",
                "!!binary x",
                "!!timestamp 1",
                "2024-13-45",
            ),
            *(
                "!!set {a}",
                "!!omap [a]",
                "? [a]",
                "{[a]: b}",
                "<<: 1",
                ".nan",
                ".inf",
                "0x",
                "1:99:99",
                "---\n",
                "...",
                "\t",
                "0o9",
                "~",
            ),
            *("&x {<<: *x}", "!!int a", "!!float b", "!!null c", "!!bool d", "=", "2001-01-01T99:99:99Z", "!!str [a]", "!!map x"),
        ),
    )
)
_LARGEST, _MOST = 1 << 20, 20_000  # bytes of a file, parts that are added to one at a time
_DIGITS = re.compile(rb"\d+")


@attrs.frozen(eq=False)
class Original:
    """A file of the corpus and its tree."""

    suffix: str
    data: bytes
    tree: Any

    @classmethod
    def of(cls, suffix: str, data: bytes) -> Original:
        return cls(suffix, data, parse(suffix, data))


def damaged(random: Random, originals: Sequence[Original]) -> tuple[str, bytes]:
    """The suffix and the content of a file that some damage was done to: to its parts, to its bytes, or to both; at most 1 MB."""
    suffix, data = _damaged(random, originals)
    return suffix, data[:_LARGEST]


def _damaged(random: Random, originals: Sequence[Original]) -> tuple[str, bytes]:
    chosen = random.choice(originals)
    donor = random.choice(originals)
    data = chosen.data
    if not isinstance(chosen.tree, bytes) and random.random() < 0.85:
        tree = chosen.tree
        for _ in range(_few(random)):
            tree = _edited(random, tree, donor.tree)
        data = dump(tree)
        # Most damage to the bytes of an archive ends at its checksums.
        if random.random() < (0.97 if isinstance(chosen.tree, Archive) else 0.85):
            return chosen.suffix, data
    for _ in range(_few(random)):
        data = _scrambled(random, data, donor.data)
    return chosen.suffix, data


def _few(random: Random) -> int:
    return 1 + min(int(random.expovariate(1)), 8)


def _edited(random: Random, node: Any, donor: Any) -> Any:
    """The tree with one change somewhere; what is on the way there is copied."""
    if not isinstance(node, list) or not node or random.random() < 0.08:
        return _replaced(random, node, donor)
    place = random.randrange(len(node))
    changed = type(node)(node)
    choice = random.random()
    if choice < 0.06:
        del changed[place]
    elif choice < 0.12:
        changed.insert(random.randrange(len(node) + 1), node[place])
    elif choice < 0.16:
        other = random.randrange(len(node))
        changed[place], changed[other] = changed[other], changed[place]
    elif choice < 0.20:
        changed[place] = _part(random, donor)
    elif choice < 0.21:
        changed.extend(node[place : place + 1] * min(random.choice((10, 100, 2000)), _MOST // _size(node[place])))
    else:
        changed[place] = _edited(random, node[place], donor)
    return changed


def _size(tree: Any) -> int:
    """How many parts a tree has."""
    return 1 + sum(map(_size, tree)) if isinstance(tree, list) else 1


def _part(random: Random, tree: Any) -> Any:
    """Some part of a tree."""
    while isinstance(tree, list) and tree and random.random() < 0.85:
        tree = random.choice(tree)
    return tree


def _replaced(random: Random, node: Any, donor: Any) -> Any:
    choice = random.random()
    if isinstance(node, Archive | Npy | Message):
        return _scrambled(random, dump(node), b"")
    if isinstance(node, bytes):
        return _scrambled(random, node, donor if isinstance(donor, bytes) else b"")
    if choice < 0.15:
        return random.choice(RAW)
    if choice < 0.25:
        return random.choice((None, True, False, [], [[]], {}, Members(), [node], Members([["a", node]]), [1, 2], [None]))
    if isinstance(node, int | float) and choice < 0.85:
        return random.choice((*NUMBERS, -node, node + 1, node - 1, node * 2))
    if isinstance(node, str) and choice < 0.6:
        return _scrambled(random, node.encode("utf-8", "surrogatepass"), b"").decode("latin-1")
    return random.choice(random.choice((NUMBERS, TEXTS)))


def _scrambled(random: Random, data: bytes, donor: bytes) -> bytes:
    """The bytes with one change; the end of a file, where a zip has its directory, is as likely as all the rest."""
    if not data:
        return random.choice((b"\0", b"\xff\xfe", b"x", random.randbytes(20)))
    start = max(len(data) - 300, 0) if random.random() < 0.3 else 0
    at = random.randrange(start, len(data))
    size = min(random.choice((1, 1, 2, 4, 8, 64)), len(data) - at)
    head, piece, tail = data[:at], data[at : at + size], data[at + size :]
    match random.randrange(9):
        case 0:
            return head + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
        case 1:
            return head + random.randbytes(size) + tail
        case 2:
            return head
        case 3:
            return head + tail
        case 4:
            return head + piece * random.choice((2, 3, 50)) + tail
        case 5:
            value = random.choice((0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1))
            return head + value.to_bytes(8, "little")[:size] + tail
        case 6 if donor:
            other = random.randrange(len(donor))
            return head + donor[other : other + random.randrange(1, 200)] + tail
        case 7:
            found = list(_DIGITS.finditer(data, at)) or list(_DIGITS.finditer(data))
            if found:
                number = random.choice(found[:20])
                return data[: number.start()] + str(random.choice(NUMBERS)).encode() + data[number.end() :]
        case 8:
            return head + random.choice((b"\xff", b"\xc3(", b"\0", b"\r", b"\n", b"[", b"{", b'"', b"-", b" ", b":=", b"%")) + tail
    return head + bytes(size) + tail
