"""The flags of qaic-exec: those of the options that have one, and those that only the command line has; and how they are read.

A flag is a Row, as an option is: ``flag`` is its spelling without the hyphen, ``action`` says what it does here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from npukit.errors import UsageError, did_you_mean
from npukit_aic.options import ROWS, Row

_EXEC = "Cloud AI SDK documentation, qaic-exec and qaic-compile, https://quic.github.io/cloud-ai-sdk-pages/"
_CLIENT = "public client code, https://github.com/quic/efficient-transformers"


def _row(flag: str, kind: str, action: str, help: str, **fields: Any) -> Row:
    return Row(flag.replace("-", "_"), kind, help, action, fields.pop("source", _EXEC), flag=flag, **fields)


EXEC_ROWS = (
    _row("m", "path", "N", "the ONNX model"),
    _row("compile-only", "bool", "T", "run nothing; without it and without -aic-binary-dir random data is run"),
    _row("aic-hw", "bool", "R", "run on the card: every run is on the emulated one"),
    _row("aic-hw-version", "str", "R", "the card's version; both names are the same one", choices=("2.0", "ai100")),
    _row("batchsize", "int", "N", "the first dimension of every input", low=1),
    _row("num-iter", "int", "T", "runs with random data", default=10, low=1),
    _row("time", "int", "T", "seconds that runs with random data go on, in place of -num-iter", low=1),
    _row("stats-level", "int", "V", "statistics of the hardware, which is not there", low=0),
    _row("aic-profiling-type", "str", "V", "profiles of the hardware, which is not there"),
    _row("retained-state", "bool", "N", "an output X_RetainedState stays on the card as the next input X"),
    _row("sub-functions", "bool", "V", "local functions of the model are always inlined here", source=_CLIENT),
    _row("mxfp6-matmul", "bool", "N", "constant weights of matrix products in MXFP6"),
    _row("mxint8-kv-cache", "bool", "X", "the cache in MXINT8", refused="float16 or int8 ends in -custom-IO-list-file"),
    _row("allow-mxint8-mdp-io", "bool", "V", "transfers between cards lose no precision here", source=_CLIENT),
    _row("quantization-schema", "str", "N", "-quantization-schema-activations and -quantization-schema-constants at once"),
    _row(
        "register-custom-op",
        "path",
        "X",
        "ops of one's own",
        refused="replace them by ONNX ops or by a local function of the model",
    ),
    _row("operators-supported", "str", "T", "write the ops that the card takes to OnnxSupportedOperators.txt", choices=("onnx",)),
    _row("v", "bool", "T", "say how many nodes compute in what, and everything that the card refuses"),
    _row("vvv", "bool", "T", "say what every node computes in"),
    _row("version", "bool", "T", "print the version"),
    _row("h", "bool", "T", "print this list"),
)
ALIASES = {"model": "m", "u": "h", "help": "h", "vv": "v"}
"""Other spellings."""
_OTHERWISE = {
    "aic-binary-dir": "the folder for programqpc.bin, which must not be there yet",
    "dump-profile": "profile the model, write the profile as YAML, and stop",
    "onnx-define-symbol": "the size of a symbolic dimension; once for each, none may stay open",
    "stats-batchsize": "inferences that one run counts as; kept in the QPC",
}
"""What options do as flags, where that is not what they do in Python."""
FLAGS: Mapping[str, Row] = {
    row.flag: attrs.evolve(row, help=_OTHERWISE.get(row.flag, row.help)) for row in (*EXEC_ROWS, *ROWS) if row.flag
}
"""Every flag by its spelling without the hyphen."""


def parse(argv: Sequence[str], prog: str, note: Callable[[str], None]) -> dict[str, Any]:
    """The values of the flags that are given, by the names of their rows. Empty arguments are skipped; lists add up.

    ``note`` hears of flags that have no effect here. Raises UsageError for unknown and refused flags, and values not allowed.
    """
    words = [word for word in argv if word]
    texts: dict[str, list[str]] = {}
    while words:
        body, equals, value = words.pop(0).partition("=")
        row = _known(body, prog)
        if not equals and row.kind == "bool":
            value = "true"
        elif not equals and words and not words[0].startswith("-"):
            value = words.pop(0)
        if not value:
            raise UsageError(f"-{row.flag} needs a value", hint=f"-{row.flag}=VALUE takes {row.allowed}")
        texts.setdefault(row.flag, []).append(value)
    found = {FLAGS[flag].name: _read(FLAGS[flag], values, note) for flag, values in texts.items()}
    for flag in texts:
        row = FLAGS[flag]
        if row.action == "V" and found[row.name] not in (False, row.default):
            note(f"-{flag} has no effect here: {row.help}")
    return found


def _known(word: str, prog: str) -> Row:
    """The row of a flag, with one hyphen or two."""
    if not word.startswith("-"):
        raise UsageError(f"'{word}' is no flag", hint=f"flags have the form -FLAG=VALUE; {prog} -h lists them")
    name = word.removeprefix("-").removeprefix("-")
    row = FLAGS.get(ALIASES.get(name, name))
    if row is None:
        hint = f"{did_you_mean(f'-{name}', [f'-{known}' for known in (*FLAGS, *ALIASES)])}; {prog} -h lists all"
        raise UsageError(f"unknown flag -{name}", hint=hint, code="unknown-flag")
    if row.refused:
        raise UsageError(f"-{name} is not emulated", hint=row.refused, code="refused-flag")
    return row


def _read(row: Row, texts: Sequence[str], note: Callable[[str], None]) -> Any:
    """The value of a flag. Given several times it has the entries of all when it is a list, else the last one counts."""
    values = [_one(row, text) for text in texts]
    if row.kind == "symbols":
        return {name: size for value in values for name, size in value.items()}
    if row.kind in ("names", "ints"):
        return tuple(entry for value in values for entry in value)
    if any(value != values[-1] for value in values):
        note(f"-{row.flag} is given {len(values)} times with different values: the last one counts, {texts[-1]}")
    return values[-1]


def _one(row: Row, text: str) -> Any:
    try:
        return row.read(text, "qaic-exec")
    except UsageError as error:
        raise UsageError(f"-{row.flag} takes {row.allowed}, found '{text}'", hint=error.hint) from None


def usage(prog: str) -> str:
    """All flags, a line each."""
    lines = [f"usage: {prog} -m=MODEL.onnx -aic-binary-dir=FOLDER [-FLAG=VALUE ...]", ""]
    return "\n".join([*lines, *(f"  {spelling(row):<46} {what(row)}" for row in FLAGS.values())])


def spelling(row: Row) -> str:
    """A flag with what stands behind it."""
    values = {"symbols": "NAME,SIZE", "names": "NAME,...", "ints": "N,...", "int": "N", "float": "X", "path": "PATH", "str": "WORD"}
    return f"-{row.flag}" if row.kind == "bool" else f"-{row.flag}={values[row.kind]}"


def what(row: Row) -> str:
    """What a flag does here, or what to do instead."""
    if row.refused:
        return f"refused ({row.help}); instead: {row.refused}"
    choices = f" ({', '.join(c for c in row.choices if c)})" if row.choices else ""
    return f"no effect, and says so: {row.help}{choices}" if row.action == "V" else row.help + choices
