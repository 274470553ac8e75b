"""Flags that several commands share, and what they become: a Registry, Options, symbols."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npukit.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from npukit.plugins import Registry
    from npukit.quantization import Options

CALIBRATIONS = ("min-max", "percentile", "entropy", "mse", "sqnr")
_SYMBOL_FLAG = "--onnx-define-symbol"
# The common flags that take no value.
SWITCHES = ("--json", "-q", "--quiet", "-v", "--verbose")


def add_common(parser: argparse.ArgumentParser) -> None:
    """The flags of every command."""
    group = parser.add_argument_group("common")
    group.add_argument("--json", action="store_true", help="print the result as JSON")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    group.add_argument("-v", "--verbose", action="store_true", help="show the traceback of a bug")
    group.add_argument(
        "--plugin", action="append", default=[], metavar="FILE.py", help="load a plugin from a file (may be repeated)"
    )


def add_backend(parser: argparse.ArgumentParser, *, default: str = "htp", many: bool = False) -> None:
    """``--backend``, ``--soc``, ``--soc-file``."""
    group = parser.add_argument_group("backend")
    metavar = "NAME[:SOC],..." if many else "NAME[:SOC]"
    what = "backends to compare, separated by commas" if many else "accelerator and chip"
    group.add_argument("--backend", default=default, metavar=metavar, help=f"{what} (default: {default})")
    if not many:
        group.add_argument("--soc", default="", metavar="NAME", help="chip or architecture, same as the part after the colon")
    group.add_argument("--soc-file", metavar="FILE.yaml", help="chips of your own: rows with name and arch")


def add_kernels(parser: argparse.ArgumentParser) -> None:
    """``--kernels``."""
    parser.add_argument(
        "--kernels",
        choices=("numpy", "fast"),
        default="",
        help="how an emulator computes: numpy is the definition, fast gives the same on ONNX Runtime (default where installed)",
    )


def add_model_inputs(parser: argparse.ArgumentParser) -> None:
    """Flags that make the shapes of a model static."""
    group = parser.add_argument_group("model")
    group.add_argument(
        _SYMBOL_FLAG, action="append", default=[], metavar="NAME=VALUE", dest="symbols", help="bind a symbolic dimension"
    )
    group.add_argument("--batch", type=positive, metavar="N", help="bind the first dimension of every input")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """The types of activations and weights."""
    group = parser.add_argument_group("precision")
    group.add_argument("--activations", default="", metavar="TYPE", help="uint8, uint16, float16 ... (default: the backend's)")
    group.add_argument("--weights", default="", metavar="TYPE", help="int8, int4, int16 ... (default: the backend's)")
    channel = group.add_mutually_exclusive_group()
    channel.add_argument("--per-channel", dest="per_channel", action="store_const", const=True, help="one scale per channel")
    channel.add_argument("--per-tensor", dest="per_channel", action="store_const", const=False, help="one scale per weight")
    group.add_argument(
        "--float-fallback", action="store_true", help="run in float what the backend cannot run quantized, instead of refusing"
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Encodings that the user brings."""
    group = parser.add_argument_group("overrides")
    group.add_argument("--overrides", metavar="FILE", help="encodings JSON (AIMET 0.6.1, 1.0.0, 2.0.0) that wins over calibration")
    group.add_argument("--lenient", action="store_true", help="skip overrides that match no tensor instead of refusing them")


def add_data(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Input data."""
    parser.add_argument(
        "--data", required=required, metavar="D", help="a folder of .npy or .raw files, an .npz file, or an input list"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="use the first N samples only")


def positive(text: str) -> int:
    """An int above 0, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


# argparse names the type in its message: "invalid whole number value: 'x'".
positive.__name__ = "whole number"


def join_symbols(argv: Sequence[str]) -> list[str]:
    """``--onnx-define-symbol NAME VALUE`` (the spelling of qairt-converter) as ``--onnx-define-symbol NAME=VALUE``."""
    words: list[str] = []
    for word in argv:
        # The last two words are the flag and a bare name: this one is its value.
        if words[-2:-1] == [_SYMBOL_FLAG] and "=" not in words[-1] and word.isdigit():
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def symbols_from(args: argparse.Namespace) -> dict[str, int]:
    """The bound symbols. Raises UsageError for anything but NAME=VALUE with a number above 0."""
    found: dict[str, int] = {}
    for word in args.symbols:
        name, _, value = word.partition("=")
        if not name or not value.isdigit() or int(value) < 1:
            raise UsageError(f"{_SYMBOL_FLAG} takes NAME=VALUE with a number above 0, found '{word}'")
        found[name] = int(value)
    return found


def registry_from(args: argparse.Namespace) -> Registry:
    """The installed plugins and the ones of ``--plugin``."""
    from npukit.plugins import Registry

    return Registry.load([Path(path) for path in args.plugin])


def options_from(args: argparse.Namespace) -> Options:
    """The quantization options that the flags of this command give; what a command has no flag for keeps its default.

    Raises UsageError for a type that does not exist.
    """
    from npukit.encoding import FLOAT_BITS, INT_BITS
    from npukit.quantization import Options

    for flag in ("activations", "weights"):
        given_type = getattr(args, flag, "")
        if given_type and given_type not in (*INT_BITS, *FLOAT_BITS):
            hint = did_you_mean(given_type, [*INT_BITS, *FLOAT_BITS])
            raise UsageError(f"--{flag}: there is no type '{given_type}'", hint=hint)

    known = ("activations", "weights", "per_channel", "calibration", "percentile", "float_fallback", "strict", "seed", "limit")
    given: dict[str, Any] = {name: getattr(args, name) for name in (*known, "legalize") if hasattr(args, name)}
    return Options(**given)


def calibration(text: str) -> str:
    """A calibration method, for argparse."""
    if text not in CALIBRATIONS:
        raise UsageError(f"there is no calibration method '{text}'", hint=did_you_mean(text, CALIBRATIONS))
    return text


def existing(path: str) -> Path:
    """A model or package that is read: it must be a file."""
    found = Path(path)
    if found.is_dir():
        raise UsageError(f"{path} is a folder, not a file")
    if not found.exists():
        raise UsageError(f"{path} does not exist")
    return found
