"""Functions of the user's own, named as text: ``file.py:function`` or ``module.function``."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from npukit.errors import NpukitError, UsageError, did_you_mean, one_line

HINT = "file.py:function or module.function"


def load_function(where: str, label: str, folder: Path = Path()) -> Callable[..., Any]:
    """The function that ``where`` names; a file is looked for in ``folder``, then in the current one, a module where Python looks
    and then there.

    Raises UsageError, which begins with ``label``, for a file, module or function that is not there, and for a module that fails.
    """
    place, colon, name = where.rpartition(":") if ":" in where else where.rpartition(".")
    if not place or not name:
        raise UsageError(f"{label}: '{where}' names no function", hint=HINT)
    try:
        module = _file_module(place, label, folder) if colon == ":" else _module(place, folder)
    except NpukitError:
        raise
    except ModuleNotFoundError as error:
        hint = f"{HINT}; modules are looked for where Python looks (PYTHONPATH), in {folder} and in the current folder"
        raise UsageError(f"{label}: {error}", hint=hint) from None
    except Exception as error:  # whatever the user's module raises
        raise UsageError(f"{label}: importing '{place}' failed: {type(error).__name__}: {error}") from None
    found = getattr(module, name, None)
    if not callable(found):
        names = [n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_")]
        raise UsageError(f"{label}: '{place}' has no function '{name}'", hint=did_you_mean(name, names))
    function: Callable[..., Any] = found
    return function


def _module(place: str, folder: Path) -> ModuleType:
    more = [str(folder.absolute()), str(Path.cwd())]
    sys.path += more  # at the end: a file of the user's must not stand in for a module that others import
    try:
        importlib.invalidate_caches()  # files may be younger than the last look into their folder
        return importlib.import_module(place)
    finally:
        for path in more:
            sys.path.remove(path)


def _file_module(place: str, label: str, folder: Path) -> ModuleType:
    file = next((f for f in (folder / place, Path(place)) if os.path.isfile(f)), None)
    if file is None:
        raise UsageError(f"{label}: file {place} does not exist", hint=f"looked for in {folder} and in the current folder")
    spec = importlib.util.spec_from_file_location(f"npukit_callback_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{label}: {place} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def checked_score(value: Any) -> float:
    """What an evaluator returned, as a float. Raises UsageError for anything else, NaN and infinity included."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"the evaluator returned {type(value).__name__}, not a number") from None
    if not math.isfinite(number):
        raise UsageError(f"the evaluator returned {number}, not a finite number")
    return number


def score_of(evaluate: Callable[..., Any], *arguments: Any) -> float:
    """The score that an evaluator gives. Raises UsageError when it raises anything, or returns no finite number."""
    try:
        value = evaluate(*arguments)
    except NpukitError:
        raise
    except Exception as error:  # whatever the user's function raises
        raise UsageError(f"the evaluator raised {type(error).__name__}: {one_line(error)}") from None
    return checked_score(value)
