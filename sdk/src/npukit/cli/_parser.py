"""The argument parser: one sub-parser per command, built without importing anything that a command needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator, Sequence
from types import ModuleType
from typing import NoReturn

from npukit.cli import (
    _analyze,
    _backends,
    _bench,
    _check,
    _compare,
    _convert,
    _demo,
    _diff,
    _doctor,
    _explain,
    _export,
    _info,
    _legalize,
    _quantize,
    _run,
)
from npukit.cli._options import SWITCHES, add_common, join_symbols
from npukit.cli._streams import write
from npukit.errors import UsageError, did_you_mean

COMMANDS: dict[str, ModuleType] = {
    "demo": _demo,
    "doctor": _doctor,
    "backends": _backends,
    "check": _check,
    "convert": _convert,
    "quantize": _quantize,
    "legalize": _legalize,
    "run": _run,
    "compare": _compare,
    "analyze": _analyze,
    "bench": _bench,
    "export": _export,
    "info": _info,
    "diff": _diff,
    "explain": _explain,
}

_EPILOG = """\
--backend takes NAME or NAME:SOC (htp, htp:sm8750, htp:v79, cpu), the same in every command.
stdout is the result (JSON with --json), stderr the progress.
exit codes: 0 fine, 1 the model or its accuracy has problems, 2 usage or environment, 3 a bug
"""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError instead of printing and leaving."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help shows what it takes")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The parsed arguments; ``run`` is the function of the command. Raises UsageError with a did-you-mean."""
    words = join_symbols(_switches_last(argv))
    command = next((word for word in words if not word.startswith("-")), None)
    # Plugins are imported for their commands only where they may be needed: for the overview, and for a name unknown here.
    parser = build_parser(plugins=command not in COMMANDS)
    _require_command(words, commands_of(parser))
    args, unknown = parser.parse_known_args(words)
    if unknown:
        _refuse(unknown[0], args.parser)
    return args


def build_parser(*, plugins: bool = True) -> Parser:
    """The whole parser; the commands of plugins only if asked for."""
    parser = Parser(
        prog="npukit",
        description="Quantize ONNX models for neural accelerators and run them as the accelerator would.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and leave")
    parser.set_defaults(json=False, quiet=False, verbose=False, plugin=[])
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for name, module in COMMANDS.items():
        sub = commands.add_parser(
            name, help=module.SUMMARY, description=module.__doc__, formatter_class=_Formatter, allow_abbrev=False
        )
        module.configure(sub)
        add_common(sub)
        sub.set_defaults(run=module.run, parser=sub)
    if plugins:
        _add_plugin_commands(commands)
    return parser


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of all commands by name."""
    (found,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def _add_plugin_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    from npukit.plugins.commands import add_commands

    own = set(commands.choices)
    add_commands(commands)
    for name, sub in commands.choices.items():
        if name not in own:
            for leaf in _leaves(sub):
                add_common(leaf)
                leaf.set_defaults(parser=leaf)


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers below one that have no sub-commands of their own."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield parser
    for action in below:
        for sub in action.choices.values():
            yield from _leaves(sub)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description, which is the docstring of the command's module."""


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from npukit import __version__

        write(sys.stdout, f"npukit {__version__}\n")
        parser.exit()


def _switches_last(argv: Sequence[str]) -> list[str]:
    """``npukit -v check ...`` as ``npukit check ... -v``: the common switches may stand before the command as well."""
    count = next((i for i, word in enumerate(argv) if word not in SWITCHES), len(argv))
    return [*argv[count : count + 1], *argv[:count], *argv[count + 1 :]]


def _require_command(argv: Sequence[str], commands: Collection[str]) -> None:
    if any(word in ("-h", "--help", "--version") for word in argv[:1]):
        return
    command = next((word for word in argv if not word.startswith("-")), None)
    if command is None:
        raise UsageError("no command given", hint=f"one of {', '.join(commands)}; npukit --help says more")
    if command not in commands:
        raise UsageError(f"there is no command '{command}'", hint=did_you_mean(command, commands), code="unknown-command")


def _refuse(word: str, parser: argparse.ArgumentParser) -> NoReturn:
    if not word.startswith("-"):
        raise UsageError(f"unexpected argument '{word}'", hint=f"{parser.prog} --help shows what it takes")
    flag = word.partition("=")[0]
    known = [option for action in parser._actions for option in action.option_strings]
    raise UsageError(f"{parser.prog} has no flag {flag}", hint=did_you_mean(flag, known), code="unknown-flag")
