"""Settings are data: read, checked, kept, and said to be idle where they are."""

from __future__ import annotations

from typing import Any

import pytest

from npukit.backend import Option
from npukit.backend.option import read_settings
from npukit.errors import UsageError

OPTIONS = (
    Option("rounding", str, "nearest", choices=("nearest", "floor")),
    Option("cores", int, 4),
    Option("margin", float, 0.5, effect=("encodings", "cost")),
    Option("verify", bool, False),
)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("rounding", "floor", "floor"),
        ("cores", "16", 16),
        ("cores", 16.0, 16),
        ("margin", "1e-3", 1e-3),
        ("margin", 2, 2.0),
        ("verify", "yes", True),
        ("verify", False, False),
    ],
)
def test_values_are_read_by_type(name: str, given: Any, value: Any) -> None:
    """Text of the command line and Python values become values of the option's type; the others keep their defaults."""
    found = read_settings(OPTIONS, {name: given}, "backend 'x'")
    assert found[name] == value
    assert type(found[name]) is type(value)
    assert {n: v for n, v in found.items() if n != name} == {o.name: o.default for o in OPTIONS if o.name != name}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("rounding", "flor", "takes nearest or floor, found 'flor'"),
        ("cores", "4.5", "takes a whole number"),
        ("cores", 4.5, "takes a whole number"),
        ("cores", True, "takes a whole number"),
        ("margin", "nan", "takes a number"),
        ("verify", "2", "takes true or false"),
        ("verify", None, "takes true or false"),
    ],
)
def test_wrong_values_are_refused(name: str, given: Any, message: str) -> None:
    """A value of another type, or none of the choices, is one line with option, owner and what is allowed."""
    with pytest.raises(UsageError, match="of backend 'x'") as caught:
        read_settings(OPTIONS, {name: given}, "backend 'x'")
    assert message in caught.value.message


def test_unknown_settings_are_refused() -> None:
    """An unknown name gets a did-you-mean; a backend without settings says so."""
    with pytest.raises(UsageError, match="has no setting 'core'") as caught:
        read_settings(OPTIONS, {"core": 1}, "backend 'x'")
    assert caught.value.hint == "did you mean 'cores'?"
    with pytest.raises(UsageError) as caught:
        read_settings((), {"core": 1}, "backend 'x'")
    assert "has no settings" in caught.value.hint


def test_effects_are_known() -> None:
    """An effect that no command shows is the author's mistake."""
    assert Option("a", int, 1).effect == ("results",)
    with pytest.raises(ValueError, match="no effect of a setting"):
        Option("a", int, 1, effect="speed")
