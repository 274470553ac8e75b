"""Target: what a model is made for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import attrs

from npukit.backend.base import Backend, Precision
from npukit.backend.constraint import Problem
from npukit.backend.cost import OpCost, Speed
from npukit.backend.rules import Rules
from npukit.backend.scheme import Scheme
from npukit.backend.session import Program
from npukit.backend.soc import Soc
from npukit.encoding import Encoding
from npukit.graph import Graph, host_nodes


@attrs.frozen
class Selection:
    """The names of a target, as a package keeps them: backend, SoC and the settings that were given."""

    backend: str = ""
    soc: str = ""
    settings: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class Target:
    """A backend with its settings, one of its SoCs, and the backend whose op constraints plan for it (``Backend.plans_as``).

    ``npukit.target`` makes one from a selector such as "htp:sm8750". Whatever a stage asks of an accelerator, it asks here.
    ``given`` are the settings that somebody named, ``settings`` those of all options.
    """

    backend: Backend
    soc: Soc
    planner: Backend
    given: Mapping[str, Any] = attrs.field(factory=dict)

    @classmethod
    def of(
        cls, backend: Backend, soc: Soc | None = None, planner: Backend | None = None, settings: Mapping[str, Any] | None = None
    ) -> Target:
        """A target from its parts. Raises UsageError for settings that the backend does not have."""
        given = dict(settings or {})
        made = backend.configured(given)
        lead = backend if planner is None else planner
        if lead is backend:
            return cls(made, soc or made.soc(), made, given)
        shared = {option.name for option in lead.options()} & given.keys()
        return cls(made, soc or made.soc(), lead.configured({n: given[n] for n in shared}), given)

    @property
    def name(self) -> str:
        """As ``--backend`` takes it: "htp:SM8750"."""
        return f"{self.backend.name}:{self.soc.name}"

    @property
    def selection(self) -> Selection:
        return Selection(self.backend.name, self.soc.name, self.given)

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.backend.settings

    @cached_property
    def rules(self) -> Rules:
        """The op constraints that plan and judge."""
        return Rules.of(self.planner, self.soc)

    @cached_property
    def scheme(self) -> Scheme:
        """How ranges and weights become grids here."""
        return self.planner.scheme(self.soc)

    @cached_property
    def precision(self) -> Precision:
        """The types of tensors that nobody decided on."""
        return self.planner.precision(self.soc)

    @property
    def ignores_encodings(self) -> bool:
        """Whether programs run the float model whatever their encodings."""
        return self.backend.ignores_encodings(self.soc)

    def prepare(self, graph: Graph) -> Graph:
        """The graph after the backend's own rewrites."""
        return self.planner.prepare(graph)

    def problems(
        self,
        graph: Graph,
        encodings: Mapping[str, Encoding],
        *,
        types: Mapping[str, str] | None = None,
        float_fallback: bool = False,
    ) -> tuple[Problem, ...]:
        """What is wrong with a prepared graph and its encodings: the op constraints, then the backend's own word.

        ``types`` are what nodes shall compute in where it is not what the backend plans.
        """
        found = self.rules.validate(graph, encodings, types=types, float_fallback=float_fallback)
        return (*self.backend.judge(graph, encodings, self.soc, found), *self._without_effect(graph, encodings, types or {}))

    def _without_effect(self, graph: Graph, encodings: Mapping[str, Encoding], types: Mapping[str, str]) -> Iterator[Problem]:
        """A warning for every node that shall compute in a type which this backend does not choose node by node."""
        if not types or self.backend.chooses_types or self.ignores_encodings:
            return
        planned = self.planner.types(graph, encodings, self.soc)
        for node in graph.nodes:
            asked = types.get(node.name, planned[node.name])
            if asked != planned[node.name]:
                message = f"{self.backend.name} computes every node as its encodings say: {asked} has no effect here"
                yield Problem("warning", "node-type", node.name, node.op, "", message, f"give its tensors {asked} encodings")

    def types(self, graph: Graph, encodings: Mapping[str, Encoding], *, float_fallback: bool = False) -> dict[str, str]:
        """What each node computes in: "int", "float16" or "float32"; with ``float_fallback`` nodes without a kernel in float16."""
        planned = dict(self.planner.types(graph, encodings, self.soc))
        if not float_fallback:
            return planned
        host = host_nodes(graph)  # shapes are exact: they are computed by ONNX's own definition, never in float16
        nodes = [n for n in graph.nodes if n.name not in host]
        return planned | {n.name: "float16" for n in nodes if not self.planner.supports(n.op, n.domain, self.soc)}

    def estimate(self, graph: Graph, encodings: Mapping[str, Encoding]) -> tuple[OpCost, ...]:
        """What every node costs."""
        return self.backend.estimate(graph, encodings, self.soc)

    def speed(self, graph: Graph, encodings: Mapping[str, Encoding]) -> Speed | None:
        """What the whole model reaches."""
        return self.backend.speed(graph, encodings, self.soc)

    def compile(self, graph: Graph, encodings: Mapping[str, Encoding], types: Mapping[str, str] | None = None) -> Program:
        """A program for ``open``; ``types`` (of nodes) replace those that the backend plans."""
        program = self.backend.compile(graph, encodings, self.soc)
        return attrs.evolve(program, settings=self.settings, types={**program.types, **(types or {})})

    def with_default(self, setting: str) -> Target:
        """This target with one setting at its default: to see what the setting changes."""
        return self._given({name: value for name, value in self.given.items() if name != setting})

    def with_settings(self, settings: Mapping[str, Any]) -> Target:
        """This target with more settings, which win over those it has. Raises UsageError for one that the backend lacks."""
        return self._given({**self.given, **settings})

    def _given(self, settings: Mapping[str, Any]) -> Target:
        planner = None if self.planner is self.backend else self.planner
        return Target.of(self.backend, self.soc, planner, settings)

    def changed(self, effect: str) -> tuple[str, ...]:
        """The given settings that differ from their default and may show in ``effect``."""
        options = {option.name: option for option in self.backend.options()}
        return tuple(n for n in self.given if effect in options[n].effect and self.settings[n] != options[n].default)
