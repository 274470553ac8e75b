"""What a plugin needs to add commands to ``npukit``: the console a command gets, and the flags that npukit's own commands share.

The hook ``register_commands`` adds a parser with ``subparsers.add_parser(NAME, help=...)``, the ``add_...`` functions below
give it flags, and ``set_defaults(run=function)`` names what it does. That function gets the parsed arguments and a ``Console``,
and returns the exit code or raises an error of ``npukit.errors``. In it, ``registry_from``, ``source_from``, ``target_from`` and
``options_from`` say what the flags mean. --json, -q, -v and --plugin are added to every command. Importing this is cheap:
neither numpy nor onnx comes with it.

A plugin with console scripts of its own runs them by ``run_script``, so that mistakes end everywhere in the same way.
"""

from __future__ import annotations

from npukit.cli.console import Console
from npukit.cli.files import INDEX, check_writable, result_folder, safe_name
from npukit.cli.options import (
    add_backend,
    add_data,
    add_edges,
    add_kernels,
    add_model_inputs,
    add_overrides,
    add_precision,
    add_strictness,
    existing,
    options_from,
    positive,
    registry_from,
    request_from,
    source_from,
    symbols_from,
    target_from,
)
from npukit.cli.script import run_script

__all__ = [
    "INDEX",
    "Console",
    "add_backend",
    "add_data",
    "add_edges",
    "add_kernels",
    "add_model_inputs",
    "add_overrides",
    "add_precision",
    "add_strictness",
    "check_writable",
    "existing",
    "options_from",
    "positive",
    "registry_from",
    "request_from",
    "result_folder",
    "run_script",
    "safe_name",
    "source_from",
    "symbols_from",
    "target_from",
]
