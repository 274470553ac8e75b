"""The options of qaic.Session and of qaic-exec: rows of data/options.yaml, and how values of them are read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from npukit.backend import Option, read_yaml
from npukit.errors import UsageError, did_you_mean

_DATA = Path(__file__).parent / "data" / "options.yaml"
_SCALARS = {"bool": bool, "int": int, "float": float, "str": str}
_EMPTY: dict[str, Any] = {"names": (), "ints": (), "symbols": {}}
_TOGETHER = (
    ("enable_metrics", "enable_profiling"),
    ("host_preproc", "aic_preproc"),
    ("load_profile", "convert_to_quantize"),
    ("load_profile", "dump_profile"),
)
"""Options that exclude one another."""


class OptionError(UsageError, ValueError):
    """An option has a value that is not allowed, or is not known."""

    default_code = "option"


@attrs.frozen
class Row:
    """One option, by the name of qaic.Session's keyword.

    ``kind`` is bool, int, float, str, path (a text), names (a tuple of texts), ints (a tuple), symbols (a dict of text to int) or
    data (anything that JSON has). ``choices``, ``low`` and ``high`` say which values are allowed, ``most`` how many. ``action`` has
    the letters that the head of the file explains. ``setting`` is where a setting of AicBackend shows ("results", "encodings",
    "cost"), "" when it is none. ``flag`` is what qaic-exec calls it, without the hyphen. ``at`` is "run" or "compile". ``refused``
    says what to do instead. ``test`` names the test that shows the effect.
    """

    name: str
    kind: str
    help: str
    action: str
    source: str
    default: Any = None
    aliases: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    choices: tuple[Any, ...] = attrs.field(default=(), converter=tuple)
    low: float | None = None
    high: float | None = None
    most: int | None = None
    setting: str = ""
    flag: str = ""
    at: str = "compile"
    refused: str = ""
    test: str = ""

    @property
    def option(self) -> Option:
        """The setting of AicBackend that this row is; its type is that of one entry when the row has a tuple."""
        kind = _SCALARS.get(self.kind, int if self.kind == "ints" else str)
        return Option(self.name, kind, self.default, self.choices, self.help, self.setting or "results")

    @property
    def allowed(self) -> str:
        """The values allowed, in words."""
        if self.choices:
            return " or ".join(str(c) or "''" for c in self.choices)
        words = {
            "bool": "true or false",
            "int": "a whole number",
            "float": "a number",
            "str": "text",
            "path": "a path",
            "names": "a list of names",
            "ints": "a list of whole numbers",
            "symbols": "name and size, the size 1 or more",
            "data": "a list or a mapping",
        }[self.kind]
        if self.low is not None:
            words += f", {self.low:g} or more" if self.high is None else f" from {self.low:g} to {self.high:g}"
        return words + (f", at most {self.most}" if self.most else "")

    def read(self, value: Any, where: str) -> Any:
        """``value``, or the text of one, as a value of this option; None is the default. Raises OptionError."""
        if value is None:
            return self.default
        if self.refused:
            raise OptionError(f"option '{self.name}' of {where} is not emulated", hint=self.refused)
        try:
            return self._convert(value, where)
        except (UsageError, TypeError, ValueError, KeyError):
            hint = did_you_mean(str(value), self.choices) if self.choices else ""
            found = f"'{value}'" if isinstance(value, str | int | float) else repr(value)
            raise OptionError(f"option '{self.name}' of {where} takes {self.allowed}, found {found}", hint=hint) from None

    def _convert(self, value: Any, where: str) -> Any:
        match self.kind:
            case "path":
                return os.fspath(value)
            case "names" | "ints":
                found = tuple(self._one(entry, where) for entry in _entries(value))
                if self.most is not None and len(found) > self.most:
                    raise ValueError
                return found
            case "symbols":
                return _symbols(value)
            case "data":
                return value
        return self._one(value, where)

    def _one(self, value: Any, where: str) -> Any:
        found = self.option.read(value, where)
        if (self.low is not None and found < self.low) or (self.high is not None and found > self.high):
            raise ValueError
        return found


def _entries(value: Any) -> Iterable[Any]:
    """The entries of a list, of a text with commas, or the one value."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int) else list(value)


