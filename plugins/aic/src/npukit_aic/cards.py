"""The virtual cards of this user, and who holds their neural cores, across processes.

A claim is a small file in a folder of the user's own, which its owner keeps locked. The system drops the lock when the owner is
gone, however it went (release, exit, kill -9), and a file that nobody holds is swept by whoever looks next. So no claim outlives
its process, and a process that got the same number later is never taken for it.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import attrs

from npukit.backend import Soc
from npukit.errors import UsageError, did_you_mean
from npukit_aic.backend import AicBackend

DEVICES, CARD = "NPUKIT_AIC_DEVICES", "NPUKIT_AIC_CARD"
"""Environment variables: how many cards there are (default 8), and which one all of them are (default Standard)."""
_MOST_BYTES, _LONGEST_GROUP = 4096, 256


@attrs.frozen
class CardInfo:
    """A card: its id, its row of socs.yaml, and how many of its neural cores (NSP) there are and are free."""

    qid: int
    soc: Soc
    total: int
    free: int
    status: str = "Ready"


@attrs.frozen
class _Held:
    """What a claim's file says."""

    device: int
    cores: int
    group: str


class Claim:
    """Cores of a card that are held until ``release``, the end of the with block, or the end of the process."""

    def __init__(self, held: _Held, path: Path, file: int) -> None:
        self.device, self.cores, self.group = held.device, held.cores, held.group
        self._end = weakref.finalize(self, _drop, path, file, os.getpid())

    def release(self) -> None:
        """Give the cores back; doing so again does nothing."""
        self._end()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def devices() -> tuple[int, ...]:
    """The ids of all cards."""
    text = os.environ.get(DEVICES) or "8"
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise UsageError(f"{DEVICES} is '{text}'", hint="a number of cards, 1 to 1024")
    return tuple(range(int(text)))


def info(device: int) -> CardInfo:
    """What a card has, and what is free at this moment. Raises UsageError for an id that no card has."""
    soc = _soc(device)
    with _guarded() as folder:
        used = _used(_live(folder), device)
    total = int(soc.features["cores"])
    return CardInfo(device, soc, total, max(0, total - used))


def claim(device: int, cores: int, *, group: str = "") -> Claim:
    """Hold ``cores`` neural cores of a card. Claims of one ``group`` that is not "" share theirs: the largest of them counts.

    Raises UsageError for an id that no card has, and when fewer cores are free.
    """
    total = int(_soc(device).features["cores"])
    if cores < 1:
        raise UsageError(f"{cores} cores are asked for", hint="at least 1")
    if len(group) > _LONGEST_GROUP:
        raise UsageError(f"the name of an oversubscription group has {len(group)} characters", hint=f"at most {_LONGEST_GROUP}")
    held = _Held(device, cores, group)
    with _guarded() as folder:
        others = _live(folder)
        if _used([*others, held], device) > total:
            free = max(0, total - _used(others, device))
            hint = "ask for fewer cores or activations, end another session, or let them share cores as one oversubscription group"
            raise UsageError(
                f"{cores} cores of card {device} are asked for, {free} of its {total} are free", hint=hint, code="cores"
            )
        return _written(held, folder / f"{uuid4().hex}.json")


def _written(held: _Held, path: Path) -> Claim:
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        made = Claim(held, path, file)
        fcntl.flock(file, fcntl.LOCK_EX)
        os.write(file, json.dumps(attrs.asdict(held)).encode())
    except OSError as error:  # what was made is dropped with ``made``
        raise UsageError(f"cannot write '{path}': {error.strerror}", hint="TMPDIR names another place") from None
    return made


def _soc(device: int) -> Soc:
    """The row of socs.yaml of a card."""
    if device not in devices():
        raise UsageError(f"there is no card {device}", hint=f"cards are 0 to {devices()[-1]}; {DEVICES} says how many there are")
    backend = AicBackend()
    socs = {soc.name.lower(): soc for soc in backend.socs()}
    name = os.environ.get(CARD) or backend.default_soc
    if name.lower() not in socs:
        raise UsageError(f"{CARD} is '{name}'", hint=did_you_mean(name, [soc.name for soc in socs.values()]))
    return socs[name.lower()]


def _used(held: Iterable[_Held], device: int) -> int:
    alone, shared = 0, dict[str, int]()
    for entry in held:
        if entry.device != device:
            continue
        if entry.group:
            shared[entry.group] = max(entry.cores, shared.get(entry.group, 0))
        else:
            alone += entry.cores
    return alone + sum(shared.values())


@contextmanager
def _guarded() -> Iterator[Path]:
    """The folder of claims, which nobody else looks at meanwhile. Its place in the temporary folder is known to all users of the
    machine, so it has to be this user's own."""
    folder = Path(tempfile.gettempdir()) / f"npukit-aic-{os.getuid()}"
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        guard = os.open(folder / "guard", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600) if _is_own(found) else -1
    except OSError as error:
        raise UsageError(f"cannot use folder '{folder}': {error.strerror}", hint="TMPDIR names another place") from None
    if guard < 0:
        raise UsageError(f"'{folder}' is not a folder of yours alone", hint="remove it, or let TMPDIR name another place")
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(guard)


def _is_own(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _live(folder: Path) -> list[_Held]:
    """The claims whose owners live; all other files are removed."""
    found = []
    for path in folder.glob("*.json"):
        held = _read(path)
        if held is not None:
            found.append(held)
        else:
            with suppress(OSError):  # its owner was faster, or it is a folder that somebody put there
                path.unlink()
    return found


def _read(path: Path) -> _Held | None:
    """What a claim's file says, if its owner has it locked and it says something sensible."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if stat.S_ISREG(os.fstat(file).st_mode) and _is_locked(file):
            entry = json.loads(os.read(file, _MOST_BYTES))
            kinds = (("device", int), ("cores", int), ("group", str))
            if all(type(entry[key]) is kind for key, kind in kinds) and entry["cores"] > 0:
                return _Held(entry["device"], entry["cores"], entry["group"])
    except (ValueError, LookupError, TypeError, RecursionError, OSError):
        pass
    finally:
        os.close(file)
    return None


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _drop(path: Path, file: int, owner: int) -> None:
    """End a claim; a forked child that inherited it only closes its own handle."""
    if os.getpid() == owner:
        path.unlink(missing_ok=True)
    os.close(file)
