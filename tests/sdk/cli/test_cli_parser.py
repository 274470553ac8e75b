"""What the command line accepts, and what it says about the rest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import npukit
from npukit.cli import main
from npukit.cli.explain import TEXTS
from npukit.cli.main import _os_message
from npukit.cli.options import join_symbols, symbols_from
from npukit.cli.parser import COMMANDS, build_parser, parse
from npukit.errors import UsageError


def test_common_flags_work_on_both_sides_of_the_command() -> None:
    """``npukit -v check m`` and ``npukit check m -v`` mean the same."""
    before, after = parse(["-v", "--json", "check", "m.onnx"]), parse(["check", "m.onnx", "-v", "--json"])
    assert (before.verbose, before.json, before.model) == (True, True, "m.onnx")
    assert vars(before) | {"parser": None} == vars(after) | {"parser": None}


def test_symbols_in_both_spellings() -> None:
    """NAME=VALUE and NAME VALUE bind the same symbol, and the model that follows is not swallowed."""
    for words in (["N=2"], ["N", "2"]):
        args = parse(["check", "--onnx-define-symbol", *words, "m.onnx"])
        assert symbols_from(args) == {"N": 2}
        assert args.model == "m.onnx"
    several = parse(["check", "--onnx-define-symbol", "N", "2", "--onnx-define-symbol", "M", "3", "m.onnx"])
    assert symbols_from(several) == {"N": 2, "M": 3}
    assert join_symbols(["--onnx-define-symbol", "N=2", "3"]) == ["--onnx-define-symbol", "N=2", "3"]


@pytest.mark.parametrize("word", ["N", "N=", "=2", "N=0", "N=-1", "N=x"])
def test_bad_symbols_are_refused(word: str) -> None:
    """Anything but a name and a number above 0 is a usage error that quotes it."""
    with pytest.raises(UsageError, match="NAME=VALUE"):
        symbols_from(parse(["check", "m.onnx", f"--onnx-define-symbol={word}"]))


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["chek"], "did you mean 'check'?"),
        (["check", "m.onnx", "--bakend=htp"], "did you mean '--backend'?"),
    ],
)
def test_typos_come_with_what_was_meant(argv: list[str], hint: str) -> None:
    """A command and a flag that do not exist each name the closest one that does."""
    with pytest.raises(UsageError) as caught:
        parse(argv)
    assert caught.value.hint == hint


def test_flags_are_not_abbreviated() -> None:
    """``--back`` is refused: an abbreviation changes its meaning when a flag is added."""
    with pytest.raises(UsageError, match="no flag --back"):
        parse(["check", "m.onnx", "--back", "htp"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_the_common_flags(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help page of a command explains it and lists --json, -q, -v and --plugin."""
    assert main([command, "--help"]) == 0
    page = capsys.readouterr().out
    assert all(flag in page for flag in ("--json", "--quiet", "--verbose", "--plugin"))
    assert COMMANDS[command].SUMMARY in build_parser().format_help()


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["check", __file__, "--weights", "itn8"], "did you mean 'int8'?"),
        (["quantize", __file__, "-o", "x", "--calibration", "percentil"], "did you mean 'percentile'?"),
        (["check", __file__, "--node-type", "n=float61"], "did you mean 'float16'?"),
        (["quantize", __file__, "-o", "x", "--edge", "x=uint8:NHWCC"], "did you mean 'NHWC'?"),
    ],
)
def test_unknown_values_are_usage_errors(argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that does not exist is the user's typo, not a problem of the model: exit code 2 and the closest one."""
    assert main(argv) == 2
    assert hint in capsys.readouterr().err


def test_every_error_code_is_explained() -> None:
    """The codes that errors carry by default are all known to ``explain``."""
    from npukit import errors

    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.NpukitError)]
    codes = {c.default_code for c in classes} - {errors.NpukitError.default_code}
    assert codes <= set(TEXTS)


def test_every_code_and_rule_in_the_sdk_is_explained() -> None:
    """Whatever code an error of the sdk carries, and whatever rule a problem names, ``explain`` knows it."""
    found = set()
    for path in Path(npukit.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'code="([a-z0-9-]+)"', text))
        found |= set(re.findall(r'(?:Problem\("\w+", |\breport\(\s*)"([a-z0-9-]+)"', text))
    assert {"edge", "power-of-two", "no-kernel", "fixed-grid"} <= found
    assert found <= set(TEXTS)


def test_an_os_error_names_its_file() -> None:
    """The line of an operating system error is the file and the reason."""
    assert _os_message(PermissionError(13, "Permission denied", "a.dlc")) == "a.dlc: Permission denied"
