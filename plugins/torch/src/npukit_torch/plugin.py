"""The entry point of the PyTorch door. torch is imported when a model of it is read, not before."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npukit.errors import PluginError
from npukit.plugins import hookimpl

if TYPE_CHECKING:
    from npukit.graph import Graph


@hookimpl
def load_model(source: Any, example: Any, symbols: Mapping[str, int], batch: int | None) -> Graph | None:
    """The graph of an nn.Module, an ExportedProgram or a .pt2 file; None for anything else.

    Raises PluginError when torch or onnxscript is not installed.
    """
    if not _is_program_file(source) and not _is_torch_object(source):
        return None
    missing = [name for name in ("torch", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        hint = f"pip install {' '.join(missing)}"
        raise PluginError(f"PyTorch models are read with {' and '.join(missing)}, not installed here", hint=hint)
    from npukit_torch.read import read

    return read(source, example, symbols, batch)


def _is_program_file(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike)) and Path(source).suffix == ".pt2"


def _is_torch_object(source: Any) -> bool:
    torch = sys.modules.get("torch")  # objects of a library that nobody has imported do not exist
    return torch is not None and isinstance(source, (torch.nn.Module, torch.export.ExportedProgram))
