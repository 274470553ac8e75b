"""Inside the Python processes of ``npukit aic-run``: calls that name paths below /opt/qti-aic get those of the emulator's folder.

The scripts and their modules stay as they are. Only the standard library is imported here: every Python process below the launcher
does it at its start.
"""

from __future__ import annotations

import builtins
import functools
import io
import os
import re
import subprocess
from collections.abc import Callable
from typing import Any

ROOT = "NPUKIT_AIC_ROOT"
"""Environment variable: the folder that stands in for ``VENDOR``, in all processes below the launcher."""
VENDOR = "/opt/qti-aic"
_VENDOR = re.compile(r"(?<![\w./-])/opt/qti-aic(?![\w.-])")
# subprocess, os.popen, os.spawn*, os.path, shutil, pathlib and glob end in these.
_STARTING = ("system", "execv", "execve", "posix_spawn", "posix_spawnp")
_LOOKING = ("stat", "lstat", "access", "open", "listdir", "scandir", "readlink", "chdir")


def install(root: str) -> None:
    """Wrap the functions of this process that start programs or look at files."""
    for name in (*_STARTING, *_LOOKING):
        _replace(name, _redirected(getattr(os, name), root))
    builtins.open = io.open = _redirected(io.open, root)
    subprocess.Popen.__init__ = _redirected(subprocess.Popen.__init__, root)  # type: ignore[method-assign]


def moved(value: Any, root: str) -> Any:
    """A path, a command line or a list of words with the vendor's folder replaced by ``root``; anything else as it is."""
    if isinstance(value, str):
        return _VENDOR.sub(lambda _: root, value)
    if isinstance(value, bytes) and VENDOR.encode() in value:
        return os.fsencode(moved(os.fsdecode(value), root))
    if isinstance(value, os.PathLike):
        text = os.fspath(value)
        found = moved(text, root)
        return value if found == text else found
    if isinstance(value, list | tuple):
        return [moved(item, root) for item in value]
    return value


def _redirected(function: Callable[..., Any], root: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        return function(*(moved(a, root) for a in args), **{name: moved(value, root) for name, value in options.items()})

    return call


def _replace(name: str, function: Callable[..., Any]) -> None:
    """Put a function into ``os``, and into the sets in which os says what its functions can."""
    own = getattr(os, name)
    function.__module__ = "os"  # where pickle finds it
    for known in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks, os.supports_effective_ids):
        if own in known:
            known.add(function)
    setattr(os, name, function)
