"""Files of the vendor's own tools."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

from npukit.errors import UsageError

# Members that a DLC of the vendor's tools has, by how their names begin, and npukit's has not.
_MEMBERS = ("dlc.metadata", "model.params", "model.json")


def refuse_vendor_dlc(source: Any) -> None:
    """Raise UsageError when ``source`` is the path of a DLC that the vendor's tools wrote."""
    if not isinstance(source, str | os.PathLike) or not Path(source).is_file():
        return
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return
    if "manifest.json" in names:
        return
    if "model" in names or any(name.startswith(_MEMBERS) for name in names):
        hint = "convert its ONNX source with qairt-converter, or run it with the vendor's qnn-net-run"
        raise UsageError(f"{source} is a DLC of the vendor's tools, whose graph npukit does not read", hint=hint, code="vendor-dlc")
