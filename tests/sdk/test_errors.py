"""Messages are one harmless line."""

from __future__ import annotations

import pytest

import npukit.errors
from npukit.backend import Problem
from npukit.errors import ConstraintError, ModelError, NpukitError, PackageError, UsageError, counted, did_you_mean

ERRORS = [kind for kind in vars(npukit.errors).values() if isinstance(kind, type) and issubclass(kind, NpukitError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_a_hostile_name_stays_in_its_line(kind: type[NpukitError]) -> None:
    """Names come from files: line breaks and terminal sequences in them are escaped, other letters stay."""
    error = kind("tensor 'a\nb\x1b[2J\u202e' in größe", hint="did you mean 'c\rd'?")
    assert str(error).isprintable()
    assert error.message == r"tensor 'a\nb\x1b[2J\u202e' in größe"
    assert error.args == (error.message,)
    assert r"c\rd" in error.hint


def test_a_problem_is_one_line() -> None:
    """The text of a finding is escaped like that of an error."""
    problem = Problem("error", "dtype", "n\n1", "Relu", "x\x07", "type int8")
    assert str(problem) == r"error: node 'n\n1' (Relu), tensor 'x\x07': type int8 [dtype]"


def test_exit_codes() -> None:
    """The model's faults exit with 1, the user's with 2, and every kind of error has a code of its own."""
    assert ModelError("m").exit_code == ConstraintError("m").exit_code == 1
    assert UsageError("m").exit_code == PackageError("m").exit_code == 2
    assert len({kind("m").code for kind in ERRORS}) == len(ERRORS)
    assert UsageError("m", code="unknown-soc").code == "unknown-soc"


def test_did_you_mean() -> None:
    """The closest name, of equally close ones the one that starts alike; else the known names, not too many."""
    assert did_you_mean("SM8751", ["SM8975", "SM8750"]) == "did you mean 'SM8750'?"
    assert did_you_mean("zzz", ["b", "a"]) == "known: a, b"
    assert did_you_mean("zzz", []) == "none are known"
    assert did_you_mean("zzz", [f"n{i}" for i in range(50)]).count(",") == 12


def test_counted() -> None:
    """One is singular, nothing else is."""
    assert [counted(n, "encoding") for n in (0, 1, 2)] == ["0 encodings", "1 encoding", "2 encodings"]
