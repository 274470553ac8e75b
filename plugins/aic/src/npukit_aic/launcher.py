"""Run an unmodified script that was written for a Cloud AI 100 on the emulator.

Python and shell scripts, and everything that they start, see the emulator's tools and modules: by their names, by their paths
below /opt/qti-aic, and behind sudo, which is not needed. Nothing is installed and no file of the script is changed; a vendor
SDK that is installed is left alone. Options of npukit stand before the script, all others are the script's.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path

from npukit.commands import Console
from npukit.errors import UsageError
from npukit_aic.door import NAMES, SHIMS
from npukit_aic.redirect import ROOT, VENDOR

TOOLS = {
    "exec/qaic-exec": "exec",
    "exec/qaic-compile": "exec",
    "exec/qaic-runner": "runner",
    "exec/qaic-qpc": "qpc_tool",
    "tools/qaic-util": "util",
    "tools/qaic-opstats": "opstats",
    "scripts/qaic-model-configurator/qaic-model-configurator": "configurator",
}
"""Where the vendor has its tools below /opt/qti-aic -> the module of ``npukit_aic.tools`` that stands in."""
_DATA = Path(__file__).parent / "data"


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``npukit aic-run``."""
    parser.add_argument("script", help="a Python or shell script, or a program with its arguments")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="what the script gets")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the script and return its exit code, 128 and the number for one that a signal ended."""
    for found in _vendor():
        console.note(f"note: {found} is installed here, the emulator is used instead")
    with tempfile.TemporaryDirectory(prefix="npukit-qti-aic-") as folder:
        environment = make_tree(Path(folder))
        child = subprocess.Popen([*_command(args.script, environment["PATH"]), *args.args], env=environment)
        before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        try:
            code = _ended(child)
        finally:
            signal.signal(signal.SIGTERM, before)
    return code if code >= 0 else 128 - code


def _ended(child: subprocess.Popen[bytes]) -> int:
    """The return code of a process. Ctrl-C goes to it as well, and it decides what comes of that."""
    while True:
        with suppress(KeyboardInterrupt):
            return child.wait()


def make_tree(root: Path) -> dict[str, str]:
    """Make a folder that stands in for /opt/qti-aic, and return the environment in which scripts see it."""
    (root / "bin").mkdir()
    for place, module in TOOLS.items():
        _program(root / place, f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m npukit_aic.tools.{module} "$@"\n')
        (root / "bin" / Path(place).name).symlink_to(root / place)
    _program(root / "bin" / "sudo", (_DATA / "sudo.bash").read_text(encoding="utf-8"))
    _program(root / "bin" / "sh", '#!/bin/sh\nexec bash "$@"\n')
    (root / "dev" / "lib").mkdir(parents=True)
    for place in ("lib/x86_64", "lib/aarch64", "python"):
        (root / "dev" / place).symlink_to(SHIMS)
    # The Python of npukit is behind the tools, so that `python other.py` in a script is one that knows the emulator.
    path = os.pathsep.join([str(root / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, ROOT: str(root), "BASH_ENV": str(_DATA / "aic_run.bash")}


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def _command(script: str, path: str) -> list[str]:
    """How a script is started: by npukit's Python, by bash with the options of its first line, or as the program that it is."""
    file = Path(script)
    if file.is_dir():
        raise UsageError(f"'{script}' is a folder", hint="name a script in it")
    words = _interpreter(file) if file.is_file() else []
    shell = next((i for i, word in enumerate(words) if Path(word).name in ("sh", "bash", "dash")), None)
    if shell is not None or file.suffix in (".sh", ".bash"):
        return ["bash", *words[shell + 1 if shell is not None else len(words) :], _existing(script)]
    if file.suffix == ".py" or any(Path(word).name.startswith("python") for word in words):
        return [sys.executable, _existing(script)]
    if shutil.which(script, path=path) is None:
        raise UsageError(f"'{script}' is neither a script nor a program that can be found")
    return [script]


def _existing(script: str) -> str:
    if not Path(script).is_file():
        raise UsageError(f"there is no script '{script}'")
    return script


def _interpreter(path: Path) -> list[str]:
    """The words behind ``#!`` in the first line of a file; none for another file."""
    try:
        with path.open("rb") as file:
            start = file.readline(200)
    except OSError as error:
        raise UsageError(f"cannot read '{path}': {error.strerror}") from None
    return start[2:].decode("utf-8", "replace").split() if start.startswith(b"#!") else []


def _vendor() -> Sequence[str]:
    """What is installed of the vendor's; a folder of such a name is none of its modules."""
    specs = {name: PathFinder.find_spec(name) for name in NAMES}
    modules = [name for name, spec in specs.items() if spec is not None and spec.origin is not None]
    return ([VENDOR] if Path(VENDOR).is_dir() else []) + [f"a module '{name}'" for name in modules]
