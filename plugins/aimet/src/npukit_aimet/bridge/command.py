"""The command ``npukit aimet``: make an AIMET environment, and tell where the script is that does it when sourced."""

from __future__ import annotations

import argparse
import importlib.resources
import shlex
from collections import deque
from pathlib import Path
from typing import Any

from npukit.commands import Console
from npukit.errors import PluginError
from npukit.events import Event

_SETUP = """\
Make a virtual environment with AIMET at DIR and print the line that makes `--engine aimet` use it.

AIMET comes from a release tarball (aimetpro-release-VERSION.torch-cpu-....tar.gz or torch-gpu), else as aimet-onnx from the package
registry. PyTorch comes as a CPU build, about 2 GB in all; --cuda takes the registry's, about 6.4 GB. An environment that is there
and works is left as it is. pip obeys its own variables, PIP_CONSTRAINT among them.
"""
_SCRIPT = """\
Print the path of aimet_env_setup.sh. Sourced with the flags of `npukit aimet setup-env` it also exports AIMET_ENV_PYTHON.
"""
_SHOWN = 15
_TOLD = ("making ", "installing ", "loading ", "Downloading ", "Installing ")
"""How lines begin that tell how far it is; a download says its size."""


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add ``npukit aimet setup-env`` and ``npukit aimet script``."""
    what = "environments of the real AIMET, for --engine aimet"
    parser = subparsers.add_parser("aimet", help=what, description=what[0].upper() + what[1:] + ".", allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    kind = argparse.RawDescriptionHelpFormatter
    setup = commands.add_parser(
        "setup-env", help="make an AIMET environment", description=_SETUP, formatter_class=kind, allow_abbrev=False
    )
    setup.add_argument("--env_path", "--env-path", required=True, type=Path, metavar="DIR", help="where the environment is or goes")
    setup.add_argument("--aimet_sdk_tar", "--aimet-sdk-tar", type=Path, metavar="TAR", help="a release of AIMET to install")
    setup.add_argument("--python", default="", metavar="EXE", help="the Python to make the environment with (default: this one)")
    setup.add_argument("--cuda", action="store_true", help="PyTorch with CUDA (default: a CPU build)")
    setup.set_defaults(run=setup_env)
    script = commands.add_parser(
        "script", help="where the script to source is", description=_SCRIPT, formatter_class=kind, allow_abbrev=False
    )
    script.set_defaults(run=script_path)


def setup_env(args: argparse.Namespace, console: Console) -> int:
    from npukit_aimet.bridge.environment import VARIABLE
    from npukit_aimet.bridge.setup import make_environment

    last: deque[str] = deque(maxlen=_SHOWN)
    heard = 0

    def on_line(line: str) -> None:
        nonlocal heard
        heard += 1
        last.append(line)
        if line.strip().startswith(_TOLD):
            console.note(line.strip())
        console.on_event(Event("setting up AIMET", heard, None, line))

    try:
        made = make_environment(args.env_path, args.aimet_sdk_tar, base=args.python, cuda=args.cuda, on_line=on_line)
    except PluginError:
        for line in last:
            console.note(line)
        raise
    what = "is there already" if made.existed else "is ready"
    console.note(f"aimet_onnx {made.version} {what}; run the line below, then: npukit quantize ... --engine aimet")
    data = {VARIABLE: str(made.python), "version": made.version, "existed": made.existed}
    console.emit(f"export {VARIABLE}={shlex.quote(str(made.python))}", data)
    return 0


def script_path(args: argparse.Namespace, console: Console) -> int:
    path = str(importlib.resources.files(__package__).joinpath("aimet_env_setup.sh"))
    console.emit(path, {"path": path})
    return 0
