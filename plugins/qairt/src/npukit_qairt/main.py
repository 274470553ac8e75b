"""The console scripts: one function each. All mistakes end with one line on stderr and exit code 2."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence

from npukit.commands import run_script
from npukit.errors import NpukitError, UsageError
from npukit_qairt.flags import TOOLS
from npukit_qairt.flags.debugger import ADVICE
from npukit_qairt.table import Tool, parse

# Tool -> the module whose run(args, note) does the work.
_MODULES = {
    "qairt-converter": "converter",
    "qairt-quantizer": "quantizer",
    "qairt-dlc-info": "info",
    "qairt-dlc-diff": "diff",
    "qairt-accuracy-debugger": "debugger",
    "qnn-net-run": "net_run",
    "snpe-net-run": "snpe_net_run",
    "snpe-dlc-quant": "snpe_quant",
    "snpe-dlc-quantize": "snpe_quant",
    "snpe-dlc-info": "info",
    "snpe-dlc-diff": "diff",
}


def main(name: str, argv: Sequence[str] | None = None) -> int:
    """Run a tool with ``argv`` (default: the process arguments) and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        try:
            tool, rest = _tool(name, words)
            args = parse(tool, rest, say)
            args.command_line = " ".join([name, *words])
            code: int = importlib.import_module(f"npukit_qairt.{_MODULES[name]}").run(args)
            return code
        except Exception as error:
            if any(word.startswith("--debug") for word in words) and not isinstance(error, NpukitError | OSError):
                traceback.print_exc()
            raise

    def told(error: NpukitError) -> int:
        say(f"error: {error}")
        return 2

    bug = "a bug of npukit or of a plugin; --debug shows where"
    return run_script(work, lambda text: say(f"error: {text}"), told, bug=bug)


def _tool(name: str, words: list[str]) -> tuple[Tool, list[str]]:
    """The tool, or the verb of it that the first words name, and the words that are left."""
    for count in (0, 1, 2):
        found = TOOLS.get(" ".join([name, *words[:count]]))
        if found is not None:
            return found, words[count:]
    verbs = [key.removeprefix(f"{name} ") for key in TOOLS if key.startswith(f"{name} ")]
    refused = next((verb for verb in ADVICE if " ".join(words).startswith(verb)), None)
    if refused is not None:
        raise UsageError(f"{name} {refused} is not here", hint=ADVICE[refused])
    raise UsageError(f"{name} needs a verb", hint=f"one of {', '.join(verbs)}")


def say(text: str) -> None:
    """A line for people, on stderr."""
    print(text, file=sys.stderr)


def qairt_converter() -> int:
    return main("qairt-converter")


def qairt_quantizer() -> int:
    return main("qairt-quantizer")


def qairt_dlc_info() -> int:
    return main("qairt-dlc-info")


def qairt_dlc_diff() -> int:
    return main("qairt-dlc-diff")


def qairt_accuracy_debugger() -> int:
    return main("qairt-accuracy-debugger")


def qnn_net_run() -> int:
    return main("qnn-net-run")


def snpe_net_run() -> int:
    return main("snpe-net-run")


def snpe_dlc_quant() -> int:
    return main("snpe-dlc-quant")


def snpe_dlc_quantize() -> int:
    return main("snpe-dlc-quantize")


def snpe_dlc_info() -> int:
    return main("snpe-dlc-info")


def snpe_dlc_diff() -> int:
    return main("snpe-dlc-diff")
