"""AicBackend: Cloud AI 100 as op constraints, cards and kernels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from npukit.backend import Kernel, KernelBackend, Option, Soc, load_socs
from npukit.encoding import Encoding
from npukit.graph import Graph, fold_affine, fold_constants, remove_dead_nodes

_DATA = Path(__file__).parent / "data"


@lru_cache(maxsize=1)
def _socs() -> tuple[Soc, ...]:
    return load_socs(_DATA / "socs.yaml")


class AicBackend(KernelBackend):
    """An emulator of Cloud AI 100: float32, float16 with one rounding per op, and int8 in Glow's arithmetic."""

    name = "aic"
    title = "Cloud AI 100 (emulated)"
    default_soc = "Standard"
    static_shapes = True

    def options(self) -> tuple[Option, ...]:
        """Settings of the compiler."""
        half = "float nodes compute in float16: one rounding per op"
        return (Option("convert_to_fp16", bool, False, help=half, effect="results"),)

    def socs(self) -> tuple[Soc, ...]:
        return _socs()

    def prepare(self, graph: Graph) -> Graph:
        return remove_dead_nodes(fold_affine(fold_constants(graph)))

    def types(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Mapping[str, str]:
        """By the encodings; what is float computes in float16 with ``convert_to_fp16``."""
        found = super().types(graph, encodings, soc)
        return {n: "float16" if t == "float32" and self.settings["convert_to_fp16"] else t for n, t in found.items()}

    def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
        return {}
