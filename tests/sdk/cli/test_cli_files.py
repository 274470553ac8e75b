"""Results are written whole or not at all, and inside their folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from npukit.cli.files import INDEX, check_package, check_result_folder, check_writable, result_folder, safe_name, write_text
from npukit.errors import UsageError


def names(folder: Path) -> list[str]:
    """What a folder holds, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@example(["..", ".", "", "../../etc/passwd", ".bashrc", "/abs", "a/b", "A/B", "a:b"])
@given(st.lists(st.text(max_size=200), max_size=20))
def test_safe_names_stay_in_their_folder(tensors: list[str]) -> None:
    """Whatever a tensor is called, its file is in the folder, not hidden, and nobody else's even where case is ignored."""
    taken: set[str] = set()
    found = [safe_name(name, taken) for name in tensors]
    assert len({name.lower() for name in found}) == len(tensors)
    for name in found:
        assert Path(name).name == name
        assert not name.startswith(".")
        assert name.isascii()
        assert 0 < len(name) <= 130


def test_a_failed_run_keeps_the_old_results(tmp_path: Path) -> None:
    """When a run fails half way the results of the one before are untouched, and nothing else is left."""
    target = tmp_path / "out"
    with result_folder(target) as folder:
        (folder / INDEX).write_text('{"npukit": 1}')
    with pytest.raises(FileNotFoundError), result_folder(target) as folder:
        (folder / "half").write_bytes((tmp_path / "no such sample").read_bytes())
    assert names(tmp_path) == ["out"]
    assert names(target) == [INDEX]


def test_results_replace_results(tmp_path: Path) -> None:
    """A second run leaves nothing of the first in the folder."""
    for name in ("first", "second"):
        with result_folder(tmp_path / "out") as folder:
            (folder / INDEX).write_text('{"npukit": 1}')
            (folder / name).write_text("x")
    assert names(tmp_path / "out") == [INDEX, "second"]


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    """-o on a folder of the user's own is refused, also when it has an index.json of another kind."""
    for name, text in (("notes.txt", "mine"), (INDEX, "[1, 2]")):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_text(text)
        with pytest.raises(UsageError, match="holds other files"):
            check_result_folder(folder)
        assert (folder / name).read_text() == text


def test_write_text_replaces_at_once(tmp_path: Path) -> None:
    """The text is there, with the rights of an ordinary new file, and no temporary file stays."""
    target, plain = tmp_path / "a.json", tmp_path / "b.json"
    plain.touch()
    write_text(target, "new")
    assert target.read_text() == "new"
    assert os.stat(target).st_mode == os.stat(plain).st_mode
    assert names(tmp_path) == ["a.json", "b.json"]


def test_write_text_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Text that cannot be encoded leaves the old file and no other."""
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "\ud800")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("target", ["no/such/out.dlc", "file/out.dlc", "."])
def test_targets_that_cannot_be_written(tmp_path: Path, target: str) -> None:
    """A folder that is missing or is a file, and a target that is a folder, are found before any work."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write"):
        check_writable(tmp_path / target)


def test_more_targets_that_cannot_be_written(tmp_path: Path) -> None:
    """A device, a name that leaves no room for the temporary one, and stdout are found before any work; nothing stays behind."""
    for check in (check_writable, check_result_folder):
        with pytest.raises(UsageError, match="cannot write the result to stdout"):
            check("-")
        with pytest.raises(UsageError, match="File name too long"):
            check(tmp_path / ("a" * 250))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a regular file"):
        check_writable(tmp_path / "pipe")
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("name", ["int8.onnx", "int8.pt2"])
def test_a_package_is_not_called_like_a_model(name: str, tmp_path: Path) -> None:
    """A package under the name of a model would be read as that."""
    with pytest.raises(UsageError, match=r"a package \(\.dlc\).*int8\.dlc"):
        check_package(tmp_path / name)
    assert check_package(tmp_path / "int8") == tmp_path / "int8"


def test_a_full_disk_names_the_result(tmp_path: Path) -> None:
    """The system says nothing of the file when a write fails; the message does, and nothing stays behind."""
    with pytest.raises(UsageError, match=r"cannot write .*out: No space left"), result_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    other = OSError(errno.ENOENT, "No such file", "elsewhere.npy")
    with pytest.raises(OSError, match="elsewhere"), result_folder(tmp_path / "out"):
        raise other
    assert names(tmp_path) == []


def test_what_killed_runs_left_is_swept(tmp_path: Path) -> None:
    """npukit's own temporary files and folders go once they are old; young ones and those of others stay."""
    old, young, other = ".a.dlc.0123abcd.npukit", ".b.dlc.0123abcd.npukit", ".a.dlc.0123abcd"
    for name in (old, young, other):
        (tmp_path / name).touch()
    folder = tmp_path / ".results.89abcdef.npukit"
    (folder / "Result_0").mkdir(parents=True)
    for path in (tmp_path / old, tmp_path / other, folder):
        os.utime(path, (0, 0))
    write_text(tmp_path / "out.json", "{}")
    assert names(tmp_path) == [other, young, "out.json"]
