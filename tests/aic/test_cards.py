"""Cores of the virtual cards, claimed by several processes."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npukit.errors import UsageError
from npukit_aic import cards

HOLD = "import sys; from npukit_aic import cards; c = cards.claim({}); print('held', flush=True); sys.stdin.read(); {}"


@contextlib.contextmanager
def owner(arguments: str, then: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that claims cores, holds them until its input ends, and does ``then``."""
    code = HOLD.format(arguments, then)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def claims(cards_of_its_own: Path) -> Path:
    """The folder of claims."""
    cards.info(0)
    return cards_of_its_own / f"npukit-aic-{os.getuid()}"


def free(device: int = 0) -> int:
    return cards.info(device).free


def test_a_card_has_the_cores_of_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    found = cards.info(3)
    assert (found.qid, found.soc.name, found.total, found.free, found.status) == (3, "Standard", 14, 14, "Ready")
    monkeypatch.setenv("NPUKIT_AIC_CARD", "ultra")
    assert cards.info(0).total == 64
    monkeypatch.setenv("NPUKIT_AIC_CARD", "Ultimate")
    with pytest.raises(UsageError, match="Ultimate"):
        cards.info(0)


def test_as_many_cards_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cards.devices() == tuple(range(8))
    monkeypatch.setenv("NPUKIT_AIC_DEVICES", "2")
    assert cards.devices() == (0, 1)
    with pytest.raises(UsageError, match="no card 2"):
        cards.claim(2, 1)
    for wrong in ("0", "-1", "many", "1e3", "99999"):
        monkeypatch.setenv("NPUKIT_AIC_DEVICES", wrong)
        with pytest.raises(UsageError, match="NPUKIT_AIC_DEVICES"):
            cards.devices()


def test_cores_are_held_until_they_are_released() -> None:
    with cards.claim(0, 10) as held:
        assert (free(), free(1)) == (4, 14)
        with pytest.raises(UsageError, match=r"5 cores of card 0 are asked for, 4 of its 14 are free"):
            cards.claim(0, 5)
        with cards.claim(0, 4):
            assert free() == 0
        held.release()
        assert free() == 14
    assert free() == 14
    with pytest.raises(UsageError, match="0 cores"):
        cards.claim(0, 0)


def test_a_claim_that_nobody_has_any_more_is_released() -> None:
    held = cards.claim(0, 3)
    assert free() == 11
    del held
    gc.collect()
    assert free() == 14


def test_a_group_shares_its_cores() -> None:
    first = cards.claim(0, 8, group="a")
    with cards.claim(0, 12, group="a"), cards.claim(0, 2, group="b"):
        assert free() == 0
        with cards.claim(0, 2, group="b"), pytest.raises(UsageError, match=r"3 cores .* 0 of its 14"):
            cards.claim(0, 3, group="b")
        with pytest.raises(UsageError):
            cards.claim(0, 1)
    assert free() == 6
    first.release()
    with pytest.raises(UsageError, match="257 characters"):
        cards.claim(0, 1, group="g" * 257)
    with cards.claim(0, 5, group="\N{SNOWMAN}" * 256):
        assert free() == 9


def test_other_processes_count() -> None:
    with owner("0, 9") as process:
        assert free() == 5
        with pytest.raises(UsageError, match="6 cores"):
            cards.claim(0, 6)
        process.communicate()
        assert process.returncode == 0
        assert free() == 14


@pytest.mark.parametrize("end", ["kill", "crash", "exit"])
def test_cores_come_back_however_their_owner_ends(end: str, claims: Path) -> None:
    with owner("0, 14, group='g'", {"crash": "import os; os.abort()", "exit": "1 / 0", "kill": ""}[end]) as process:
        assert free() == 0
        if end == "kill":
            process.kill()
        process.communicate()
        assert free() == 14
    assert not list(claims.glob("*.json"))


def test_a_forked_child_takes_and_gives_nothing() -> None:
    held = cards.claim(0, 6)
    child = os.fork()
    if not child:
        held.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert free() == 8
    held.release()
    assert free() == 14


def test_many_at_once_never_get_more_than_there_is(cards_of_its_own: Path) -> None:
    """Whoever holds 8 of 14 cores is alone, among the threads of several processes."""
    code = f"""
import os, threading
from npukit_aic import cards
def work():
    for _ in range(100):
        try:
            with cards.claim(0, 8):
                os.mkdir({str(cards_of_its_own / "alone")!r})
                os.rmdir({str(cards_of_its_own / "alone")!r})
        except cards.UsageError:
            pass
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
"""
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[1] for process in processes] == ["", ""]
    assert free() == 14


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), lambda s: st.lists(s)).map(json.dumps))
def test_files_of_others_are_removed(content: bytes | str) -> None:
    cards.info(0)
    folder = Path(os.environ["TMPDIR"]) / f"npukit-aic-{os.getuid()}"
    (folder / "x.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with cards.claim(0, 4):
        assert free() == 10
    assert [path.name for path in folder.iterdir()] == ["guard"]


@pytest.mark.parametrize(
    "content",
    [
        '{"device": 0, "cores": 4, "gro',
        '{"device": 0, "cores": -4, "group": ""}',
        '{"device": 0, "cores": true, "group": ""}',
        '{"device": 0, "cores": 4, "group": ["a"]}',
        '{"device": 0, "cores": 4}',
        "[" * 4096,
        "[1]",
        "",
    ],
)
def test_content_that_makes_no_sense_counts_for_nothing(content: str, claims: Path) -> None:
    """Even while somebody has the file locked."""
    with (claims / "x.json").open("w") as file:
        file.write(content)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        assert free() == 14
    assert not (claims / "x.json").exists()


def test_what_is_no_file_is_not_opened(claims: Path) -> None:
    os.mkfifo(claims / "pipe.json")
    (claims / "link.json").symlink_to("/etc/passwd")
    (claims / "folder.json").mkdir()
    (claims / "sensible.json").write_text('{"device": 0, "cores": 4, "group": ""}')
    assert free() == 14
    assert sorted(path.name for path in claims.iterdir()) == ["folder.json", "guard"]


def test_a_folder_of_somebody_else_is_not_used(cards_of_its_own: Path) -> None:
    folder = cards_of_its_own / f"npukit-aic-{os.getuid()}"
    folder.symlink_to("/tmp")
    with pytest.raises(UsageError, match="not a folder of yours alone"):
        cards.info(0)
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UsageError, match="not a folder of yours alone"):
        cards.claim(0, 1)
