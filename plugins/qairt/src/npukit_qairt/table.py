"""Flags as data: one row each. The rows make the parser, the help, the page in the docs and the list that the tests walk."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import attrs

from npukit.errors import UsageError, did_you_mean

_KINDS: Mapping[str, Callable[[str], Any]] = {"text": str, "int": int, "float": float}


@attrs.frozen
class Flag:
    """One flag: its spelling, the short form, and either what it does here (``help``) or why it is ``refused`` and what to do
    ``instead``.

    ``kind`` is text, int, float or switch; ``nargs`` as in argparse; ``repeat`` collects several uses; ``old`` are earlier
    spellings, taken with a warning. ``counts`` says that its effect shows in tensors, which are counted; ``idle`` says why a flag
    never has one. ``dest`` is the attribute of the parsed arguments where the name is not it.
    """

    name: str
    short: str = ""
    help: str = ""
    kind: str = "text"
    nargs: int | str | None = None
    metavar: str | tuple[str, ...] = ""
    choices: tuple[Any, ...] = ()
    default: Any = None
    required: bool = False
    repeat: bool = False
    counts: bool = False
    old: tuple[str, ...] = ()
    refused: str = ""
    instead: str = ""
    idle: str = ""
    dest: str = ""

    @property
    def key(self) -> str:
        """The attribute of the parsed arguments: ``dest``, or as the flag is called."""
        return self.dest or self.name.lstrip("-")

    @property
    def absent(self) -> Any:
        """What the parsed arguments hold when the flag is not given."""
        return [] if self.repeat else False if self.kind == "switch" else self.default


@attrs.frozen
class Tool:
    """A command with its flags."""

    name: str
    title: str
    flags: tuple[Flag, ...]

    def flag(self, name: str) -> Flag:
        return next(flag for flag in self.flags if flag.name == name)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help lists the flags")


def parse(tool: Tool, argv: Sequence[str], note: Callable[[str], object]) -> argparse.Namespace:
    """The arguments; ``given`` lists the flags that were named. Hyphens stand for underscores; ``note`` hears of old spellings.

    Raises UsageError for unknown and refused flags, and for values that are not allowed.
    """
    words, given = _spelled(tool, argv, note)
    args = parser(tool, complete="--version" not in given).parse_args(words)
    args.given = tuple(dict.fromkeys(given))
    for flag in (tool.flag(name) for name in args.given):
        if flag.idle:
            note(f"{flag.name}: 0 tensors affected ({flag.idle})")
    return args


def spelled_out(tool: Tool, values: Mapping[str, Any], command_line: str) -> argparse.Namespace:
    """Arguments of a tool as if they had been parsed: ``values`` by key, all others absent."""
    args = argparse.Namespace(**{flag.key: flag.absent for flag in tool.flags})
    vars(args).update(values)
    args.given = tuple(flag.name for flag in tool.flags if flag.key in values and values[flag.key] != flag.absent)
    args.command_line = command_line
    return args


def parser(tool: Tool, *, complete: bool = True) -> argparse.ArgumentParser:
    """An argparse parser of the flags that are not refused; not ``complete`` it asks for none of them."""
    refused = [flag.name for flag in tool.flags if flag.refused]
    made = _Parser(
        prog=tool.name,
        description=tool.title,
        epilog=f"refused, each with what to do instead: {', '.join(refused)}" if refused else None,
        allow_abbrev=False,
    )
    for flag in tool.flags:
        if flag.refused or flag.name == "--help":
            continue
        text = flag.help or f"changes nothing: {flag.idle}"
        options: dict[str, Any] = {"help": text.replace("%", "%%"), "dest": flag.key}
        if flag.kind == "switch":
            made.add_argument(flag.name, action="store_true", **options)
            continue
        options |= {"type": _KINDS[flag.kind], "nargs": flag.nargs, "default": flag.absent, "required": flag.required and complete}
        options |= {"metavar": flag.metavar} if flag.metavar else {}
        options |= {"choices": flag.choices} if flag.choices else {}
        options |= {"action": "append"} if flag.repeat else {}
        if flag.nargs == "?":
            options["const"] = flag.choices[0] if flag.choices else 1
        made.add_argument(flag.name, **options)
    return made


def _spelled(tool: Tool, argv: Sequence[str], note: Callable[[str], object]) -> tuple[list[str], list[str]]:
    """The words with every flag in its one spelling and a single value joined to it, and the flags that were named."""
    known = {flag.name: flag for flag in tool.flags} | {flag.short: flag for flag in tool.flags if flag.short}
    old = {name: flag for flag in tool.flags for name in flag.old}
    words: list[str] = []
    given: list[str] = []
    waiting: Flag | None = None
    for word in argv:
        if waiting is not None:
            words.append(f"{waiting.name}={word}")
            waiting = None
            continue
        body, equals, value = word.partition("=")
        spelling = f"--{body[2:].replace('-', '_')}" if body.startswith("--") else body
        if spelling in ("-h", "--help"):
            words.append("--help")
            continue
        flag = known.get(spelling) or old.get(spelling)
        if flag is None:
            if body.startswith("--") or (len(body) > 1 and body[0] == "-" and body[1].isalpha()):
                raise UsageError(f"{tool.name} has no flag {body}", hint=did_you_mean(body, [*known, *old]), code="unknown-flag")
            words.append(word)
            continue
        if spelling in old:
            note(f"warning: {spelling} is an old spelling of {flag.name}")
        if flag.refused:
            raise UsageError(f"{flag.name}: {flag.refused}", hint=flag.instead, code="refused-flag")
        given.append(flag.name)
        if flag.nargs is None and flag.kind != "switch" and not equals:
            waiting = flag
        else:
            words.append(flag.name + equals + value)
    return ([*words, waiting.name] if waiting else words), given
