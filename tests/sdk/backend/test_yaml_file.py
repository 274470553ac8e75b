"""YAML of users: whatever is in it, one clear error."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from npukit.backend import load_socs, read_yaml
from npukit.errors import PluginError, UsageError


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[" * 100_000, "nested deeper than 100 levels"),
        ("- " * 5_000 + "a", "nested deeper than 100 levels"),
        ("day: 2026-99-99", "month must be in 1..12"),
        ("on: !!bool zzz", "zzz"),
        ("number: !!int ''", "out of range"),
        ("a: [", "while parsing"),
        ("\0", "unacceptable character"),
    ],
)
def test_what_is_not_yaml_is_refused(text: str, cause: str, tmp_path: Path) -> None:
    """Damaged values, and nesting that would end the process, are one error with the name of the file."""
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=f"^configuration .*file.yaml is not YAML: .*{cause}"):
        read_yaml(path, "configuration")


def test_nesting_within_the_limit_is_read(tmp_path: Path) -> None:
    """The limit is one of depth, not of length."""
    path = tmp_path / "file.yaml"
    path.write_text("[" * 100 + "]" * 100 + "\n", encoding="utf-8")
    assert read_yaml(path, "configuration")
    path.write_text("- [1]\n" * 1_000, encoding="utf-8")
    assert read_yaml(path, "configuration") == [[1]] * 1_000


def test_aliases_of_aliases_are_counted(tmp_path: Path) -> None:
    """A few lines may stand for more values than anybody could print; one value in many places is fine."""
    path = tmp_path / "file.yaml"
    path.write_text("a: &a [1, 2]\nb: [*a, *a, *a]\nc: &c [*c]\n", encoding="utf-8")
    assert read_yaml(path, "configuration")["b"] == [[1, 2]] * 3
    lines = [f"{new}: &{new} [{', '.join(['*' + old] * 9)}]" for old, new in itertools.pairwise("abcdefghij")]
    path.write_text("\n".join(["a: &a [1, 2]", *lines]), encoding="utf-8")
    with pytest.raises(UsageError, match="its aliases stand for more than"):
        read_yaml(path, "configuration")


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    """PyYAML would take minutes for it."""
    path = tmp_path / "file.yaml"
    with path.open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(UsageError, match="it has 16777217 bytes, at most 16777216 are read"):
        read_yaml(path, "configuration")


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("name: 8750, arch: v79", "name is 8750, which is int"),
        ("name: x, arch: 73", "arch is 73, which is int"),
        ("name: x, arch: v79, id: five", "id is 'five', which is str"),
        ("name: x, arch: v79, memory_mb: yes", "memory_mb is True, which is bool"),
        ("name: x, arch: v79, features: 3", "features is 3, which is int"),
    ],
)
def test_a_chip_with_a_value_of_another_type(row: str, found: str, tmp_path: Path) -> None:
    """The row and the key are named."""
    path = tmp_path / "socs.yaml"
    path.write_text(f"- {{name: good, arch: v79}}\n- {{{row}}}\n", encoding="utf-8")
    with pytest.raises(PluginError, match=f"socs.yaml, row 2: {found}"):
        load_socs(path)