def _symbols(value: Any) -> dict[str, int]:
    """Sizes by symbol from a mapping, pairs, texts "name,size", or one such text."""
    pairs = value.items() if isinstance(value, Mapping) else [value] if isinstance(value, str) else value
    size = Option("size", int, 1)
    found = {}
    for pair in pairs:
        name, number = pair.rsplit(",", 1) if isinstance(pair, str) else pair
        found[str(name).strip()] = size.read(number, "")
    if not all(name and number >= 1 for name, number in found.items()):
        raise ValueError
    return found


def _load() -> tuple[Row, ...]:
    data = read_yaml(_DATA, "option file")
    return tuple(
        Row(**{"default": _EMPTY.get(row["kind"]), **row, "source": data["sources"][row["source"]]}) for row in data["options"]
    )


ROWS = _load()
"""All options, in the order of the file."""
BY_NAME = {name: row for row in ROWS for name in (row.name, *row.aliases)}
"""The rows by their names and aliases."""


def given_values(given: Mapping[str, Any], *, where: str = "qaic.Session", strict: bool = False) -> dict[str, Any]:
    """The options of ``given`` by their names, normalised: hyphens for underscores, aliases, values as texts.

    Raises OptionError for a value that is not allowed and for an option given twice. An option that is not known is warned of,
    with ``strict``, here or among the options, it is an OptionError as well.
    """
    strict = strict or BY_NAME["strict"].read(given.get("strict"), where)
    found: dict[str, Any] = {}
    for key, value in given.items():
        row = BY_NAME.get(str(key).replace("-", "_"))
        if row is None:
            message = f"{where} has no option '{key}'"
            hint = did_you_mean(str(key).replace("-", "_"), BY_NAME)
            if strict:
                raise OptionError(message, hint=hint)
            warnings.warn(f"{message}; it is ignored ({hint})", stacklevel=3)
        elif row.name in found:
            raise OptionError(f"option '{row.name}' of {where} is given twice")
        else:
            found[row.name] = row.read(value, where)
    return found


def read(given: Mapping[str, Any], *, where: str = "qaic.Session", strict: bool = False) -> dict[str, Any]:
    """The values of all options by name: those of ``given``, else those in the file at its "options_path", else the defaults.

    ``where`` is what messages call the owner of the options. Raises OptionError, see ``given_values``, and for options that exclude
    one another.
    """
    found = given_values(given, where=where, strict=strict)
    if found.get("options_path"):
        found = read_yaml_options(found["options_path"], strict=strict or found.get("strict", False)) | found
    values = {row.name: row.default for row in ROWS} | found
    for first, second in _TOGETHER:
        if values[first] and values[second]:
            raise OptionError(f"options '{first}' and '{second}' of {where} exclude one another", hint="give one of them")
    _check_cores(values, where)
    return values


def read_yaml_options(path: str | os.PathLike[str], *, strict: bool = False) -> dict[str, Any]:
    """The options in a YAML file, see ``given_values``. Raises UsageError for a file that cannot be read or is no mapping."""
    data = read_yaml(Path(path), "options file")
    if not isinstance(data, Mapping | None):
        raise UsageError(f"options file {path} is no mapping of options to values", hint="one line per option, such as 'ols: 2'")
    return given_values(data or {}, where=f"options file {path}", strict=strict)


def _check_cores(values: Mapping[str, Any], where: str) -> None:
    cores = values["aic_num_cores"]
    for name, used in (("mos", max(values["mos"], default=0)), ("sdp_cluster_sizes", sum(values["sdp_cluster_sizes"]))):
        if used > cores:
            hint = f"raise aic_num_cores to {used}, or lower {name}"
            raise OptionError(f"option '{name}' of {where} needs {used} cores, aic_num_cores is {cores}", hint=hint)
