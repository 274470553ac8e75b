"""The names of backends in QAIRT's flags."""

from __future__ import annotations

import re
from pathlib import Path

from npukit.backend import Target
from npukit.errors import UsageError
from npukit.package import Manifest
from npukit.plugins import Registry

_LIBRARY = re.compile(r"(?:lib)?Qnn(\w+?)\.(?:so|dll)", re.IGNORECASE)
# The vendor's names for what has another one here.
_NAMES = {"cpu": "cpu:qdq"}


def target_of(registry: Registry, name: str | None, soc: str | None, manifest: Manifest | None = None) -> Target:
    """The target that ``--target_backend`` (or ``--backend``) and ``--target_soc_model`` name, else that of the package, else HTP.

    ``name`` is the vendor's (HTP, libQnnHtp.so) or that of a backend here, with or without a chip. Raises UsageError.
    """
    selection = manifest.selection if manifest is not None and manifest.backend else None
    if soc and not name and selection is None:
        raise UsageError("--target_soc_model needs --target_backend", hint="--target_backend HTP")
    wanted = name or ""
    library = _LIBRARY.fullmatch(Path(wanted).name)
    wanted = library[1] if library else wanted
    wanted = _NAMES.get(wanted.lower(), wanted)
    try:
        return registry.target(wanted, soc=soc or "", made_for=selection)
    except UsageError as error:
        known = ", ".join(backend.name for backend in registry.backends())
        hint = error.hint or f"backends here: {known}"
        if error.code == "unknown-backend":
            hint = f"backends here: {known}; a plugin brings others"
        raise UsageError(error.message, hint=hint, code=error.code) from None
