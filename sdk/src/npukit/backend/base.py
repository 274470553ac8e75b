"""The seam: what a backend is."""

from __future__ import annotations

import abc
import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import attrs

from npukit.backend.constraint import OpConstraint, Problem
from npukit.backend.cost import OpCost, Speed, count_costs
from npukit.backend.option import Option, read_settings
from npukit.backend.scheme import Scheme
from npukit.backend.session import Program, Session, stored_type
from npukit.backend.soc import Soc
from npukit.encoding import Encoding
from npukit.errors import UsageError, did_you_mean
from npukit.graph import Graph


@attrs.frozen
class Precision:
    """The types that a backend gives to tensors nobody else decided on.

    ``per_block`` and ``lpbq`` are sizes of blocks, at most one of them above 0: weights get a float scale per block, or LPBQ
    grids, where an op has such a form; elsewhere ``per_channel`` says what they get.
    ``per_channel`` is True, False, or the ops whose weights have one scale per channel. ``keep_weights`` gives weights between
    float activations ``weights`` as well, where the op has a form for it.
    """

    activations: str = "uint8"
    weights: str = "int8"
    bias: str = "int32"
    per_channel: bool | tuple[str, ...] = True
    keep_weights: bool = False
    per_block: int = 0
    lpbq: int = 0

    @property
    def blocks(self) -> tuple[str, int]:
        """The granularity in blocks that is wished for, and their size; ("", 0) for none."""
        return ("lpbq", self.lpbq) if self.lpbq else ("block", self.per_block) if self.per_block else ("", 0)


def _texts(value: Iterable[str]) -> tuple[str, ...]:
    return tuple(value)


@attrs.frozen
class Arithmetic:
    """How a backend computes a family of ops: for people, with its public ``source``.

    ``types`` are activation types (empty: all); ``profile`` names the numeric family of chips ("" for all); ``measured`` is how far
    it agrees with the real thing, "" when nobody has measured it.
    """

    family: str
    ops: tuple[str, ...] = attrs.field(converter=_texts)
    types: tuple[str, ...] = attrs.field(converter=_texts)
    scheme: str
    source: str
    profile: str = ""
    measured: str = ""


