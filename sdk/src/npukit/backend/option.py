"""Settings of a backend, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from npukit.errors import UsageError, did_you_mean

EFFECTS = ("encodings", "legality", "results", "cost")
"""Where a setting may show: in what ``quantize`` makes, ``check`` says, ``run`` computes, ``bench`` estimates."""

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def _words(value: str | Iterable[str]) -> tuple[str, ...]:
    words = (value,) if isinstance(value, str) else tuple(value)
    for word in words:
        if word not in EFFECTS:
            raise ValueError(f"'{word}' is no effect of a setting, one of {', '.join(EFFECTS)}")
    return words


@attrs.frozen
class Option:
    """One setting of a backend: ``--set NAME=VALUE``, ``settings={NAME: VALUE}``.

    ``type`` is bool, int, float or str; ``default`` a value of it; ``choices`` the only values allowed (empty: any); ``help`` one
    line for people; ``effect`` one of EFFECTS, or several: where a change of it shows. npukit compares with the default there, and
    says so when nothing changed.
    """

    name: str
    type: type
    default: Any
    choices: tuple[Any, ...] = attrs.field(default=(), converter=tuple)
    help: str = ""
    effect: tuple[str, ...] = attrs.field(default=("results",), converter=_words)

    def read(self, value: Any, owner: str) -> Any:
        """``value``, or the text of one, as a value of this option. Raises UsageError that names ``owner`` and what is allowed."""
        found = self._convert(value)
        if found is None or (self.choices and found not in self.choices):
            allowed = " or ".join(map(str, self.choices)) or _KINDS[self.type]
            hint = did_you_mean(value, self.choices) if isinstance(value, str) and self.type is str else ""
            raise UsageError(f"setting '{self.name}' of {owner} takes {allowed}, found '{value}'", hint=hint, code="setting")
        return found

    def _convert(self, value: Any) -> Any:
        """The value, None when it is none of this type."""
        if self.type is bool:
            text = str(value).lower()
            return True if text in _TRUE else False if text in _FALSE else None
        if self.type is str:
            return value if isinstance(value, str) else None
        try:
            found = self.type(value)
        except (TypeError, ValueError, OverflowError):
            return None
        exact = not isinstance(value, bool | float) or found == value
        return found if exact and found == found and not isinstance(value, bool) else None


def read_settings(options: Sequence[Option], given: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """The values of all options: the given ones, else their defaults. Raises UsageError with a did-you-mean for an unknown name."""
    known = {option.name: option for option in options}
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) if known else f"{owner} has no settings"
            raise UsageError(f"{owner} has no setting '{name}'", hint=hint, code="setting")
    return {name: option.read(given[name], owner) if name in given else option.default for name, option in known.items()}
