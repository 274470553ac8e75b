"""Flags that several commands share, and what they become: a Registry, Options, symbols."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npukit.errors import UsageError, did_you_mean
from npukit.plugins.known import DEFAULT_BACKEND

if TYPE_CHECKING:
    from npukit.backend import Edge, Target
    from npukit.plugins import Registry
    from npukit.quantization import Options, Request, Source

_SYMBOL_FLAG = "--onnx-define-symbol"
# The common flags that take no value, and the one that does.
SWITCHES = ("--json", "-q", "--quiet", "-v", "--verbose")
PLUGIN_FLAG = "--plugin"


def add_common(parser: argparse.ArgumentParser) -> None:
    """The flags of every command."""
    group = parser.add_argument_group("common")
    group.add_argument("--json", action="store_true", help="print the result as JSON")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    group.add_argument("-v", "--verbose", action="store_true", help="show the traceback of a bug")
    group.add_argument(
        PLUGIN_FLAG, action="append", default=[], metavar="FILE.py", help="load a plugin from a file (may be repeated)"
    )


def add_backend(parser: argparse.ArgumentParser, *, default: str = DEFAULT_BACKEND, many: bool = False) -> None:
    """``--backend``, ``--soc``, ``--soc-file``, ``--set``. ``default`` is for the help: what it means is decided by the model."""
    group = parser.add_argument_group("backend")
    metavar = "NAME[:SOC],..." if many else "NAME[:SOC]"
    what = "backends to compare, separated by commas" if many else "accelerator and chip"
    group.add_argument("--backend", default="", metavar=metavar, help=f"{what} (default: that of the package, else {default})")
    if not many:
        group.add_argument("--soc", default="", metavar="NAME", help="chip or architecture, same as the part after the colon")
    group.add_argument("--soc-file", metavar="FILE.yaml", help="chips of your own: rows with name and arch")
    text = "a setting of the backend (npukit backends NAME lists them; may be repeated)"
    group.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings", help=text)


def add_strictness(parser: argparse.ArgumentParser) -> None:
    """What to do with a model that the backend refuses."""
    group = parser.add_argument_group("strictness")
    group.add_argument("--no-strict", dest="strict", action="store_false", help="run what the backend refuses, and list it")
    group.add_argument("--float-fallback", action="store_true", help="compute nodes without a kernel in float, instead of refusing")


def add_edges(parser: argparse.ArgumentParser) -> None:
    """What callers hand over and get, what nodes compute in, and the sizes that a symbolic model is to run with."""
    group = parser.add_argument_group("contract")
    text = "hand over an input or output as codes (its encoding type), float16 or float32, in a layout such as NHWC"
    group.add_argument("--edge", action="append", default=[], metavar="NAME=TYPE[:LAYOUT]", dest="edges", help=text)
    text = "compute a node, or all that a pattern such as 'layers.0.*' fits, in int, float16 or float32 (may be repeated)"
    group.add_argument("--node-type", action="append", default=[], metavar="NODE=TYPE", dest="node_types", help=text)
    text = "keep the model symbolic and run it with these sizes (may be repeated: one package for several shapes)"
    group.add_argument("--bind", action="append", default=[], metavar="SYMBOL=N,...", dest="bindings", help=text)


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
    """The types of activations and weights, and which tensors share a grid."""
    group = parser.add_argument_group("precision")
    group.add_argument("--activations", default="", metavar="TYPE", help="uint8, uint16, float16 ... (default: the backend's)")
    group.add_argument("--weights", default="", metavar="TYPE", help="int8, int4, int16 ... (default: the backend's)")
    channel = group.add_mutually_exclusive_group()
    channel.add_argument("--per-channel", dest="per_channel", action="store_const", const=True, help="one scale per channel")
    text = "scales for N inputs of a channel each, where an op takes them"
    channel.add_argument("--per-block", type=positive, default=0, metavar="N", help=text)
    text = "the same as whole multiples (1 to 16) of a scale of the channel, which is LPBQ"
    channel.add_argument("--lpbq", type=positive, default=0, metavar="N", help=text)
    channel.add_argument("--per-tensor", dest="per_channel", action="store_const", const=False, help="one scale per weight")
    group.add_argument(
        "--float-fallback", action="store_true", help="run in float what the backend cannot run quantized, instead of refusing"
    )
    text = "give two tensors one grid; * stands for the same text on both sides, as in 'past_*=new_*' (may be repeated)"
    group.add_argument("--tie", action="append", default=[], metavar="TENSOR=TENSOR", dest="ties", help=text)


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


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """How ranges are chosen."""
    group = parser.add_argument_group("calibration")
    text = "min-max (default), percentile, entropy ... (npukit backends lists all)"
    group.add_argument("--calibration", default="min-max", metavar="METHOD", help=text)
    group.add_argument("--percentile", type=float, default=99.99, metavar="P", help="for percentile, 90..100 (default: 99.99)")


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
    return _sizes(args.symbols, _SYMBOL_FLAG)


def _sizes(words: Iterable[str], flag: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for word in words:
        name, _, value = word.partition("=")
        if not name or not value.isdigit() or int(value) < 1:
            raise UsageError(f"{flag} takes NAME=VALUE with a number above 0, found '{word}'")
        found[name] = int(value)
    return found


def pairs_from(words: Iterable[str], flag: str, form: str = "NAME=VALUE") -> list[tuple[str, str]]:
    """NAME=VALUE words as pairs; a name may hold "=" itself, its value may not. ``form`` is how an error spells them."""
    found = []
    for word in words:
        name, equals, value = word.rpartition("=")
        if not name or not equals or not value:
            raise UsageError(f"{flag} takes {form}, found '{word}'")
        found.append((name, value))
    return found


def settings_from(args: argparse.Namespace) -> dict[str, str]:
    """The settings of ``--set``, as text. Raises UsageError for anything but NAME=VALUE."""
    found: dict[str, str] = {}
    for word in args.settings:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise UsageError(f"--set takes NAME=VALUE, found '{word}'")
        found[name] = value
    return found


def request_from(args: argparse.Namespace) -> Request:
    """The model and what the flags of this command say about it."""
    from npukit.quantization import Request

    return Request(
        existing(args.model),
        overrides=getattr(args, "overrides", None),
        symbols=symbols_from(args) if hasattr(args, "symbols") else {},
        batch=getattr(args, "batch", None),
        lenient=getattr(args, "lenient", False),
    )


def source_from(args: argparse.Namespace, registry: Registry) -> Source:
    """The model of this command, read. It stands for the request in every function that takes a model."""
    from npukit.quantization import read_source

    return read_source(request_from(args), registry=registry)


def target_from(args: argparse.Namespace, registry: Registry, source: Source, *, default: str = DEFAULT_BACKEND) -> Target:
    """The target that the flags name, else that of the package, else ``default``."""
    return registry.target(
        args.backend,
        soc=args.soc,
        soc_file=args.soc_file,
        settings=settings_from(args),
        made_for=source.manifest.selection if source.manifest else None,
        default=default,
    )


def registry_from(args: argparse.Namespace) -> Registry:
    """The installed plugins and the ones of ``--plugin``."""
    from npukit.plugins import Registry

    # They are imported already where the command itself comes from a plugin.
    return Registry.load(args.plugin) if args.found is None else Registry.of(args.found)


def whole_registry(args: argparse.Namespace) -> Registry:
    """The same plugins for a list of them: one whose commands are no good counts as broken, though its backends may work."""
    from npukit.cli.parser import add_plugin_commands, build_parser
    from npukit.plugins import Registry

    return Registry.of(add_plugin_commands(build_parser(), args.plugin))


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

    precision = ("activations", "weights", "per_channel", "per_block", "lpbq", "float_fallback")
    known = (*precision, "calibration", "percentile", "strict", "legalize", "seed", "limit")
    given: dict[str, Any] = {name: getattr(args, name) for name in known if hasattr(args, name)}
    if hasattr(args, "edges"):
        given["edges"] = {name: _edge(value) for name, value in pairs_from(args.edges, "--edge")}
        given["node_types"] = dict(pairs_from(args.node_types, "--node-type"))
        given["bindings"] = tuple(_sizes(words.split(","), "--bind") for words in args.bindings)
    if hasattr(args, "ties"):
        given["ties"] = pairs_from(args.ties, "--tie", "TENSOR=TENSOR")
    return Options(**given)


def _edge(text: str) -> Edge:
    from npukit.backend import Edge

    dtype, _, layout = text.partition(":")
    return Edge(dtype, layout.upper())


def existing(path: str) -> Path:
    """A model or package that is read: it must be a file."""
    found = Path(path)
    if found.is_dir():
        raise UsageError(f"{path} is a folder, not a file")
    if not found.exists():
        raise UsageError(f"{path} does not exist")
    return found
