"""What the command-line tools have in common: flags with one dash or two, and mistakes as one line on stderr."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from npukit.commands import run_script
from npukit.errors import NpukitError, UsageError

MILLI, MICRO = 1e3, 1e6
"""Milliseconds and microseconds of a second."""


class Parser(argparse.ArgumentParser):
    """Takes long flags with one dash as with two, drops empty words, and raises UsageError instead of leaving."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog, description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The flags in ``words``."""
        return self.parse_args([self._spelled(word) for word in words if word])

    def _spelled(self, word: str) -> str:
        return f"-{word}" if f"-{word.partition('=')[0]}" in self._option_string_actions else word

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} -h shows what it takes")


def guarded(
    name: str,
    work: Callable[[Sequence[str]], int],
    argv: Sequence[str] | None,
    tell: Callable[[NpukitError], None] | None = None,
) -> int:
    """The exit code of ``work``, which gets the words after the tool's name (default: those of the process); ``tell`` prints
    errors of npukit in another way than as one line."""

    def told(error: NpukitError) -> int:
        tell(error) if tell else say(f"{name}: error: {error}")
        return error.exit_code

    words = sys.argv[1:] if argv is None else argv
    return run_script(lambda: work(words), lambda text: say(f"{name}: error: {text}"), told)


def say(text: str) -> None:
    """A line for people, on stderr."""
    print(text, file=sys.stderr)


def number(least: int) -> Callable[[str], int]:
    """A reader of whole numbers from ``least`` on."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number from {least} on")
        return int(text)

    return read
