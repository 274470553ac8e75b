"""The argument parser: one sub-parser per command, built without importing anything that a command needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from npukit.cli import (
    analyze,
    backends,
    bench,
    check,
    compare,
    convert,
    demo,
    diff,
    doctor,
    explain,
    export,
    info,
    legalize,
    profile,
    quantize,
    run,
    sweep,
)
from npukit.cli.options import PLUGIN_FLAG, SWITCHES, add_common, join_symbols
from npukit.cli.streams import write
from npukit.errors import PluginError, UsageError, did_you_mean
from npukit.plugins.known import DEFAULT_BACKEND, FLOAT_BACKEND

if TYPE_CHECKING:
    from npukit.plugins.discovery import Found

COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "doctor": doctor,
    "backends": backends,
    "check": check,
    "convert": convert,
    "profile": profile,
    "quantize": quantize,
    "legalize": legalize,
    "run": run,
    "compare": compare,
    "analyze": analyze,
    "sweep": sweep,
    "bench": bench,
    "export": export,
    "info": info,
    "diff": diff,
    "explain": explain,
}

_EPILOG = f"""\
--backend takes NAME or NAME:SOC ({DEFAULT_BACKEND}, {DEFAULT_BACKEND}:v79, {FLOAT_BACKEND}), the same in every command.
stdout is the result (JSON with --json), stderr the progress.
exit codes: 0 fine, 1 the model or its accuracy has problems, 2 usage or environment, 3 a bug
"""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError instead of printing and leaving."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help shows what it takes")


def parse(argv: Sequence[str], note: Callable[[str], object] = lambda text: None) -> argparse.Namespace:
    """The parsed arguments; ``run`` is the function of the command, ``found`` the plugins if they had to be imported.

    ``note`` is told about broken plugins. Raises UsageError with a did-you-mean.
    """
    command, words = _common_last(join_symbols(argv))
    parser = build_parser()
    # Plugins are imported for their commands only where they may be needed: for the overview, and for a name unknown here.
    if command not in COMMANDS:
        found = add_plugin_commands(parser, _plugin_files(words))
        parser.set_defaults(found=found)
        for one in found:
            if one.cause:
                note(f"plugin '{one.name}' is broken: {one.cause}")
    _require_command(command, words, commands_of(parser))
    args, unknown = parser.parse_known_args(words)
    if unknown:
        _refuse(unknown[0], args.parser)
    return args


def build_parser() -> Parser:
    """The parser of npukit's own commands."""
    parser = Parser(
        prog="npukit",
        description="Quantize ONNX models for neural accelerators and run them as the accelerator would.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and leave")
    parser.set_defaults(json=False, quiet=False, verbose=False, plugin=[], found=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for name, module in COMMANDS.items():
        sub = commands.add_parser(
            name, help=module.SUMMARY, description=module.__doc__, formatter_class=_Formatter, allow_abbrev=False
        )
        module.configure(sub)
        add_common(sub)
        sub.set_defaults(run=module.run, parser=sub)
    return parser


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of all commands by name."""
    return dict(_subparsers(parser).choices)


def add_plugin_commands(parser: Parser, plugin_files: Iterable[str] = ()) -> tuple[Found, ...]:
    """Add the commands of all plugins and return the plugins; one whose commands are no good adds none and counts as broken."""
    import attrs

    from npukit.plugins.discovery import contained, discover

    commands, found = _subparsers(parser), []
    for one in discover(plugin_files):
        cause = one.cause or contained(partial(_adopt, one.plugin, commands))[1]
        found.append(attrs.evolve(one, cause=cause))
    return tuple(found)


def _adopt(plugin: object, commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the commands of one plugin: all of them, or none when one is no good."""
    from npukit.plugins.discovery import register_commands

    apart = Parser(prog="npukit").add_subparsers(parser_class=Parser)
    register_commands(plugin, apart)
    for name, sub in apart.choices.items():
        if name in commands.choices:
            whose = "npukit has" if name in COMMANDS else "another plugin has"
            raise PluginError(f"register_commands adds '{name}', which {whose}", hint="choose another name")
        for leaf in _leaves(sub):
            if leaf.get_default("run") is None:
                raise PluginError(f"register_commands adds '{leaf.prog}' without a function", hint="set_defaults(run=function)")
            if leaf.get_default("parser") is not leaf:  # an alias is the same parser under another name
                add_common(leaf)
                leaf.set_defaults(parser=leaf)
    commands.choices.update(apart.choices)
    commands._choices_actions += apart._choices_actions


def _subparsers(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[Parser]:
    (found,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return found


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


def _common_last(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The command, and ``npukit -v check ...`` as ``check ... -v``: the common flags may stand before the command as well."""
    count = 0
    while count < len(argv) and (argv[count] in SWITCHES or argv[count].partition("=")[0] == PLUGIN_FLAG):
        count += 2 if argv[count] == PLUGIN_FLAG else 1
    rest = argv[count:]
    end = rest.index("--") if "--" in rest else len(rest)
    return next((word for word in rest if not word.startswith("-")), None), [*rest[:end], *argv[:count], *rest[end:]]


def _plugin_files(words: Sequence[str]) -> list[str]:
    """The values of --plugin, which are needed before there is a parser that knows the command."""
    spaced = [value for word, value in pairwise(words) if word == PLUGIN_FLAG]
    return spaced + [word.partition("=")[2] for word in words if word.startswith(PLUGIN_FLAG + "=")]


def _require_command(command: str | None, words: Sequence[str], commands: Collection[str]) -> None:
    if any(word in ("-h", "--help", "--version") for word in words[:1]):
        return
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
