"""HtpBackend: the Hexagon Tensor Processor as op constraints, SoCs and numpy kernels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs
import yaml

from npukit.backend import (
    Accumulator,
    Arithmetic,
    Caveat,
    Kernel,
    KernelBackend,
    Lowering,
    OpConstraint,
    OpCost,
    Option,
    Precision,
    Problem,
    Program,
    Soc,
    load_constraints,
    load_socs,
)
from npukit.backend.library import REAL, wide
from npukit.encoding import Array, Encoding
from npukit.errors import UsageError
from npukit.graph import Graph, Node, fold_affine, fold_constants, remove_dead_nodes, reshape_gather_nd
from npukit_htp.arithmetic import arithmetic
from npukit_htp.cost import estimate
from npukit_htp.forms import refused_forms
from npukit_htp.kernels import KERNELS, lowerings
from npukit_htp.profile import ROUNDED_INPUTS, islands_of, profile_of, unrounded
from npukit_htp.requantize import narrow
from npukit_htp.rewrites import divide, flatten_norms, fuse_ops, pair_up

_DATA = Path(__file__).parent / "data"


@lru_cache(maxsize=1)
def _socs() -> tuple[Soc, ...]:
    return load_socs(_DATA / "socs.yaml")


@lru_cache(maxsize=1)
def _constraints() -> tuple[OpConstraint, ...]:
    native = yaml.safe_load((_DATA / "native_ops.yaml").read_text(encoding="utf-8"))
    rows = load_constraints(_DATA / "op_constraints.yaml")
    limits = yaml.safe_load((_DATA / "limits.yaml").read_text(encoding="utf-8"))
    return tuple(_limited(attrs.evolve(row, native=row.native or native.get(row.op, "")), limits.get(row.op, {})) for row in rows)


def _limited(row: OpConstraint, limits: Mapping[str, Any]) -> OpConstraint:
    """A row with what holds for its op in every form; what the row says itself is narrower."""
    ranks = [rank for rank in (row.max_rank, limits.get("max_rank")) if rank is not None]
    attributes = {**limits.get("attributes", {}), **row.attributes}
    caveats = (*row.caveat, *([Caveat(**limits["caveat"])] if "caveat" in limits else []))
    return attrs.evolve(row, attributes=attributes, max_rank=min(ranks, default=None), caveat=caveats)


class HtpBackend(KernelBackend):
    """An emulator of the Hexagon Tensor Processor that computes documented integer arithmetic.

    Convolutions and matrix products are exact integer sums, requantized with one multiplier (of 11 significant bits on v68 and v69,
    a float32 later); unary functions are the correctly rounded real result; other ops compute in float32 between their grids. Float
    islands compute in float16 from v69 on. In everything else one arithmetic serves every SoC, and SoCs differ in what they accept.
    """

    name = "htp"
    title = "Hexagon Tensor Processor (emulated)"
    default_soc = "SM8750"
    # Open dimensions must be fixed before a model is compiled (onnxruntime docs, QNN Execution Provider).
    static_shapes = True

    def options(self) -> tuple[Option, ...]:
        """How much of the tightly coupled memory a graph may use: a session of the vendor's runtime has such a setting too."""
        text = "tightly coupled memory that the graph may use, in MB (0: all of the chip's)"
        return (Option("vtcm_mb", int, 0, help=text, effect="cost"),)

    def socs(self) -> tuple[Soc, ...]:
        return _socs()

    def constraints(self) -> tuple[OpConstraint, ...]:
        return _constraints()

    def precision(self, soc: Soc) -> Precision:
        """8-bit activations and weights; DSPs before v68 take no per-channel weights (aimet-onnx 2.42, htp_quantsim_config)."""
        return Precision(per_channel=soc.generation >= 68)

    def fusions(self) -> tuple[tuple[str, ...], ...]:
        """The super groups of aimet-onnx 2.42 (BSD-3-Clause, htp_quantsim_config_v*.json) whose tensors can share one grid.

        Relu and Clip change nothing on a grid that has their range. AIMET lists Conv with both, and ConvTranspose, Gemm and Add
        with Relu; that the others round once as well is measured (onnxruntime-qnn 2.7.0, SM8350 and later). Groups whose inner
        tensor is wider than their output are no such ones: ``npukit_htp.profile``.
        """
        sums = ("Add", "Conv", "ConvTranspose", "Gemm", "MatMul", "Mul", "Sub")
        return tuple((op, clamp) for op in sums for clamp in ("Relu", "Clip"))

    def prepare(self, graph: Graph) -> Graph:
        """Fold constants, scales and shifts, put its larger ops together and others apart, then drop what nobody reads."""
        return remove_dead_nodes(pair_up(divide(flatten_norms(fuse_ops(reshape_gather_nd(fold_affine(fold_constants(graph))))))))

    def judge(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc, found: tuple[Problem, ...]) -> tuple[Problem, ...]:
        """The op constraints' findings, and the forms that depend on values (``npukit_htp.forms``)."""
        return (*found, *refused_forms(graph, encodings))

    def estimate(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> tuple[OpCost, ...]:
        """A roofline of published peak figures (``npukit_htp.cost``); no time for SoCs without such figures."""
        limit = self.settings["vtcm_mb"]
        if limit and limit > (soc.memory_mb or limit):
            hint = f"{soc.name} has {soc.memory_mb:g} MB"
            raise UsageError(f"setting 'vtcm_mb' is {limit}, more than the chip has", hint=hint, code="setting")
        return estimate(graph, encodings, attrs.evolve(soc, memory_mb=limit) if limit else soc)

    def arithmetic(self) -> tuple[Arithmetic, ...]:
        """The schemes and their measured agreement with the vendor's simulator."""
        return arithmetic()

    def types(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Mapping[str, str]:
        """By the encodings, but for the float islands of the chip's numeric family (``npukit_htp.profile``)."""
        return {**super().types(graph, encodings, soc), **islands_of(profile_of(soc), graph, encodings)}

    def compile(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Program:
        """As every backend does it, but that some tensors have no grid on the chip (``npukit_htp.profile``)."""
        inner = unrounded(graph, encodings, soc)
        return super().compile(graph, {name: grid for name, grid in encodings.items() if name not in inner}, soc)

    def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
        return KERNELS

    def rounded_inputs(self, node: Node) -> int:
        return ROUNDED_INPUTS.get(node.op, len(node.inputs))

    def float_lowerings(self, soc: Soc) -> Mapping[str, Lowering]:
        return REAL

    def lowerings(self, soc: Soc) -> Mapping[str, Lowering]:
        return lowerings(profile_of(soc).requantize)

    def requantize(self, acc: Accumulator, out: Encoding, soc: Soc) -> Array:
        """As every backend does it, but for the chips whose multiplier has 11 bits (``npukit_htp.requantize``)."""
        if profile_of(soc).requantize is wide or out.bits > 16 or out.granularity != "tensor":
            return super().requantize(acc, out, soc)
        return narrow(acc.scale, out).codes_of(acc.values, out)
