"""KernelBackend: a backend made of op constraints and numpy kernels."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np

from npukit.backend.base import Backend
from npukit.backend.call import Accumulator, Kernel
from npukit.backend.constants import Constants
from npukit.backend.fast import Lowering
from npukit.backend.interpreter import Interpreter
from npukit.backend.ort import is_installed
from npukit.backend.session import Program, Session
from npukit.backend.soc import Soc
from npukit.encoding import Array, Encoding, container
from npukit.graph import Graph, Node


class KernelBackend(Backend):
    """A backend whose ops are numpy kernels. Supply ``kernels`` and, when the chip rounds in its own way, ``requantize``."""

    chooses_types = True

    @abc.abstractmethod
    def kernels(self, soc: Soc) -> Mapping[str, Kernel]:
        """Op type -> kernel on this SoC; the key of an op outside the default domain has the domain in front (``Node.key``).

        A node without a kernel is refused, unless ``Program.types`` gives it a float type: then the ONNX reference computes it.
        """

    def rounded_inputs(self, node: Node) -> int:
        """How many of a node's first inputs are rounded when it is a float island; positions, say, are not. By default all are."""
        return len(node.inputs)

    def lowerings(self, soc: Soc) -> Mapping[str, Lowering]:
        """Op type -> how to write nodes that compute in integers in ONNX, with the results of the kernel bit for bit."""
        return {}

    def float_lowerings(self, soc: Soc) -> Mapping[str, Lowering]:
        """The same for nodes that compute in a float type (``FastCall.type``), float islands among them."""
        return {}

    def supports(self, op: str, domain: str = "", soc: Soc | None = None) -> bool:
        return (f"{domain}.{op}" if domain else op) in self.kernels(soc or self.soc())

    def requantize(self, acc: Accumulator, out: Encoding, soc: Soc) -> Array:
        """Codes of ``out`` for an accumulator: rounded to float32, one float32 factor, round half to even, saturate.

        8 bits are multiplied, the arithmetic of ONNX QLinearConv (https://onnx.ai/onnx/operators/onnx__QLinearConv.html) as
        onnxruntime does it; wider ones are divided, as ONNX QuantizeLinear of the sum is. A chip that rounds differently overrides
        it. Grids of more than 16 bits are computed in float64.
        """
        work: Any = np.float32 if out.bits <= 16 else np.float64
        ratio = np.asarray(acc.scale, np.float64) / out.steps.astype(np.float64)
        if out.bits <= 8:
            codes = np.asarray(np.multiply(acc.values, ratio.astype(np.float32), dtype=work))
        else:
            codes = np.asarray(np.divide(acc.values, (1 / ratio).astype(np.float32), dtype=work))
        np.rint(codes, out=codes)
        codes += out.zeros.astype(work)
        np.clip(codes, out.qmin, out.qmax, out=codes)
        return codes.astype(container(out))

    def compile(self, graph: Graph, encodings: Mapping[str, Encoding], soc: Soc) -> Program:
        types = self.types(graph, encodings, soc)
        return Program(self.name, soc, graph, dict(encodings), Constants(graph, encodings), types=types)

    def open(self, program: Program, kernels: str = "") -> Session:
        """Load a program; ``kernels`` is one of FORMS.

        "numpy" runs every node on its kernel, "fast" lowered nodes on ONNX Runtime; by default the fast form is taken when
        onnxruntime is installed. Both give the same results. Raises PluginError when onnxruntime is needed and not installed,
        ConstraintError when a node that computes in integers has no kernel.
        """
        return Interpreter(self, program, fast=kernels == "fast" or (not kernels and is_installed()))


FORMS = ("numpy", "fast")
"""The forms in which a KernelBackend runs a program."""
