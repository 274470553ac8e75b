"""The algorithms of the quantizer: which, in what order, computed where."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from npukit.backend import read_yaml
from npukit.errors import UsageError, did_you_mean

_ORDER = ("cle", "adaround", "amp")
_ROOT = "aimet_quantizer"
_VARIABLE = "AIMET_ENV_PYTHON"


@attrs.frozen
class Algorithms:
    """``names`` in the order in which they run, the file that configures them, the engine, and what to say about it."""

    names: tuple[str, ...] = ()
    config: Path | None = None
    engine: str = ""
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return ",".join(self.names)


def chosen_algorithms(args: Namespace) -> Algorithms:
    """What --apply_algorithms, --use_aimet_quantizer and --config ask for; without --apply_algorithms what the file configures.

    Raises UsageError for algorithms that need AIMET's flags, and for a file with other keys.
    """
    if not args.use_aimet_quantizer:
        if args.config:
            raise UsageError("--config is for adaround and amp", hint="add --use_aimet_quantizer")
        names = args.apply_algorithms or ()
        if set(names) - {"cle"}:
            raise UsageError("adaround and amp need --use_aimet_quantizer and --config FILE.yaml")
        return Algorithms(tuple(names))
    if not args.config:
        raise UsageError("--use_aimet_quantizer needs --config FILE.yaml", hint="aimet_quantizer: datasets, adaround or amp below")
    if not args.input_list:
        raise UsageError("--use_aimet_quantizer needs --input_list")
    path = Path(args.config)
    configured = _sections(path)
    wanted = args.apply_algorithms or configured
    missing = [name for name in wanted if name != "cle" and name not in configured]
    if missing:
        raise UsageError(f"{path}: '{missing[0]}' is asked for and not configured", hint=f"{_ROOT}: {missing[0]}: ...")
    names = tuple(name for name in _ORDER if name in wanted)
    engine = "aimet" if os.environ.get(_VARIABLE) and "amp" not in names else ""
    where = f"AIMET of {os.environ[_VARIABLE]}" if engine else "npukit's own"
    return Algorithms(names, path, engine, (f"algorithms: {', '.join(names)}, computed by {where}",))


def _sections(path: Path) -> tuple[str, ...]:
    """The algorithms that a file configures."""
    document: Any = read_yaml(path, "--config")
    if not isinstance(document, Mapping) or set(document) != {_ROOT} or not isinstance(document[_ROOT], Mapping):
        raise UsageError(f"{path}: there must be one key at the top, {_ROOT}")
    known = ("datasets", *_ORDER[1:])
    for key in document[_ROOT]:
        if key not in known:
            raise UsageError(f"{path}: $.{key} is not known", hint=did_you_mean(str(key), known))
    found = tuple(name for name in _ORDER if name in document[_ROOT])
    if not found:
        raise UsageError(f"{path} configures neither adaround nor amp")
    return found