class Backend(abc.ABC):
    """An accelerator. Subclass this when you own compile and open; subclass KernelBackend when you bring numpy kernels.

    ``name`` is what ``--backend`` takes; ``title`` one line for people; ``default_soc`` the SoC used when none is named;
    ``static_shapes`` says that the chip's compiler needs every dimension fixed; ``chooses_types`` that nodes compute in the types
    of ``Program.types``, whatever their tensors are stored in. ``plans_as`` names a backend whose op constraints plan models for
    this one too (when it is installed). ``exports`` are the file formats that ``export`` writes, one line each.
    """

    name: str
    title: str = ""
    default_soc: str = ""
    static_shapes: bool = False
    chooses_types: bool = False
    plans_as: str = ""
    exports: ClassVar[Mapping[str, str]] = {}
    _settings: Mapping[str, Any] | None = None

    @property
    def missing(self) -> str:
        """What must be installed before anything can run, as a command; "" when nothing is missing."""
        return ""

    def options(self) -> tuple[Option, ...]:
        """The settings that a user may give (``--set NAME=VALUE``); every method reads their values in ``self.settings``."""
        return ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """The value of every option: the defaults, or what ``configured`` was given."""
        return {o.name: o.default for o in self.options()} if self._settings is None else self._settings

    def configured(self, settings: Mapping[str, Any]) -> Self:
        """A copy of this backend with some settings, the others at their defaults.

        Raises UsageError for an unknown setting, with a did-you-mean, and for a value that is not allowed.
        """
        found = copy.copy(self)
        object.__setattr__(found, "_settings", read_settings(self.options(), settings, f"backend '{self.name}'"))
        return found

    def socs(self) -> tuple[Soc, ...]:
        """The SoCs this backend knows; at least one."""
        return (Soc(self.name, ""),)

    def soc(self, name: str = "") -> Soc:
        """The SoC called ``name`` (any case), or the default; an architecture ("v79") gives the first SoC that has it."""
        known = self.socs()
        wanted = (name or self.default_soc or known[0].name).lower()
        for soc in known:
            if soc.name.lower() == wanted:
                return soc
        for soc in known:
            if soc.arch.lower() == wanted:
                return soc
        names = [s.name for s in known] + sorted({s.arch for s in known if s.arch})
        raise UsageError(f"backend '{self.name}' has no SoC '{name}'", hint=did_you_mean(name, names), code="unknown-soc")

    def constraints(self) -> tuple[OpConstraint, ...]:
        """All op constraint rows; an empty tuple means that everything is accepted."""
        return ()

    def precision(self, soc: Soc) -> Precision:
        """The default types on ``soc``."""
        return Precision()

    def scheme(self, soc: Soc) -> Scheme:
        """How ranges, weights and biases become grids on ``soc``."""
        return Scheme()

    def fusions(self) -> tuple[tuple[str, ...], ...]:
        """Op sequences that run as one, such as ("Conv", "Relu"): the tensors inside take the grid of the last output."""
        return ()

    def arithmetic(self) -> tuple[Arithmetic, ...]:
        """How the backend computes, family by family; empty when it does not say."""
        return ()

    def supports(self, op: str, domain: str = "", soc: Soc | None = None) -> bool:
        """Whether the backend has an implementation of the op on ``soc`` (None: the default SoC).

        Constraints may accept more than is implemented.
        """
        return True

    def types(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Mapping[str, str]:
        """What every node of a prepared graph computes in on ``soc``, by its name: "int", "float16" or "float32".

        By default that is what its tensors are stored in: "int" when one of them has an integer grid, else "float16" when one is
        float16, else "float32". A node with integer tensors that computes in a float type is a float island.
        """
        return {node.name: stored_type(node, encodings) for node in graph.nodes}

    def float_nodes(self, graph: Graph, types: Mapping[str, str], soc: Soc) -> frozenset[str]:
        """The nodes of a prepared graph that compute in float whatever their tensors could be stored in, by name.

        ``types`` are what nodes were asked to compute in. Their weights stay float, and so do activations that only such nodes make
        and read; the others have grids, between which the nodes are float islands. By default there are none.
        """
        return frozenset()

    def ignores_encodings(self, soc: Soc) -> bool:
        """Whether programs for ``soc`` run the float model whatever the encodings."""
        return False

    def prepare(self, graph: Graph) -> Graph:
        """The backend's own rewrites (fold batch-norm and the like); names are kept, or mapped in ``origin_names``."""
        return graph

    def judge(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc, found: tuple[Problem, ...]) -> tuple[Problem, ...]:
        """The final word on a prepared graph with encodings.

        ``found`` is what the op constraints say; a backend that can ask a real compiler puts the compiler's answer in its place.
        """
        return found

    def estimate(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> tuple[OpCost, ...]:
        """What every node of a prepared graph costs on ``soc``, in their order: an estimate, nothing is run.

        Without knowledge of the chip these are counts: multiply-accumulates, bit operations, elements and bytes. A backend that
        has figures of its memory and speed adds them.
        """
        return count_costs(graph, encodings)

    def speed(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Speed | None:
        """What the whole of a prepared graph reaches on ``soc``, None when the backend has no model of that."""
        return None

    def export(self, program: Program, form: str, target: Path) -> str:
        """Write ``program`` as a file in one of the ``exports`` formats; returns one line that says what was written."""
        raise NotImplementedError(f"backend '{self.name}' names the export format '{form}' and does not write it")

    @abc.abstractmethod
    def compile(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Program:
        """Make a program from a prepared graph and the encodings of its tensors."""

    @abc.abstractmethod
    def open(self, program: Program) -> Session:
        """Load a program on a device."""
