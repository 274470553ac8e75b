"""The commands that plugins add: where they come from, and what happens to those that are no good."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from npukit.cli import main
from npukit.cli.parser import COMMANDS

COMMAND = """\
from npukit.commands import add_data
from npukit.plugins import hookimpl


def run(args, console):
    console.note("here it comes")
    console.emit(f"limit {args.limit}", {"limit": args.limit})
    return 0


@hookimpl
def register_commands(subparsers):
    parser = subparsers.add_parser("count", help="say the limit", aliases=["number"])
    add_data(parser, required=False)
    parser.set_defaults(run=run)
"""
BROKEN = {
    "raises": ("raise ValueError('boom\\nand more')", "ValueError: boom and more"),
    "leaves": ("raise SystemExit(3)", "SystemExit: 3"),
    "shadows": ("subparsers.add_parser('check').set_defaults(run=print)", "register_commands adds 'check', which npukit has"),
    "takes": ("subparsers.add_parser('aimet').set_defaults(run=print)", "register_commands adds 'aimet', which another plugin has"),
    "does nothing": ("subparsers.add_parser('idle')", "register_commands adds 'npukit idle' without a function"),
}


@pytest.fixture
def counting(tmp_path: Path) -> str:
    path = tmp_path / "counting.py"
    path.write_text(COMMAND, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["count", "number"])
@pytest.mark.parametrize("place", ["before", "after", "joined"])
def test_a_plugin_file_brings_commands(name: str, place: str, counting: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--plugin may stand before or behind the command that it brings, and the common flags work with it."""
    flags = {"before": [["-q", "--plugin", counting], []], "after": [[], ["--plugin", counting, "-q"]]}
    before, after = flags.get(place, [[f"--plugin={counting}", "-q"], []])
    assert main([*before, name, "--limit", "3", "--json", *after]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"limit": 3}
    assert shown.err == ""


def test_common_flags_before_nested_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """`npukit --json aimet script` is `npukit aimet script --json`: the flag reaches the innermost command."""
    assert main(["--json", "aimet", "script"]) == 0
    assert json.loads(capsys.readouterr().out)["path"].endswith(".sh")


def test_help_lists_the_commands_of_a_file(counting: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The overview with --plugin has the command, and without it has not."""
    assert main(["--help", "--plugin", counting]) == 0
    assert "say the limit" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "say the limit" not in capsys.readouterr().out


def test_a_plugin_file_is_run_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that asks for the registry gets the plugins that brought it, not a second copy of them."""
    path = tmp_path / "once.py"
    path.write_text(COMMAND.replace("run(args, console):", "run(args, console):\n    registry_from(args)").replace(
        "import add_data", "import add_data, registry_from") + "print('imported')\n", encoding="utf-8")  # fmt: skip
    assert main(["count", "--plugin", str(path)]) == 0
    assert capsys.readouterr().out.count("imported") == 1


@pytest.mark.parametrize("case", BROKEN)
def test_broken_commands_stop_nobody(case: str, tmp_path: Path, counting: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands that are no good are left out with one line that names the plugin; `npukit backends` and `doctor` show it broken."""
    body, cause = BROKEN[case]
    path = tmp_path / "spoiler.py"
    # What was added before it went wrong is not there either.
    path.write_text(
        "from npukit.plugins import hookimpl\n\n\n@hookimpl\ndef register_commands(subparsers):\n"
        f"    subparsers.add_parser('first').set_defaults(run=print)\n    {body}\n",
        encoding="utf-8",
    )
    files = ["--plugin", str(path), "--plugin", counting]
    assert main(["count", *files]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "here it comes"
    assert [line.startswith(f"plugin 'spoiler' is broken: {expected(cause)}") for line in lines[:-1]] == [True]
    assert main(["first", *files, "-q"]) == 2
    assert "there is no command 'first'" in capsys.readouterr().err
    assert main(["backends", "--json", *files]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["backends"]}
    assert expected(cause) in rows["spoiler"]["cause"]
    assert rows["htp"]["state"] == "ok"
    assert main(["doctor", "--json", *files]) == 2
    assert json.loads(capsys.readouterr().out)["broken"] == ["plugin spoiler"]


def expected(cause: str) -> str:
    """The cause as it is shown: npukit's own refusals have the class of its error before them."""
    return f"PluginError: {cause}" if cause.startswith("register_commands") else cause


def test_a_conflicting_flag_is_contained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that defines --json itself, which every command gets, is refused by name and stops nobody."""
    path = tmp_path / "greedy.py"
    path.write_text(COMMAND.replace("add_data(parser, required=False)", "parser.add_argument('--json')"), encoding="utf-8")
    assert main(["--help", "--plugin", str(path)]) == 0
    shown = capsys.readouterr()
    assert "plugin 'greedy' is broken: ArgumentError: argument --json: conflicting option string" in shown.err
    assert all(f"    {name} " in shown.out for name in COMMANDS)


@pytest.mark.parametrize(("left", "code", "text"), [("'no luck'", 1, "error: no luck\n"), ("4", 4, ""), ("None", 0, "")])
def test_a_command_that_exits(left: str, code: int, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """sys.exit in the command of a plugin means what it means in Python: a message is an error."""
    path = tmp_path / "leaver.py"
    path.write_text(COMMAND.replace('console.note("here it comes")', f"raise SystemExit({left})"), encoding="utf-8")
    assert main(["count", "--plugin", str(path)]) == code
    assert capsys.readouterr().err == text


def test_the_public_module_is_light() -> None:
    """npukit.commands, and a plugin command's --help, come without numpy and onnx."""
    heavy = "{'numpy', 'onnx', 'onnxruntime', 'yaml', 'npukit.backend', 'npukit.quantization'}"
    code = (
        "import sys, npukit.commands; from npukit.cli import main; main(['aimet', 'setup-env', '--help']); "
        f"sys.exit(str(sorted({heavy} & set(sys.modules)) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr.strip() == ""
    assert "--env_path" in done.stdout
