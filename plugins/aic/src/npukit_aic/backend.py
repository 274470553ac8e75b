"""AicBackend: Cloud AI 100 as op constraints, cards and kernels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from npukit.backend import (
    Accumulator,
    Kernel,
    KernelBackend,
    Lowering,
    OpConstraint,
    OpCost,
    Option,
    Precision,
    Problem,
    Program,
    Scheme,
    Session,
    Soc,
    Speed,
    load_constraints,
    load_socs,
)
from npukit.backend.library import REAL, lowerings_of, wide
from npukit.encoding import FLOAT_BITS, Array, Encoding
from npukit.graph import Graph, Node, fold_affine, fold_constants, remove_dead_nodes
from npukit_aic.kernels import FLOAT32, KERNELS
from npukit_aic.options import ROWS
from npukit_aic.requantize import glow
from npukit_aic.scheme import glow_precision, glow_scheme
from npukit_aic.speed import estimate, op_costs
from npukit_aic.sums import HALF_SUMS

_DATA = Path(__file__).parent / "data"
FLOAT_FORM = "float"
"""The variant of rows whose ops compute in float, whatever their tensors are stored in."""
WHOLE_FORM = "whole numbers"
"""The variant of rows for positions and counts, which are never quantized."""


@lru_cache(maxsize=1)
def _socs() -> tuple[Soc, ...]:
    return load_socs(_DATA / "socs.yaml")


@lru_cache(maxsize=1)
def _constraints() -> tuple[OpConstraint, ...]:
    return load_constraints(_DATA / "op_constraints.yaml")


@lru_cache(maxsize=1)
def _ops() -> frozenset[str]:
    """The ops that the card has, of the default domain."""
    return frozenset(row.op for row in _constraints())


@lru_cache(maxsize=1)
def integer_ops() -> frozenset[str]:
    """Those of them that have an int8 form."""
    rows = [row for row in _constraints() if row.variant != FLOAT_FORM]
    return frozenset(row.op for row in rows for port in row.inputs if "int8" in port.dtypes)


class AicBackend(KernelBackend):
    """An emulator of Cloud AI 100: float32, float16 with one rounding per op, and int8 in Glow's arithmetic.

    An op without an int8 form computes in float between a dequantize and a quantize; with ``convert_to_fp16`` all that is float
    computes in float16.
    """

    name = "aic"
    title = "Cloud AI 100 (emulated)"
    default_soc = "Standard"
    static_shapes = True

    def options(self) -> tuple[Option, ...]:
        """The compiler's options that change results, encodings or speed (``npukit_aic.options``)."""
        return tuple(row.option for row in ROWS if row.setting)

    def socs(self) -> tuple[Soc, ...]:
        return _socs()

    def constraints(self) -> tuple[OpConstraint, ...]:
        return _constraints()

    def precision(self, soc: Soc) -> Precision:
        """int8, as the settings say of biases and of scales per channel (``npukit_aic.scheme``)."""
        return glow_precision(self.settings)

    def scheme(self, soc: Soc) -> Scheme:
        """Glow's four schemas, as the settings say."""
        return glow_scheme(self.settings)

    def fusions(self) -> tuple[tuple[str, ...], ...]:
        """A Relu folds into the range of what makes its input (pytorch/glow, Apache-2.0)."""
        return (("Conv", "Relu"), ("ConvTranspose", "Relu"), ("Gemm", "Relu"), ("MatMul", "Relu"), ("Add", "Relu"))

    def prepare(self, graph: Graph) -> Graph:
        return remove_dead_nodes(fold_affine(fold_constants(graph)))

    def supports(self, op: str, domain: str = "", soc: Soc | None = None) -> bool:
        """What computes in float and has no kernel is computed by ONNX's own definition."""
        return not domain and op in _ops()

    def float_nodes(self, graph: Graph, types: Mapping[str, str], soc: Soc) -> frozenset[str]:
        """Nodes of ops without an int8 form, and those that were asked to compute in float."""
        has_form = integer_ops()
        return frozenset(n.name for n in graph.nodes if n.domain or n.op not in has_form or types.get(n.name) in FLOAT_BITS)

    def types(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Mapping[str, str]:
        """By the encodings, but for ops without an int8 form; what is float computes in float16 with ``convert_to_fp16``."""
        floats = self.float_nodes(graph, {}, soc)
        kind = "float16" if self.settings["convert_to_fp16"] else "float32"
        stored = super().types(graph, encodings, soc)
        return {n: kind if n in floats or t == "float32" else t for n, t in stored.items()}

    def judge(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc, found: tuple[Problem, ...]) -> tuple[Problem, ...]:
        """The op constraints' findings; in a quantized model also the nodes whose op has no int8 form."""
        if all(e.is_float for e in encodings.values()):
            return found
        types = self.types(graph, encodings, soc)
        has_form = {row.op for row in _constraints() if row.variant not in (FLOAT_FORM, WHOLE_FORM)}
        real = [n for n in graph.nodes if any(graph.tensor(name).is_float for name in n.outputs if name)]
        nodes = [n for n in real if not n.domain and n.op in _ops() and n.op not in has_form]
        return (*found, *(_island(node, types[node.name]) for node in nodes))

    def estimate(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> tuple[OpCost, ...]:
        """A roofline of documented figures (``npukit_aic.speed``): modelled, never measured."""
        return op_costs(graph, encodings, self.types(graph, encodings, soc), soc, self.settings)

    def speed(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Speed:
        """What the card as a whole reaches: all activations, with ``set_size`` runs in flight on each."""
        found = estimate(graph, encodings, self.types(graph, encodings, soc), soc, self.settings)
        plan = found.plan
        setup = f"{plan.activations} activations of {plan.cores} cores, set size {plan.set_size}, batch {found.batch}"
        return Speed(found.rate, found.latency, found.bound, setup)

    def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
        return {**KERNELS, **HALF_SUMS} if self._sums_in_half else KERNELS

    def lowerings(self, soc: Soc) -> Mapping[str, Lowering]:
        return lowerings_of(glow if self._in_integers else wide)

    def float_lowerings(self, soc: Soc) -> Mapping[str, Lowering]:
        exact = {op: lowering for op, lowering in REAL.items() if not (self._sums_in_half and op in HALF_SUMS)}
        return {op: _first(FLOAT32.get(op), exact.get(op)) for op in exact.keys() | FLOAT32.keys()}

    def requantize(self, acc: Accumulator, out: Encoding, soc: Soc) -> Array:
        """Glow's shifts and integer multiplier for 8 bits, or one float multiplier, as the setting ``requantize`` says."""
        if out.bits != 8 or out.granularity != "tensor" or not self._in_integers:
            return super().requantize(acc, out, soc)
        return glow(acc.scale, out).codes_of(acc.values, out)

    def open(self, program: Program, kernels: str = "") -> Session:
        """As every KernelBackend, but that a float32 model has one form: nothing of the chip is to be seen in it."""
        return super().open(program, "fast" if program.is_float32 else kernels)

    @property
    def _in_integers(self) -> bool:
        return bool(self.settings["requantize"] == "glow")

    @property
    def _sums_in_half(self) -> bool:
        return bool(self.settings["accumulate"] == "float16")


def _island(node: Node, kind: str) -> Problem:
    hint = "" if kind == "float16" else "float16 with convert_to_fp16 or execute_nodes_in_fp16"
    return Problem("warning", "float-island", node.name, node.op, "", f"has no int8 form: it computes in {kind}", hint)


def _first(*lowerings: Lowering | None) -> Lowering:
    """The first lowering that has a fast form for a node."""
    return lambda call: any(lowering is not None and lowering(call) for lowering in lowerings)
