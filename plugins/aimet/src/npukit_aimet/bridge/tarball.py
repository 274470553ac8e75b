"""The wheels of an AIMET release in a tarball: looked at from end to end before anything of it is used."""

from __future__ import annotations

import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from npukit.errors import UsageError
from npukit_aimet.bridge.environment import minimum, too_old

_NAME = re.compile(r"aimetpro-release-(?P<version>\d+(?:\.\d+)+)\.torch-(?:cpu|gpu)-.+\.tar\.gz")
_WHEEL = re.compile(r"[\w.!+]+(?:-[\w.!+]+){4,5}\.whl", re.ASCII)
# Wheels are compressed already: a tarball that unpacks to far more than its size is no release.
_MOST_GROWTH = 20
_ALWAYS_PLAUSIBLE = 1 << 30


def check_tarball(path: Path) -> tuple[str, ...]:
    """The wheels in an AIMET release, as names of members. Nothing is written.

    Raises UsageError for another kind of file, a version below the minimum, a damaged archive, no wheels, and for members that
    could write outside of their folder (absolute, with "..", links, devices).
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    found = _NAME.fullmatch(path.name)
    if found is None:
        hint = "it is called aimetpro-release-VERSION.torch-cpu-....tar.gz, or torch-gpu"
        raise UsageError(f"{path.name} is not an AIMET release", hint=hint)
    if too_old(found["version"]):
        raise UsageError(f"{path.name} is AIMET {found['version']}, the bridge needs {minimum()} or newer")
    wheels: dict[str, str] = {}
    total = 0
    for member in _members(path):
        _check_member(member, path)
        total += member.size
        if member.name.endswith(".whl"):
            _check_wheel(member, wheels, path)
    if total > max(_ALWAYS_PLAUSIBLE, _MOST_GROWTH * path.stat().st_size):
        raise UsageError(f"{path.name} would unpack to {total} bytes, which is not plausible")
    if not wheels:
        raise UsageError(f"{path.name} holds no wheels")
    return tuple(wheels.values())


def unpack_wheels(path: Path, members: tuple[str, ...], folder: Path) -> list[Path]:
    """Write the members that ``check_tarball`` found into ``folder``, without the folders that they are in."""
    wanted, made = set(members), []
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                source = archive.extractfile(member) if member.name in wanted and member.isfile() else None
                if source is not None:
                    target = folder / PurePosixPath(member.name).name
                    with open(target, "wb") as file:
                        shutil.copyfileobj(source, file)
                    made.append(target)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UsageError(f"{path.name} is damaged: {error}") from None
    return made


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(path, "r:gz") as archive:
            yield from archive
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UsageError(f"{path.name} is not a readable tar.gz file: {error}") from None


def _check_member(member: tarfile.TarInfo, path: Path) -> None:
    if not (member.isfile() or member.isdir()):
        raise UsageError(f"{path.name} holds '{member.name}', which is a link or a device")
    place = PurePosixPath(member.name)
    if place.is_absolute() or ".." in place.parts or "\\" in member.name:
        raise UsageError(f"{path.name} holds '{member.name}', which points outside of its folder")


def _check_wheel(member: tarfile.TarInfo, wheels: dict[str, str], path: Path) -> None:
    name = PurePosixPath(member.name).name
    if not member.isfile() or not _WHEEL.fullmatch(name):
        raise UsageError(f"{path.name} holds '{member.name}', which has not the name of a wheel")
    if name in wheels:
        raise UsageError(f"{path.name} holds {name} twice")
    wheels[name] = member.name
