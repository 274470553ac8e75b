"""What comes out: a quantized model with its report, a verdict."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping

import attrs

from npukit.backend import Problem, Soc
from npukit.encoding import Encoding
from npukit.graph import Graph
from npukit.legalize import Change
from npukit.package import Package, write_package


@attrs.frozen
class Report:
    """What happened: ``origins`` counts encodings by where they come from, ``problems`` lists what the constraints say,
    ``notes`` what a person should know (overrides that took no effect, and the like), ``changes`` what ``legalize`` did."""

    origins: Mapping[str, int]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {origin}" for origin, count in sorted(self.origins.items()))
        return "\n".join([f"encodings: {counts or 'none'}", *self.notes, *(str(p) for p in self.problems)])


@attrs.frozen(eq=False)
class Quantized:
    """A model with encodings, and the report of how they came about."""

    package: Package
    report: Report

    @property
    def graph(self) -> Graph:
        return self.package.graph

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        return self.package.encodings

    def save(self, path: str | os.PathLike[str], *, keep_float: bool = False) -> None:
        """Write the package as a .dlc file; ``keep_float`` stores weights as floats instead of codes (``write_package``)."""
        write_package(self.package, path, keep_float=keep_float)


@attrs.frozen
class CheckResult:
    """The verdict on a model: "accepted", "refused", or "cannot tell" when only unknowns are left."""

    backend: str
    soc: Soc
    nodes: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        severities = {p.severity for p in self.problems}
        return "refused" if "error" in severities else "cannot tell" if "unknown" in severities else "accepted"

    @property
    def counts(self) -> dict[str, int]:
        """Problems by severity."""
        return dict(Counter(p.severity for p in self.problems))
