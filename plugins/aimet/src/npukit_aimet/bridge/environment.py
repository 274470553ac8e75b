"""Which AIMET environment there is, and whether it is new enough."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from npukit.errors import PluginError

VARIABLE = "AIMET_ENV_PYTHON"
Version: TypeAlias = tuple[int, int, int]
MINIMUM: Version = (1, 33, 0)
SETUP_HINT = "npukit aimet setup-env --env_path DIR makes one; then run the export line that it prints"


def interpreter(environ: Mapping[str, str] = os.environ) -> Path:
    """The Python that AIMET_ENV_PYTHON names. Raises PluginError when it is not set or names no executable file."""
    text = environ.get(VARIABLE, "")
    if not text:
        raise PluginError(f"engine 'aimet' needs an AIMET environment, but {VARIABLE} is not set", hint=SETUP_HINT)
    path = Path(text).absolute()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise PluginError(f"{VARIABLE} is '{text}', which is no executable file", hint=SETUP_HINT)
    return path


def parse_version(text: str) -> Version | None:
    """Major, minor and patch level, or None when ``text`` does not begin with a version."""
    found = re.match(r"(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?(?!\d)", text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def too_old(text: str) -> bool:
    """Whether a version is below the minimum, or none at all."""
    version = parse_version(text)
    return version is None or version < MINIMUM


def minimum() -> str:
    return ".".join(map(str, MINIMUM))


def clean(environ: Mapping[str, str], **more: str) -> dict[str, str]:
    """The variables for another Python: without those that would lead it to the modules of this one."""
    kept = {name: value for name, value in environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")}
    return {**kept, "PYTHONNOUSERSITE": "1", "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1", **more}
