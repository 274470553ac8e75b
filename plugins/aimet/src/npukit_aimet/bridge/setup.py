"""Making an AIMET environment: a virtual environment with aimet_onnx in it, or nothing at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from npukit.errors import PluginError, UsageError
from npukit_aimet.bridge.conversation import Limits, Ready, converse
from npukit_aimet.bridge.environment import clean, minimum
from npukit_aimet.bridge.process import Child, ExpiredError, ending, tail_of
from npukit_aimet.bridge.tarball import check_tarball, unpack_wheels

OnLine = Callable[[str], None]
_PATIENCE = 3 * 3600.0
_CPU_BUILDS = "https://download.pytorch.org/whl/cpu"
"""PyTorch's index of CPU builds (https://pytorch.org/get-started). pip takes its 2.1+cpu before the registry's 2.1 (PEP 440)."""
_SHOWN = 15


@attrs.frozen
class Made:
    """An environment that is ready: its Python, the version of aimet_onnx, and whether it was there before."""

    python: Path
    version: str
    existed: bool


def make_environment(
    folder: Path, tarball: Path | None, *, base: str = "", cuda: bool = False, on_line: OnLine = lambda line: None
) -> Made:
    """Make a virtual environment with AIMET at ``folder``, from a release tarball or the package registry.

    PyTorch is a CPU build, unless ``cuda`` or the tarball is one for GPUs.

    An environment that is there and works is left as it is unless there is a tarball to install. ``base`` is the Python to make
    it with. A folder that this call made is gone again when it raises: UsageError for a folder or a tarball that cannot be used,
    PluginError when a step fails (``on_line`` has heard the end of its output).
    """
    folder = folder.absolute()
    is_environment = _check_folder(folder)
    wheels = check_tarball(tarball) if tarball is not None else ()
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    with tempfile.TemporaryDirectory(prefix="npukit-aimet-") as name:
        work = Path(name)
        if is_environment and tarball is None and (ready := _probe(python, work)) is not None:
            return Made(python, ready.version, existed=True)
        with contextlib.nullcontext() if is_environment else _or_nothing(folder):
            if not is_environment:
                on_line(f"making a virtual environment at {folder}")
                _run([base or sys.executable, "-m", "venv", str(folder)], "python -m venv", work, on_line)
            paths = unpack_wheels(tarball, wheels, work) if tarball is not None else []
            wanted = [str(path) for path in paths] or [f"aimet-onnx>={minimum()}"]
            cuda = cuda or (tarball is not None and "torch-gpu" in tarball.name)
            on_line(f"installing AIMET and PyTorch {'with CUDA, some 6.4 GB' if cuda else 'for CPUs, some 2 GB'}: minutes")
            command = [str(python), "-m", "pip", "install", "--no-input", "--progress-bar", "off", *wanted]
            _run(command, "pip", work, on_line, {} if cuda else _cpu_builds())
            on_line("loading AIMET")
            ready = converse(python, ["--probe"], work, Limits())
    return Made(python, ready.version, existed=False)


def _cpu_builds() -> dict[str, str]:
    """The variable that adds the index of CPU builds to those the user has."""
    return {"PIP_EXTRA_INDEX_URL": f"{os.environ.get('PIP_EXTRA_INDEX_URL', '')} {_CPU_BUILDS}".strip()}


def _check_folder(folder: Path) -> bool:
    """Whether ``folder`` is a virtual environment. Raises UsageError when it is something else that is not empty."""
    if not folder.exists():
        if not folder.parent.is_dir():
            raise UsageError(f"there is no folder {folder.parent} to make {folder.name} in")
        return False
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    if (folder / "pyvenv.cfg").is_file():
        return True
    if any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty and no virtual environment", hint="name a folder that is not there yet")
    return False


@contextlib.contextmanager
def _or_nothing(folder: Path) -> Iterator[None]:
    """Undo what happens to a missing or empty folder when the block raises."""
    existed = folder.exists()
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if existed:
            folder.mkdir()
        raise


def _probe(python: Path, work: Path) -> Ready | None:
    """What the environment says of itself, or None when it has no AIMET that the bridge can use."""
    try:
        return converse(python, ["--probe"], work, Limits())
    except PluginError:
        return None


def _run(command: Sequence[str], what: str, work: Path, on_line: OnLine, variables: Mapping[str, str] | None = None) -> None:
    """Run a step with more environment ``variables``, its lines to ``on_line``.

    Raises PluginError when it fails or takes for ever.
    """
    log = work / "setup.log"
    deadline = time.monotonic() + _PATIENCE
    try:
        with Child(command, work, clean(os.environ, **(variables or {})), log=log, merged=True) as child:
            while (line := child.line(deadline)) is not None:
                on_line(line)
            code = child.exit_code(deadline)
    except ExpiredError:
        raise PluginError(f"{what} was stopped after {_PATIENCE:g} s") from None
    if code:
        errors = [line for line in tail_of(log, _SHOWN) if line.startswith(("ERROR", "error", "Error"))]
        said = (errors or tail_of(log, 1) or ["nothing"])[-1]
        raise PluginError(
            f"{what} {ending(code)}: {said}", hint="the lines above tell more; PIP_CONSTRAINT and PIP_INDEX_URL reach pip"
        )
